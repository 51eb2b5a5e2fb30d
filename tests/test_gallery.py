"""The gallery: the worst and the median slices, each once, as pictures and in a list."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Volume
from PIL import Image
from test_module import data_of, small_unet, trainer_of

from mrirecon.data.conditions import Noise
from mrirecon.errors import ConfigError
from mrirecon.evaluation.gallery import check_gallery, chosen, item_of, write_gallery
from mrirecon.evaluation.scoring import run_passes
from mrirecon.metrics.scores import ALL_SCORES
from mrirecon.training.module import ReconModule


def test_the_worst_and_the_median_slices_are_shown_and_listed(tmp_path: Path, volume: Volume) -> None:
    for number, num_slices in enumerate((4, 5)):
        volume(tmp_path / "set" / "singlecoil_val" / f"v{number}.h5", num_slices, seed=number)
    data, trainer = data_of(tmp_path / "set", conditions=[Noise(0.5)]), trainer_of(tmp_path)
    module = ReconModule(small_unet())
    passes = run_passes(trainer, module, data, baseline=True)
    entries = write_gallery(tmp_path / "gallery", trainer, module, passes, 2)
    assert json.loads((tmp_path / "gallery" / "gallery.json").read_text()) == entries

    rows = [(row, data.scored().volume(row["volume"])[0].name) for row in passes[0].results["volumes"]]
    ssim = {(name, n): value for row, name in rows for n, value in enumerate(row["slices"]["ssim"])}
    ranked = sorted(ssim, key=ssim.__getitem__)
    shown = {kind: [(e["name"], e["slice_num"]) for e in entries if e["kind"] == kind and not e["condition"]]
             for kind in ("worst", "median")}  # fmt: skip
    assert shown == {"worst": ranked[:2], "median": ranked[3:5]}
    assert [entry["condition"] for entry in entries] == ["", "", "", "", "noise 0.5"]
    for entry in entries[:4]:
        assert entry["ssim"] == ssim[entry["name"], entry["slice_num"]]
        assert entry["zero_filled_ssim"] != entry["ssim"]
    assert set(entries[0]) == {
        "file", "kind", "name", "slice_num", "mask", "condition", "acquisition", "acceleration", "ssim",
        "zero_filled_ssim",
    }  # fmt: skip
    for entry in entries:
        with Image.open(tmp_path / "gallery" / entry["file"]) as picture:
            assert picture.width > 4 * 192
            assert np.asarray(picture).std() > 10


def test_slices_are_shown_once_where_there_are_few(tmp_path: Path, folder: Path) -> None:
    data = data_of(folder)
    (one,) = run_passes(trainer_of(tmp_path), ReconModule(small_unet()), data)
    found = [(scored.volume, scored.slice_num) for _, scored in chosen(one, 3)]
    assert len(found) == len(set(found)) == 4
    assert [kind for kind, _ in chosen(one, 3)] == ["worst", "worst", "worst", "median"]
    assert item_of(one.dataset, 1, 1) == 3


def test_slices_cannot_be_chosen_without_ssim() -> None:
    check_gallery(4, ALL_SCORES)
    check_gallery(0, ["psnr"])
    with pytest.raises(ConfigError, match="add ssim to scores"):
        check_gallery(4, ["psnr"])
    with pytest.raises(ConfigError, match="gallery=-1"):
        check_gallery(-1, ALL_SCORES)

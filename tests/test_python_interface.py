"""The Python interface: the page that shows it runs, importing takes no time, wrong arrays are refused."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Volume
from test_commands import PHANTOM, run

import mrirecon
from mrirecon.errors import ConfigError, InputError

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_s_first_example_runs_on_a_checkpoint_and_a_file(
    tmp_path: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["trainer=debug", "model.chans=4", "model.num_pool_layers=2", "hydra.run.dir=run", *PHANTOM]
    assert run(tmp_path, "train", *typed, "data.num_workers=0").returncode == 0
    volume(tmp_path / "scan.h5", 2, 3, size=(64, 48), target=(40, 40))
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(BLOCKS[0], made)
    result = made["result"]
    assert result.volume.shape == result.zero_filled.shape == (2, 40, 40)
    assert result.acceleration == 1


def test_the_page_s_second_example_beats_zero_filled(capsys: pytest.CaptureFixture[str]) -> None:
    made: dict[str, Any] = {}
    exec(BLOCKS[1], made)
    assert capsys.readouterr().out == "torch.Size([1, 96, 96]) 2.4x\n"
    truth = torch.from_numpy(np.sqrt((np.abs(made["image"] * made["coils"]) ** 2).sum(0)))
    errors = [float((made["result"].__dict__[name][0] - truth).norm()) for name in ("volume", "zero_filled")]
    assert errors[0] < 0.3 * errors[1]


def test_every_public_name_is_there_and_in_the_page() -> None:
    for name in mrirecon.__all__:
        assert callable(getattr(mrirecon, name))
        assert f"`{name}" in PAGE
    with pytest.raises(AttributeError, match="no attribute 'recnostruct'"):
        mrirecon.recnostruct  # noqa: B018


def test_importing_the_package_imports_nothing_large() -> None:
    code = "import sys, mrirecon; print(sorted({'torch', 'numpy', 'hydra', 'pytorch_lightning'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_scan_of_arrays_is_the_scan_of_its_file(tmp_path: Path, volume: Volume) -> None:
    from_file = mrirecon.read(volume(tmp_path / "a.h5", 2, 3, size=(64, 48)))
    from_array = mrirecon.scan_of(from_file.kspace, name="a.h5")
    model = mrirecon.load("cg_sense")
    images = [mrirecon.reconstruct(model, scan, device="cpu").volume for scan in (from_file, from_array)]
    assert torch.equal(*images)


@pytest.mark.parametrize(
    ("kspace", "changes", "message"),
    [
        (np.ones((3, 16, 16)), {}, "complex"),
        (np.ones((16, 16), np.complex64), {}, r"\(slice, coil, h, w\)"),
        (np.ones((1, 3, 16), np.complex64), {}, "at least 7"),
        (np.full((1, 16, 16), np.nan, np.complex64), {}, "NaN"),
        (np.ones((1, 16, 16), np.complex64), {"mask": np.ones(15)}, r"\(16,\)"),
        (np.ones((1, 16, 16), np.complex64), {"mask": np.zeros(16)}, "0 samples"),
    ],
)
def test_arrays_that_are_no_scan_are_refused(kspace: np.ndarray, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mrirecon.scan_of(kspace, **changes)


def test_a_model_that_has_to_be_trained_needs_a_checkpoint() -> None:
    with pytest.raises(ConfigError, match="has to be trained first"):
        mrirecon.load("unet")
    with pytest.raises(ConfigError, match="there is no such file"):
        mrirecon.load("nowhere.ckpt")

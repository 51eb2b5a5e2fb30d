"""Exported models: the same numbers as the checkpoint, every damage found, nothing overwritten, a card that is true."""

import errno
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from test_commands import assert_refused, metrics, run

from mrirecon.config.compose import instantiate
from mrirecon.errors import ConfigError, InputError
from mrirecon.inference import export
from mrirecon.inference.checkpoints import load_weights, read_checkpoint
from mrirecon.inference.model_card import model_card
from mrirecon.models.image_domain import unet

TINY = {"chans": 2, "num_pool_layers": 1, "drop_prob": 0.0, "norm": "batch", "num_groups": None, "clamp": 6.0}
CONFIG: dict[str, Any] = {"model": {"_target_": "mrirecon.models.image_domain.unet", **TINY}, "seed": 0}
PHANTOM = [
    "data.writer.num_train=6", "data.writer.num_val=2", "data.writer.num_test=1", "data.writer.num_slices=3",
    "data.writer.num_coils=2", "data.writer.matrix_sizes=[[64,64],[72,80]]",
]  # fmt: skip
FILES = [export.CARD, export.CONFIG, export.WEIGHTS]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a phantom set, a run of one epoch in `run`, and its best checkpoint exported to `shared`."""
    cwd = tmp_path_factory.mktemp("work")
    done = run(
        cwd, "train", "model.chans=4", "model.num_pool_layers=2", "model.norm=batch", "trainer.max_epochs=1",
        "data.num_workers=0", "hydra.run.dir=run", *PHANTOM,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run(cwd, "export", "ckpt=run/checkpoints/best.ckpt", "output=shared")
    assert done.returncode == 0, done.stderr
    return cwd


def tiny_export(
    folder: Path, config: dict[str, Any] | None = None, spoil: Callable[[Any], None] = lambda _: None
) -> Path:
    """An exported folder of a tiny network whose weights `spoil` may have changed, with hashes that are right."""
    model = unet(**TINY)
    spoil(model.state_dict())
    checkpoint = {"state_dict": {f"model.{name}": value for name, value in model.state_dict().items()}, "epoch": 0}
    source = folder.with_name(f"{folder.name}.ckpt")
    source.write_bytes(b"stands for a checkpoint")
    record, weights = export.pack(checkpoint, config or CONFIG, source)
    export.write(folder, record, weights, "card\n")
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return tiny_export(tmp_path_factory.mktemp("tiny") / "shared")


# --- the same numbers ----------------------------------------------------------------------------------------------


def test_weights_and_config_are_those_of_the_checkpoint(work: Path) -> None:
    checkpoint, exported = read_checkpoint(work / "run/checkpoints/best.ckpt"), read_checkpoint(work / "shared")
    assert exported["config"] == {key: checkpoint["config"][key] for key in exported["config"]}
    assert {"data", "mask", "model", "optimizer", "seed"} <= set(exported["config"])
    assert not {"callbacks", "logger", "run_dir"} & set(exported["config"])
    assert set(exported["state_dict"]) == {key for key in checkpoint["state_dict"] if key.startswith("model.")}
    for name, value in exported["state_dict"].items():
        assert value.dtype == checkpoint["state_dict"][name].dtype
        assert torch.equal(value, checkpoint["state_dict"][name])


def test_evaluating_the_folder_gives_the_same_scores_to_the_last_digit(work: Path) -> None:
    done = run(work, "evaluate", "ckpt=shared", "output=eval")
    assert done.returncode == 0, done.stderr
    ours, theirs = metrics(work / "eval"), metrics(work / "run")
    assert all(ours[key] == theirs[key] for key in ("ssim", "psnr", "nmse", "volumes", "conventions"))
    record = json.loads((work / "shared" / export.CONFIG).read_text())
    assert ours["made_by"]["sha256"] == record["weights"]["sha256"]
    assert record["checkpoint"]["sha256"] == theirs["made_by"]["sha256"]


def test_reconstructing_with_the_folder_gives_the_same_volume(work: Path) -> None:
    typed = ["input=data/phantom/multicoil_val", "mask=random_4x"]
    for ckpt, output in (("run/checkpoints/best.ckpt", "r1"), ("shared", "r2"), ("shared/model.safetensors", "r3")):
        done = run(work, "reconstruct", f"ckpt={ckpt}", f"output={output}", *typed)
        assert done.returncode == 0, done.stderr
    for path in (work / "r1").glob("*.h5"):
        volumes = []
        for output in ("r1", "r2", "r3"):
            with h5py.File(work / output / path.name) as file:
                volumes.append(file["reconstruction"][()])
        assert np.array_equal(volumes[0], volumes[1])
        assert np.array_equal(volumes[0], volumes[2])


def test_the_card_s_python_lines_give_the_model(work: Path) -> None:
    card = (work / "shared" / export.CARD).read_text()
    scan = next((work / "data/phantom").glob("multicoil_val/*.h5"))
    lines = (
        card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(work / "shared")).replace("SCAN", str(scan))
    )
    names: dict[str, Any] = {}
    exec(lines, names)
    weights = read_checkpoint(work / "run/checkpoints/best.ckpt")["state_dict"]
    assert all(torch.equal(value, weights[f"model.{name}"]) for name, value in names["model"].state_dict().items())
    assert not names["model"].training
    assert torch.isfinite(names["images"]).all()


def test_strided_and_tied_weights_come_back(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    tensors = {"a": base.reshape(3, 4).T, "b": base[:6], "c": base[:6]}
    source = tmp_path / "c.ckpt"
    source.write_bytes(b"x")
    record, weights = export.pack({"state_dict": {f"model.{k}": v for k, v in tensors.items()}}, CONFIG, source)
    export.write(tmp_path / "out", record, weights, "card")
    back = export.read(tmp_path / "out")["state_dict"]
    assert all(torch.equal(back[f"model.{name}"], value) for name, value in tensors.items())


# --- the card ------------------------------------------------------------------------------------------------------


def test_the_card_says_what_is_known(work: Path) -> None:
    card, scores = (work / "shared" / export.CARD).read_text(), metrics(work / "run")
    model = instantiate("model", read_checkpoint(work / "shared")["config"]["model"])
    num_parameters = sum(p.numel() for p in model.parameters())
    for words in (
        f"| parameters | {num_parameters:,} |", "| chans | 4 |", "| norm | batch |", "simulated: numerical phantoms",
        "| training volumes | 6, 3 slices each |", "RandomMaskFunc: accelerations [4]", "| epochs | ",
        f"| 2 | {np.mean([v['acceleration'] for v in scores['volumes']]):.2f} | {scores['ssim']:.4f} |",
        f"{scores['zero_filled']['psnr']:.2f}", scores["conventions"]["ssim"], "split val", scores["made_by"]["sha256"],
        "Not for clinical use", "## Licence\n\nNone is stated", "ckpt=FOLDER",
    ):  # fmt: skip
        assert words in card, words
    assert not card.startswith("---"), "front matter would claim what is not known"
    assert str(work) not in card


def test_scores_of_other_weights_are_not_put_on_the_card(work: Path, tmp_path: Path) -> None:
    report = metrics(work / "run")
    report["made_by"]["sha256"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(report))
    typed = ["ckpt=run/checkpoints/best.ckpt", f"output={tmp_path / 'out'}"]
    assert_refused(run(work, "export", *typed, f"scores={tmp_path / 'other.json'}"), 3, "other.json", "other weights")
    (tmp_path / "odd.json").write_text('{"volumes": [1]}')
    assert_refused(run(work, "export", *typed, f"scores={tmp_path / 'odd.json'}"), 3, "odd.json", "metrics.json")
    assert_refused(run(work, "export", *typed, "scores=no.json"), 2, "no.json")
    assert not (tmp_path / "out").exists()
    # A checkpoint away from its run has no scores, which is said.
    shutil.copy(work / "run/checkpoints/best.ckpt", tmp_path / "c.ckpt")
    done = run(work, "export", f"ckpt={tmp_path / 'c.ckpt'}", f"output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "no scores" in done.stdout
    assert "None are recorded for these weights" in (tmp_path / "out" / export.CARD).read_text()


def test_scores_made_from_the_exported_folder_count_and_show_every_mask(work: Path, tmp_path: Path) -> None:
    assert run(work, "evaluate", "ckpt=shared", "output=e8", "mask=random_4x_8x").returncode == 0
    typed = ["ckpt=run/checkpoints/best.ckpt", f"output={tmp_path / 'out'}", "scores=e8/metrics.json"]
    done = run(work, "export", *typed)
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "out" / export.CARD).read_text()
    rows = [line for line in card.splitlines() if line.startswith("| these weights |")]
    names = {volume["mask"] for volume in metrics(work / "e8")["volumes"]}
    assert len(names) == 2
    acquisitions = {volume["acquisition"] for volume in metrics(work / "e8")["volumes"]}
    assert len(acquisitions) == 2
    assert {row.split(" | ")[1] for row in rows} == names | {f"{m}, {a}" for m in names for a in acquisitions}


def test_words_of_strangers_stay_words_in_the_card(tmp_path: Path) -> None:
    digest = "f" * 64
    volume = {"name": "v", "acquisition": "<script>", "acceleration": 4.0, "ssim": None}
    report = {
        "ssim": None, "volumes": [volume, {**volume, "acquisition": "a|b\n# Cleared"}],
        "conventions": {"ssim": "x | y\n\n# FDA"}, "made_by": {"sha256": digest, "data": "/home/someone/set"},
    }  # fmt: skip
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(report))
    found = export.find_scores(str(path), tmp_path / "c.ckpt", [digest])
    record = {
        "mrirecon": "0", "checkpoint": {"file": "c.ckpt", "sha256": digest, "num_epochs": None, "num_steps": None},
        "weights": {"file": "model.safetensors", "sha256": digest},
        "config": {**CONFIG, "data": {"root": ["/home/someone/a", "b"], "fixed_masks": True, "sample_rate": 1.0},
                   "augmentation": {"_target_": "a.Affine", "degrees": 5}},
    }  # fmt: skip
    card = model_card(record, unet(**TINY), found)
    assert "<script>" not in card
    assert "\n# " not in card
    assert "someone" not in card
    assert "| name | [a, b] |" in card
    assert "| `fixed_masks` | true |" in card
    assert "`sample_rate`" not in card
    assert "| augmentation | Affine: degrees 5 |" in card
    assert "undefined" in card
    assert "nothing is recorded of where they come from" in card


# --- damage --------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
@example(0.0, 1)  # the length of the header
@example(1 - 1e-9, 1)  # the last bit of a weight: no format would notice
def test_any_flipped_byte_of_the_weights_is_found(tiny: Path, place: float, flip: int) -> None:
    content = bytearray((tiny / export.WEIGHTS).read_bytes())
    content[int(place * len(content))] ^= flip
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(tiny / export.CONFIG, folder)
        (Path(folder) / export.WEIGHTS).write_bytes(content)
        with pytest.raises(InputError, match=r"model\.safetensors: is damaged"):
            read_checkpoint(folder)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_flipped_byte_of_the_config_is_found_or_means_the_same(tiny: Path, place: float, flip: int) -> None:
    content = bytearray((tiny / export.CONFIG).read_bytes())
    content[int(place * len(content))] ^= flip
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(tiny / export.WEIGHTS, folder)
        (Path(folder) / export.CONFIG).write_bytes(content)
        try:
            config = read_checkpoint(folder)["config"]
        except InputError:
            return
    assert config == CONFIG


@given(st.floats(0, 1, exclude_max=True), st.sampled_from([export.WEIGHTS, export.CONFIG]))
def test_a_file_cut_short_is_found(tiny: Path, place: float, name: str) -> None:
    content = (tiny / name).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        for other in (export.WEIGHTS, export.CONFIG):
            shutil.copy(tiny / other, folder)
        (Path(folder) / name).write_bytes(content[: int(place * (len(content) - 1))])  # the last newline says nothing
        with pytest.raises(InputError, match=name):
            read_checkpoint(folder)


def test_weights_that_are_no_safetensors_are_refused_even_with_the_right_hash(tmp_path: Path) -> None:
    record, _ = export.pack({"state_dict": {}}, CONFIG, _some_file(tmp_path))
    for number, content in enumerate([b"", b"\xff" * 64, (2).to_bytes(8, "little") + b"[]", _bad_dtype()]):
        folder = tmp_path / str(number)
        forged = {**record, "weights": {"num_bytes": len(content), "sha256": export.sha256(content).hexdigest()}}
        _write_forged(folder, forged, content)
        with pytest.raises(InputError, match="not a readable safetensors file"):
            read_checkpoint(folder)


def _bad_dtype() -> bytes:
    header = json.dumps({"w": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0"


def _some_file(tmp_path: Path) -> Path:
    path = tmp_path / "some.ckpt"
    path.write_bytes(b"x")
    return path


def _write_forged(folder: Path, record: dict[str, Any], weights: bytes) -> None:
    folder.mkdir()
    record = {key: value for key, value in record.items() if key != "sha256"}
    (folder / export.CONFIG).write_text(json.dumps({**record, "sha256": export._digest(record)}))
    (folder / export.WEIGHTS).write_bytes(weights)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"format": 1}', '{"format": "mrirecon export", "version": 2}', "[" * 100_000,
     '{"format": "mrirecon export", "version": 1}', " " * 2_000_000, '{"a": ' * 900 + "1" + "}" * 900],
)  # fmt: skip
def test_a_config_of_another_form_is_refused(tiny: Path, tmp_path: Path, text: str) -> None:
    shutil.copy(tiny / export.WEIGHTS, tmp_path)
    (tmp_path / export.CONFIG).write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "change", [{"config": 1}, {"weights": []}, {"config": {"a": [[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]}}]
)
def test_a_config_with_the_right_hash_but_the_wrong_entries_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    record, weights = export.pack({"state_dict": {}}, CONFIG, _some_file(tmp_path))
    _write_forged(tmp_path / "f", record | change, weights)
    with pytest.raises(InputError, match=r"config\.json"):
        read_checkpoint(tmp_path / "f")


def test_weights_that_are_not_finite_or_of_another_model_are_named(tmp_path: Path) -> None:
    def nan(state: dict[str, torch.Tensor]) -> None:
        state["network.conv.layers.0.weight"][0] = float("nan")

    folder = tiny_export(tmp_path / "nan", spoil=nan)
    with pytest.raises(InputError, match=r"network\.conv\.layers\.0\.weight has values that are not finite"):
        load_weights(unet(**TINY), folder)
    with pytest.raises(InputError, match=r"network\.\S+ has shape .* expected"):
        load_weights(unet(**{**TINY, "chans": 3}), tiny_export(tmp_path / "other"))


# --- as a user meets it --------------------------------------------------------------------------------------------


def test_damage_is_one_message_and_an_exit_code(work: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(work / "shared", tmp_path / "damaged")
    content = bytearray((damaged / export.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (damaged / export.WEIGHTS).write_bytes(content)
    assert_refused(run(work, "evaluate", f"ckpt={damaged}"), 3, "damaged/model.safetensors", "sha256")
    assert_refused(run(work, "reconstruct", f"ckpt={damaged}", "input=x"), 3, "damaged/model.safetensors")
    (damaged / export.CONFIG).unlink()
    assert_refused(run(work, "evaluate", f"ckpt={damaged}"), 3, "config.json", "missing")
    (damaged / export.WEIGHTS).unlink()
    assert_refused(run(work, "evaluate", f"ckpt={damaged}"), 2, f"ckpt={damaged}", "export.py")
    assert_refused(run(work, "evaluate", "ckpt=shared", "model.chans=8"), 3, "shared", "has shape")
    assert_refused(run(work, "evaluate", "ckpt=run"), 2, "ckpt=run")


@pytest.mark.parametrize("target", ["os.system", "builtins.open", "torch.hub.load", "mrirecon.models.unet.torch"])
def test_a_hostile_config_is_refused_before_anything_is_called(work: Path, tmp_path: Path, target: str) -> None:
    hostile = {**CONFIG, "model": {"_target_": target, "command": "touch pwned"}}
    folder = tiny_export(tmp_path / "hostile", hostile)
    assert_refused(run(work, "evaluate", f"ckpt={folder}"), 2, target)
    assert not (work / "pwned").exists()


def test_an_interpolation_in_a_config_is_refused(work: Path, tmp_path: Path) -> None:
    folder = tiny_export(tmp_path / "f", {"model": {**CONFIG["model"], "norm": "${oc.env:HOME}"}})
    assert_refused(run(work, "evaluate", f"ckpt={folder}"), 3, "interpolation")


def test_an_exported_model_cannot_be_trained_on_or_exported_again(work: Path) -> None:
    assert_refused(run(work, "train", "ckpt=shared", "trainer.max_epochs=9"), 2, "shared", "optimizer", "last.ckpt")
    assert_refused(run(work, "export", "ckpt=shared", "output=twice"), 2, "ckpt=shared")
    assert_refused(run(work, "export", "ckpt=no.ckpt", "output=twice"), 2, "no.ckpt")
    assert_refused(run(work, "export", "output=twice"), 2, "ckpt=...")
    assert not (work / "twice").exists()


def test_a_checkpoint_with_weights_that_are_not_finite_or_a_config_of_another_kind_is_not_exported(
    work: Path, tmp_path: Path
) -> None:
    checkpoint = torch.load(work / "run/checkpoints/best.ckpt", weights_only=True)
    typed = [f"ckpt={tmp_path / 'c.ckpt'}", f"output={tmp_path / 'out'}"]
    for config in ({}, {"model": {"a": torch.zeros(1)}}, {"model": {1: 2}}):
        torch.save({**checkpoint, "config": config}, tmp_path / "c.ckpt")
        assert_refused(run(work, "export", *typed), 3, "c.ckpt", "plain data")
    hostile = {"model": {"_target_": "os.system"}}
    torch.save({**checkpoint, "config": hostile}, tmp_path / "c.ckpt")
    assert_refused(run(work, "export", *typed), 2, "os.system")
    next(value for name, value in checkpoint["state_dict"].items() if "weight" in name)[0] = float("inf")
    torch.save(checkpoint, tmp_path / "c.ckpt")
    assert_refused(run(work, "export", *typed), 3, "c.ckpt", "not finite")
    assert not (tmp_path / "out").exists()


# --- writing -------------------------------------------------------------------------------------------------------


def test_a_folder_with_other_content_is_never_overwritten(work: Path, tmp_path: Path) -> None:
    ckpt = "ckpt=run/checkpoints/best.ckpt"
    before = {name: (work / "shared" / name).read_bytes() for name in FILES}
    assert run(work, "export", ckpt, "output=shared").returncode == 0  # the same again is no harm
    (tmp_path / "notes.txt").write_text("mine")
    assert_refused(run(work, "export", ckpt, f"output={tmp_path}"), 2, "notes.txt")
    assert_refused(run(work, "export", ckpt, "output=run"), 2, "output=run")
    edited = shutil.copytree(work / "shared", tmp_path / "edited")
    (edited / export.CARD).write_text("my own words")
    assert_refused(run(work, "export", ckpt, f"output={edited}"), 2, "README.md")
    assert (edited / export.CARD).read_text() == "my own words"
    assert_refused(run(work, "export", ckpt, "output=/proc/x"), 2, "/proc/x")
    assert {name: (work / "shared" / name).read_bytes() for name in FILES} == before


def test_an_interrupted_export_is_refused_as_a_model_and_can_be_finished(work: Path, tmp_path: Path) -> None:
    (tmp_path / export.WEIGHTS).write_bytes((work / "shared" / export.WEIGHTS).read_bytes())
    (tmp_path / ".0123456789abcdef.tmp").write_bytes(b"what a killed process leaves")
    with pytest.raises(InputError, match=r"config\.json: is missing"):
        read_checkpoint(tmp_path)
    assert run(work, "export", "ckpt=run/checkpoints/best.ckpt", f"output={tmp_path}").returncode == 0
    assert all((tmp_path / name).read_bytes() == (work / "shared" / name).read_bytes() for name in FILES)


def test_a_full_disk_leaves_no_file_and_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    record, weights = export.pack({"state_dict": {}}, CONFIG, _some_file(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(ConfigError, match=r"output=.*No space left"):
            export.write(tmp_path / "out", record, weights, "card")
    assert list((tmp_path / "out").iterdir()) == []
    export.write(tmp_path / "out", record, weights, "card")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)

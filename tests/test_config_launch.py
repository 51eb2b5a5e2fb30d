"""The config of a command with a checkpoint is that of its run, changed as if everything had been typed at once."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import compose_config
from omegaconf import OmegaConf
from test_commands import assert_refused, run
from test_hostile_configs import TAKEN

from mrirecon.config import launch
from mrirecon.config.compose import plain
from mrirecon.config.options import options_of
from mrirecon.errors import ConfigError
from mrirecon.inference.checkpoints import read_checkpoint

ORIGINAL = [
    "data=phantom_small", "data.batch_size=3", "data.num_cols=[64]", "mask=equispaced_8x", "model=unet",
    "model.chans=5", "model.norm=group", "optimizer=rmsprop", "optimizer.lr=0.007", "scheduler=step", "loss=l1_ssim",
    "augmentation=affine", "seed=3", "target_clamp=5.0", "trainer=debug", "trainer.max_epochs=7",
]  # fmt: skip
NEEDED = {"train": ["run_dir=x"], "evaluate": ["output=x"], "reconstruct": ["output=x", "input=x"]}


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("launch") / "run.ckpt"
    torch.save({"config": plain(compose_config("train", *ORIGINAL, "run_dir=y")), "state_dict": {}}, path)
    return path


def launched(
    monkeypatch: pytest.MonkeyPatch, folder: Path, command: str, ckpt: Path, *typed: str
) -> list[dict[str, Any]]:
    """The configs that a command runs with."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.run.dir=run", "hydra.sweep.dir=sweep"]
    monkeypatch.setattr(sys, "argv", [f"{command}.py", f"ckpt={ckpt}", *NEEDED[command], *quiet, *typed])
    request = launch.read_request(command, TAKEN[command], lambda path: read_checkpoint(path)["config"])
    configs: list[dict[str, Any]] = []
    launch.run(request, lambda cfg: configs.append(plain(launch.checked(request, cfg))))
    return configs


def expected(command: str, ckpt: Path, *typed: str) -> dict[str, Any]:
    """Everything typed: the choices of the run, but for groups that are chosen anew, then the overrides."""
    chosen = {text.lstrip("~").partition("=")[0] for text in typed if "." not in text.partition("=")[0]}
    kept = [text for text in ORIGINAL if text.partition("=")[0].partition(".")[0] in {*TAKEN[command]} - chosen]
    return plain(compose_config(command, *kept, f"ckpt={ckpt}", *NEEDED[command], *typed))


CHANGES = {
    "model": [
        [], ["model=zero_filled"], ["model.chans=6"], ["model.chans=6", "model.norm=none", "model.clamp=null"],
        ["+model.x=1"], ["++model.y=[1,2]"], ["~model.clamp"],
    ],
    "data": [
        ["mask=random_4x"], ["mask.accelerations=[2]"], ["~mask"], ["+data.x=1"], ["~data.writer"], ["data=phantom"],
        ["data.writer.num_val=1", "data.root=elsewhere"], ["data.writer=null"], ["data.num_cols=null"],
    ],
    "optimizer": [
        ["optimizer=adam"], ["optimizer.lr=1"], ["scheduler=constant"], ["trainer.max_epochs=9"], ["seed=1"],
        ["loss=l1"],
    ],
}  # fmt: skip
"""What is typed beside a checkpoint, by a group that the command takes from it."""


@pytest.mark.parametrize(
    ("command", "typed"),
    [(command, typed) for command in TAKEN for key in CHANGES if key in TAKEN[command] for typed in CHANGES[key]],
    ids=str,
)
def test_the_config_of_a_checkpoint_is_changed_as_if_it_were_typed(
    command: str, typed: list[str], ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert launched(monkeypatch, tmp_path, command, ckpt, *typed) == [expected(command, ckpt, *typed)]


def test_no_mask_and_several_masks(ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched(monkeypatch, tmp_path, "evaluate", ckpt, "mask=null") == [expected("evaluate", ckpt, "~mask")]
    assert launched(monkeypatch, tmp_path, "evaluate", ckpt, "mask=[random_4x,random_8x]") == [
        expected("evaluate", ckpt, "masks=[random_4x,random_8x]")
    ]


def test_an_experiment_stands_above_the_checkpoint(ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "fastmri_unet_knee_singlecoil"
    (found,) = launched(monkeypatch, tmp_path, "train", ckpt, f"experiment={name}", "model.chans=6")
    content = OmegaConf.load(options_of("experiment")[name])
    run_config = {key: value for key, value in expected("train", ckpt).items() if key in TAKEN["train"]}
    wanted = plain(OmegaConf.merge(run_config, {k: v for k, v in content.items() if k != "defaults"}))  # type: ignore[arg-type]
    wanted["model"]["chans"] = 6
    assert {key: value for key, value in found.items() if key in TAKEN["train"]} == wanted


def test_a_multirun_varies_a_key_of_the_checkpoint(ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["model.chans=2,4", "model.norm=none"]
    assert launched(monkeypatch, tmp_path, "evaluate", ckpt, *typed, "-m") == [
        expected("evaluate", ckpt, f"model.chans={chans}", typed[1]) for chans in (2, 4)
    ]
    with pytest.raises(ConfigError, match=r"model\.chans=2,4: .* -m"):
        launched(monkeypatch, tmp_path, "evaluate", ckpt, *typed)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("model.chanz=1", "model.chanz: .*did you mean model.chans"), ("model.chans=many", "expected a whole number"),
        ("+model.chans=1", "leave out the +"), ("~model.none", "model.none: there is no such key"),
        ("model.chans.x=1", "model.chans.x"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_group_of_the_checkpoint_is_explained(
    typed: str, words: str, ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=words.replace("+", r"\+")):
        launched(monkeypatch, tmp_path, "evaluate", ckpt, typed)


def test_the_record_of_a_run_holds_the_merged_config(
    ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = launched(monkeypatch, tmp_path, "evaluate", ckpt, "model.chans=6", "split=test")
    record = OmegaConf.load(tmp_path / "run/.hydra/config.yaml")
    assert OmegaConf.to_container(record) == found
    assert {"model.chans=6", "split=test"} <= {*OmegaConf.load(tmp_path / "run/.hydra/overrides.yaml")}


def test_cfg_shows_the_merged_config(
    ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launched(monkeypatch, tmp_path, "evaluate", ckpt, "--cfg", "job", "model.chans=6") == []
    shown = OmegaConf.to_container(OmegaConf.create(capsys.readouterr().out))
    assert shown == expected("evaluate", ckpt, "model.chans=6")


def test_trust_is_typed_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "theirs.ckpt"
    config = plain(compose_config("train", *ORIGINAL, "run_dir=y"))
    config |= {"model": {"_target_": "somebody.Net"}, "trust": ["somebody"]}
    torch.save({"config": config, "state_dict": {}}, theirs)
    for typed in ([], ["trust=[other]"], ["trust=[]"]):
        with pytest.raises(ConfigError, match=r"model\._target_.* add trust=\[(other,)?somebody\]"):
            launched(monkeypatch, tmp_path, "evaluate", theirs, *typed)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (found,) = launched(monkeypatch, tmp_path, "evaluate", theirs, "trust=[somebody]")
    assert found["model"] == {"_target_": "somebody.Net"}


# --- as a user meets it --------------------------------------------------------------------------------------------


def test_a_yaml_cannot_trust(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\ntrust: [os]\nmodel: {_target_: os.system}\n")
    done = run(tmp_path, "train", f"--config-dir={tmp_path}", "experiment=mine")
    assert_refused(done, 2, "trust", "command line")


def test_null_takes_away_what_an_experiment_chose(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults: [{override /augmentation: affine}]\n"
    (tmp_path / "experiment/moving.yaml").write_text(text)
    typed = [f"--config-dir={tmp_path}", "experiment=moving", "--cfg", "job"]
    assert "augmentation" in OmegaConf.create(run(tmp_path, "train", *typed).stdout)
    assert "augmentation" not in OmegaConf.create(run(tmp_path, "train", *typed, "augmentation=null").stdout)


def test_a_run_of_before_the_move_evaluates(tmp_path: Path) -> None:
    small = ["data=phantom_small", "data.writer.num_train=1", "data.writer.num_val=1", "data.writer.num_test=1"]
    tiny = ["model.chans=2", "model.num_pool_layers=1", "trainer=debug", "mask=poisson2d_4x", "hydra.run.dir=run"]
    done = run(tmp_path, "train", *small, *tiny)
    assert done.returncode == 0, done.stderr
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    config = checkpoint["config"]
    config["data"]["_target_"] = "mrirecon.data.datamodule.ReconDataModule"
    config["data"]["writer"]["_target_"] = "mrirecon.data.phantom_set.PhantomSet"
    config["mask"]["_target_"] = "mrirecon.data.patterns.Poisson2d"
    torch.save(checkpoint, tmp_path / "old.ckpt")
    done = run(tmp_path, "evaluate", "ckpt=old.ckpt")
    assert done.returncode == 0, done.stderr
    config["mask"]["_target_"] = "mrirecon.data.patterns_of_old.Poisson2d"
    torch.save(checkpoint, tmp_path / "older.ckpt")
    assert_refused(run(tmp_path, "evaluate", "ckpt=older.ckpt"), 2, "mask._target_", "patterns_of_old")

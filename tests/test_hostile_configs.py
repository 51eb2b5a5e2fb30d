"""A checkpoint of somebody else: whatever its config says, nothing is called, and one message names the key."""

import json
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import compose_config
from test_commands import assert_refused, run
from test_export import TINY, tiny_export

from mrirecon.config import launch
from mrirecon.config.allowlist import check_foreign, check_size
from mrirecon.config.compose import plain
from mrirecon.errors import ConfigError, InputError
from mrirecon.inference import export
from mrirecon.inference.checkpoints import read_checkpoint
from mrirecon.inference.continuation import check_continues

NUMBERS = ("seed", "target_clamp")
TAKEN = {
    "train": (
        "data", "mask", "augmentation", "splitting", "model", "loss", "optimizer", "scheduler", "trainer", *NUMBERS,
    ),
    "evaluate": ("data", "mask", "model"),
    "reconstruct": ("model",),
}  # fmt: skip
CASES = [(command, group) for command, groups in TAKEN.items() for group in groups]
REFUSED = (ConfigError, InputError)


def honest() -> dict[str, Any]:
    """The config of a run, with a choice in every group."""
    return deepcopy(_composed())


@cache
def _composed() -> dict[str, Any]:
    typed = ["data=phantom_small", "augmentation=affine", "splitting=columns", "target_clamp=6", "run_dir=x"]
    return plain(compose_config("train", *typed))


def _as_checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    torch.save({"config": config, "state_dict": {}, "epoch": 0}, folder / "theirs.ckpt")
    return folder / "theirs.ckpt"


def _as_export(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "source").write_bytes(b"stands for a checkpoint")
    export.write(folder / "theirs", *export.pack({"state_dict": {}}, config, folder / "source"), "card")
    return folder / "theirs"


def _check(node: Any, group: str) -> None:
    check_size({group: node})
    check_foreign(node, group)


FORMS: dict[str, Callable[[Path, dict[str, Any]], Path]] = {"checkpoint": _as_checkpoint, "export": _as_export}


def read(
    monkeypatch: pytest.MonkeyPatch, folder: Path, command: str, ckpt: Path, *typed: str
) -> dict[str, dict[str, Any]]:
    """What a command takes of a checkpoint."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"{command}.py", f"ckpt={ckpt}", *typed])
    return launch.read_request(command, TAKEN[command], lambda path: read_checkpoint(path)["config"]).groups


def attacks(marker: Path) -> dict[str, Any]:
    """What a group holds besides its settings; JSON can hold it."""
    call = {"_target_": "os.system", "command": f"touch {marker}"}
    handler = {"()": "subprocess.Popen", "args": ["touch", str(marker)]}
    deep: Any = 1
    for _ in range(17):
        deep = {"a": deep}
    return {
        "target": call,
        "target in a key": {"a": call},
        "target in lists": {"a": [[1, call]]},
        "target of another group": {"a": {"_target_": "pytorch_lightning.loggers.TensorBoardLogger", "save_dir": "/"}},
        "target by unicode": {"a": {**call, "_target_": "ｏs.system"}},
        "several targets": {"a": {**call, "_target_": ["os.system"]}},
        "target by interpolation": {"a": {**call, "_target_": "${oc.env:HOME}"}},
        "function of a module of ours": {"a": {"_target_": "mrirecon.synthetic.written_set._clear_folders"}},
        "unnamed part of ours": {"a": {"_target_": "mrirecon.models.unet.torch.hub.load"}},
        "defaults": {"defaults": [{"/data@_global_": "checkpoint"}, "_self_"]},
        "defaults in a key": {"a": {"defaults": ["_self_"]}},
        "hydra": {"hydra": {"job_logging": {"formatters": {"x": handler}}}},
        "hydra in a list": {"a": [{"hydra": {}}]},
        "positional arguments": {"_args_": [1]},
        "recursive": {"_recursive_": False},
        "interpolation": {"a": "${hydra:runtime.cwd}"},
        "interpolation inside": {"a": "x${oc.env:HOME}y"},
        "missing": {"a": "???"},
        "package": {"x@_global_": 1},
        "package of another group": {"/data@hydra.job_logging": "x"},
        "dots": {"a.b": 1},
        "slash": {"a/b": 1},
        "dunder": {"__class__": 1},
        "no key": {"": 1},
        "deep": deep,
        "wide": {"a": list(range(20_000))},
        "long number": {"a": 2**65},
        "escape": {"a": "\x1b]0;title\x07"},
        "nothing": {"a": "x\0"},
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("command", "group"), CASES)
def test_no_group_of_a_checkpoint_can_say_more_than_this_project_writes(
    command: str, group: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, config = tmp_path / "executed", honest()
    for name, attack in attacks(marker).items():
        before = config[group] if isinstance(config[group], dict) else {}
        folder = tmp_path / name
        folder.mkdir()
        ckpt = FORMS[form](folder, {**config, group: {**before, **attack}})
        with pytest.raises(REFUSED) as refused:
            read(monkeypatch, tmp_path, command, ckpt)
        assert str(refused.value).split(" is refused")[0].startswith(("the checkpoint's config", group)), name
        assert group in str(refused.value), (name, refused.value)
        assert "\n" not in str(refused.value)
        for node in (attack, [attack]):
            with pytest.raises(REFUSED, match=group):
                _check(node, group)
    assert not marker.exists()


@pytest.mark.parametrize("group", TAKEN["train"])
def test_what_only_a_pickle_holds_is_refused(group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    itself: list[Any] = []
    itself.append(itself)
    shared: list[Any] = [1]
    for _ in range(12):
        shared = [shared] * 100
    values = [torch.zeros(2), (1, 2), {1, 2}, b"x", 1j, {1: 2}, {None: 1}, {("a",): 1}, itself, shared, torch.float32]
    for value in values:
        ckpt = _as_checkpoint(tmp_path, {**honest(), group: {"a": value}})
        with pytest.raises(InputError, match=group):
            read(monkeypatch, tmp_path, "train", ckpt)


@pytest.mark.parametrize(
    ("group", "node"), [("seed", "1"), ("seed", [1]), ("target_clamp", {"a": 1}), ("data", "phantom"), ("mask", [1])]
)
def test_a_value_in_the_place_of_a_group_is_refused(
    group: str, node: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=f"{group} is a "):
        read(monkeypatch, tmp_path, "train", _as_checkpoint(tmp_path, {**honest(), group: node}))


def test_trust_places_and_callbacks_of_a_checkpoint_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = {"trust": ["os"], "ckpt": "/x", "run_dir": "/x", "output": "/x", "callbacks": {"a": {"_target_": "os.x"}}}
    ckpt = _as_checkpoint(tmp_path, {**honest(), **theirs, "logger": {"_target_": "os.system"}, "hydra": {"a": 1}})
    assert set(read(monkeypatch, tmp_path, "train", ckpt)) == set(TAKEN["train"])
    model = {"_target_": "os.system", "command": "true"}
    ckpt = _as_checkpoint(tmp_path, {**honest(), **theirs, "model": model})
    with pytest.raises(ConfigError, match=r"model\._target_"):
        read(monkeypatch, tmp_path, "train", ckpt)


@pytest.mark.parametrize(
    "setting",
    [
        {"default_root_dir": "/x"}, {"plugins": ["x"]}, {"profiler": "simple"}, {"logger": True}, {"callbacks": []},
        {"strategy": {"_target_": "pytorch_lightning.Trainer", "default_root_dir": "/x"}},
    ],
)  # fmt: skip
def test_a_checkpoint_cannot_give_lightning_folders_or_parts(
    setting: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = honest()
    ckpt = _as_checkpoint(tmp_path, {**config, "trainer": {**config["trainer"], **setting}})
    with pytest.raises(ConfigError, match=rf"trainer\.{next(iter(setting))}: "):
        read(monkeypatch, tmp_path, "train", ckpt)
    assert "trainer" not in read(monkeypatch, tmp_path, "train", ckpt, "trainer=cpu")


SIMULATED = {"_target_": "mrirecon.synthetic.simulated_set.SimulatedSet", "output": "/x"}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"root": "/x"}, "data.root"), ({"root": "data/../../x"}, "data.root"), ({"root": ["/x"]}, "data.root"),
        ({"root": {"a": 1}}, "data.root"), ({"writer": SIMULATED}, "data.writer.output"),
        ({"sensitivities": "/x"}, "data.sensitivities"), ({"sensitivities": "x"}, "data.sensitivities"),
    ],
)  # fmt: skip
def test_a_checkpoint_writes_to_no_folder_that_nobody_chose(
    changes: dict[str, Any], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = honest()
    ckpt = _as_checkpoint(tmp_path, {**config, "data": {**config["data"], **changes}})
    for command in ("train", "evaluate"):
        with pytest.raises(ConfigError, match=f"^{key}="):
            read(monkeypatch, tmp_path, command, ckpt)
        assert read(monkeypatch, tmp_path, command, ckpt, f"{key}=mine")  # typed, it is a choice
        assert "data" not in read(monkeypatch, tmp_path, command, ckpt, "data=phantom")


def test_a_data_set_that_this_project_wrote_is_used_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, there, here = honest(), tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        folder.mkdir()
    ckpt = _as_checkpoint(tmp_path, {**config, "data": {**config["data"], "root": str(there)}})
    with pytest.raises(ConfigError, match=r"data\.root"):
        read(monkeypatch, here, "evaluate", ckpt)
    (there / "phantom.json").write_text("{}")
    assert read(monkeypatch, here, "evaluate", ckpt)["data"]["root"] == str(there)


@pytest.mark.parametrize(
    "state",
    [
        {"best_model_path": "local:///home"}, {"last_model_path": "/run/checkpoints/../../thesis.ckpt"},
        {"kth_best_model_path": "memory://x.ckpt"}, {"best_model_path": "/home"}, {"best_model_path": 1},
        {"best_model_path": "simplecache::file:///x.ckpt"}, {"best_model_path": "data:x.ckpt"},
        {"best_k_models": {"../x.ckpt": 1.0}},
    ],
)  # fmt: skip
def test_a_state_that_would_have_lightning_delete_something_is_refused(state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "theirs.ckpt"
    config = {**honest(), "ckpt": str(path)}
    torch.save({"config": config, "state_dict": {}, "epoch": 0, "callbacks": {"ModelCheckpoint{}": state}}, path)
    with pytest.raises(InputError, match=next(iter(state))):
        check_continues(config)


# --- as a user meets it --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of one epoch."""
    cwd = tmp_path_factory.mktemp("hostile")
    small = ["data=phantom_small", "data.writer.num_train=2", "data.writer.num_val=1", "data.writer.num_test=1"]
    typed = ["model.chans=2", "model.num_pool_layers=1", "trainer=debug", "scheduler=constant", "hydra.run.dir=run"]
    done = run(cwd, "train", *small, *typed)
    assert done.returncode == 0, done.stderr
    return cwd


@pytest.mark.parametrize(
    ("command", "typed"),
    [("train", []), ("evaluate", []), ("reconstruct", ["input=x"]), ("export", ["output=out"])],
)
@pytest.mark.parametrize("form", FORMS)
def test_the_commands_refuse_with_one_message_and_execute_nothing(
    command: str, typed: list[str], form: str, work: Path, tmp_path: Path
) -> None:
    if (command, form) == ("export", "export"):
        pytest.skip("an exported model is not exported again: see test_export.py")
    checkpoint = torch.load(work / "run/checkpoints/last.ckpt", weights_only=True)
    marker = tmp_path / "executed"
    for name, code, word in (("hydra", 3, "'hydra'"), ("target", 2, "os.system")):
        model = {**checkpoint["config"]["model"], **attacks(marker)[name]}
        config = {**checkpoint["config"], "model": model}
        folder = tmp_path / name
        folder.mkdir()
        ckpt = folder / "theirs.ckpt"
        if form == "export":
            ckpt = tiny_export(folder / "theirs", config)
        else:
            torch.save({**checkpoint, "config": config}, ckpt)
        assert_refused(run(work, command, f"ckpt={ckpt}", *typed), code, "model", word)
    assert not marker.exists()


def test_a_continued_run_deletes_nothing_of_the_user(work: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(work / "run/checkpoints/last.ckpt", weights_only=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("years of work")
    checkpoint["config"]["trainer"]["max_epochs"] = 2
    for state in checkpoint["callbacks"].values():
        if "best_model_path" in state:
            state["best_model_path"] = f"local://{tmp_path / 'thesis'}"
    torch.save(checkpoint, tmp_path / "theirs.ckpt")
    done = run(work, "train", f"ckpt={tmp_path / 'theirs.ckpt'}", "hydra.run.dir=continued")
    assert (tmp_path / "thesis" / "text").is_file()
    assert_refused(done, 3, "best_model_path")


@pytest.mark.parametrize("typed", ["model._target_=os.system", "+data.a={_target_:os.system}", "mask._target_=eval"])
def test_a_typed_target_that_is_not_trusted_is_refused(typed: str, work: Path) -> None:
    ckpt = f"ckpt={work / 'run/checkpoints/last.ckpt'}"
    assert_refused(run(work, "evaluate", typed, ckpt), 2, typed.split("=")[0].strip("+"), "is refused")


@pytest.mark.parametrize("group", ["model", "experiment"])
def test_a_target_of_a_config_dir_that_is_not_trusted_is_refused(group: str, work: Path, tmp_path: Path) -> None:
    (tmp_path / group).mkdir()
    node = {"_target_": "os.system", "command": f"touch {tmp_path / 'executed'}"}
    text = json.dumps(node if group == "model" else {"model": node})
    (tmp_path / group / "theirs.yaml").write_text("# @package _global_\n" * (group == "experiment") + text)
    done = run(work, "train", f"--config-dir={tmp_path}", f"{group}=theirs")
    assert_refused(done, 2, "model._target_", "os.system")
    assert not (tmp_path / "executed").exists()


def test_the_tiny_model_of_an_honest_export_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests refuse nothing that is not hostile."""
    config = {**honest(), "model": {"_target_": "mrirecon.models.image_domain.unet", **TINY}}
    for make in FORMS.values():
        for command, keys in TAKEN.items():
            folder = tmp_path / f"{make.__name__} {command}"
            folder.mkdir()
            taken = read(monkeypatch, tmp_path, command, make(folder, config))
            assert taken == {key: config[key] for key in keys}

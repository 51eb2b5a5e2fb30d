"""Every option of every group composes, builds and takes one step; a typo is refused with the nearest names."""

import importlib
import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from conftest import compose_config
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from mrirecon.build import build_datamodule, build_module, build_trainer
from mrirecon.config.allowlist import check_targets
from mrirecon.config.compose import plain
from mrirecon.config.options import CONF
from mrirecon.config.overrides import check_types, chosen_groups, explain
from mrirecon.data.datamodule import SELECTION, Loading
from mrirecon.data.reading import Reading
from mrirecon.errors import ConfigError
from mrirecon.training.losses import WeightedSum

OPTIONS = [
    (option.parent.name, option.stem)
    for option in sorted(CONF.glob("*/*.yaml"))
    if option.parent.name + option.stem != "maskfile"  # needs a file: built and refused in test_masks.py
    if option.parent.name != "study"  # no part of a run: read in test_study.py
    # These have nothing to train: refused in test_module.py, scored in test_commands.py and test_lambda_search.py.
    if option.stem not in ("zero_filled", "tv", "wavelet", "cg_sense")
    # Without a target, by a model that predicts k-space: trained in test_splitting.py.
    if option.parent.name != "splitting" and option.stem != "held_back"
]
# One step per epoch; and one that leaves the weights alone for its first five steps.
EPOCHS = {"gd": 2, "lbfgs": 2, "schedulefree_radam": 3}
TINY = ["model.chans=4", "model.num_pool_layers=2", "data.num_workers=0", "data.batch_size=2"]


def compose(*overrides: str, command: str = "train") -> DictConfig:
    return compose_config(command, *overrides)


def train_overrides(group: str, option: str, folder: Path, run: Path) -> list[str]:
    """A two-step run on a small set, with one option chosen."""
    chosen = {"data": "fastmri_singlecoil", "trainer": "debug", "model": "unet"}
    if group == "experiment":
        chosen = {"trainer": "debug"}
    if group != "data":
        chosen[group] = option
    ends = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.strategy=auto"]
    ends.append(f"trainer.max_epochs={EPOCHS.get(option, 1)}")
    places = [f"data.root={folder}", f"run_dir={run}"]
    return [f"{name}={value}" for name, value in chosen.items()] + TINY + ends + places


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_builds_and_takes_one_step(group: str, option: str, folder: Path, tmp_path: Path) -> None:
    cfg = compose(*train_overrides(group, option, folder, tmp_path))
    module = build_module(cfg)
    before = [p.detach().clone() for p in module.parameters()]
    trainer = build_trainer(cfg)
    trainer.fit(module, build_datamodule(cfg))
    assert trainer.global_step >= 2
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    keeps = (group, option) != ("callbacks", "study")  # a study keeps curves alone
    assert (tmp_path / "checkpoints" / "best.ckpt").exists() == keeps


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "data").glob("*.yaml")))
def test_every_data_option_builds(option: str, tmp_path: Path) -> None:
    cfg = compose(f"data={option}", f"data.root={tmp_path}", f"run_dir={tmp_path}")
    assert build_datamodule(cfg).challenge in option or option in ("phantom", "phantom_small", "simulated")


@pytest.mark.parametrize("norm", ["instance", "batch", "group", "layer", "none"])
def test_every_norm_takes_one_step(norm: str, folder: Path, tmp_path: Path) -> None:
    overrides = train_overrides("model", "unet", folder, tmp_path)
    cfg = compose(*overrides, f"model.norm={norm}")
    module = build_module(cfg)
    build_trainer(cfg).fit(module, build_datamodule(cfg))
    assert all(torch.isfinite(p).all() for p in module.parameters())


def test_the_weighted_sum_is_built_with_its_terms() -> None:
    loss = build_module(compose("loss=l1_ssim", "run_dir=x")).loss
    assert isinstance(loss, WeightedSum)
    assert set(loss.terms) == {"l1", "ssim"}
    assert loss.needs == ["target"]


GROUPS = ["augmentation", "data", "loss", "mask", "model", "optimizer", "scheduler", "splitting"]
# What Python fills in when the parts are put together, per group.
BOUND = {
    "data": {
        "mask",
        "augmentation",
        "splitting",
        "scored_masks",
        "conditions",
        "needs_target",
        "split",
        "seed",
        "progress",
    },
    "mask": {"seed"},
    "optimizer": {"params"},
    "scheduler": {"optimizer", "num_steps", "num_epochs"},
}
NEWER = {"lbfgs": {"maximize"}}  # not in torch 2.10


@pytest.mark.parametrize("group", GROUPS)
def test_every_knob_of_a_constructor_is_in_its_yaml(group: str) -> None:
    """The saved config is the whole record only if no default hides in Python."""
    for path in sorted((CONF / group).glob("*.yaml")):
        node = OmegaConf.load(path)
        if "_target_" not in node or "defaults" in node:  # built upon others
            node = compose(f"{group}={path.stem}")[group]
        module, _, name = str(node._target_).rpartition(".")
        signature = inspect.signature(getattr(importlib.import_module(module), name))
        knobs = {p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if group == "data":  # its settings are those of its parts
            knobs |= {f.name for kind in (Reading, Loading) for f in fields(kind)} | {*SELECTION, "fixed_masks"}
        missing = knobs - BOUND.get(group, set()) - NEWER.get(path.stem, set()) - {str(key) for key in node}
        assert not missing, f"{path.name} does not list {missing}"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("optimizer=adm", "did you mean adam"),
        ("optimzer=adam", "did you mean optimizer"),
        ("model.chanz=8", "did you mean model.chans"),
        ("trainer.max_epoch=3", "did you mean trainer.max_epochs"),
        ("mask=random4x", "did you mean random_4x"),
    ],
)
def test_a_typo_is_explained_with_the_nearest_name(typed: str, expected: str) -> None:
    GlobalHydra.instance().clear()
    with pytest.raises(Exception, match=r"(?s).") as refused:
        compose(typed)
    GlobalHydra.instance().clear()
    assert expected in explain(refused.value, [typed], "train")


@pytest.mark.parametrize(
    "typed",
    [
        "trainer.max_epochs=ten",
        "optimizer.lr=fast",
        "data.batch_size=2.5",
        "model.chans=true",
        "trainer=debug trainer.max_epochs=x",
    ],
)
def test_a_value_of_another_type_is_refused(typed: str) -> None:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(ConfigError, match="expected a"):
        check_types(
            hydra.compose("train", chosen_groups(typed.split())), hydra.compose("train", typed.split()), typed.split()
        )


@pytest.mark.parametrize(
    "typed",
    [
        "trainer.devices=2",
        "trainer.devices=[0]",
        "trainer.devices=auto",
        "model.clamp=null",
        "optimizer.lr=1",
        "trainer.limit_val_batches=3",
        "ckpt=a",
    ],
)
def test_a_value_of_a_fitting_type_is_taken(typed: str) -> None:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        check_types(hydra.compose("train"), hydra.compose("train", [typed]), [typed])


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "builtins.open", "builtins.eval", "torch.hub.load", "torch.load", "subprocess.run",
        "hydra.utils.call", "mrirecon.build.torch.load", "mrirecon.data.sources.np.load", "torch.optim.os",
        "mrirecon.data.datamodule.Path", "mrirecon.models.nothing.Here", "mrirecon.models.unet.nn",
        # Of this project, but named by no option: a function that is not meant for configs can do harm.
        "mrirecon.synthetic.written_set._clear_folders", "mrirecon.data.catalog.volumes.folders",
        "fastmri.data.subsample.np.load",
    ],
)  # fmt: skip
def test_a_target_that_is_no_part_of_this_project_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.deep\._target_"):
        check_targets({"model": {"deep": {"_target_": target}}})


def test_the_config_is_plain_data() -> None:
    def walk(node: Any) -> None:
        assert type(node) in (dict, list, str, int, float, bool, type(None)), type(node)
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(child)

    walk(plain(compose("run_dir=x", "trainer=debug")))

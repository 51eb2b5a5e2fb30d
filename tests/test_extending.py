"""docs/extending.md as it is typed: parts of a package of one's own, in use and refused."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from console import ROOT, install
from test_commands import assert_refused, metrics, run_argv

PAGE = (ROOT / "docs/extending.md").read_text()
FILES = dict(re.findall(r"`([\w/]+\.\w+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = re.findall(r"^mrirecon .*$", PAGE, re.MULTILINE)
SMALL = [
    "data=phantom_small", "data.writer.num_train=4", "data.writer.num_val=2", "data.writer.num_test=1",
    "data.writer.num_slices=2", "trainer=cpu",
]  # fmt: skip
# What keeps a command of the page short.
MORE = {"train": [*SMALL, "trainer.max_epochs=2"], "study": SMALL, "tune": [*SMALL, "trainer.max_epochs=2"]}
TRUST = "trust=[mypackage]"


def mrirecon(cwd: Path, *typed: str) -> subprocess.CompletedProcess[str]:
    return run_argv(cwd, [str(install(cwd / "bin")), *typed])


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page, in which its first command was typed."""
    cwd = tmp_path_factory.mktemp("own")
    for name, content in FILES.items():
        (cwd / name).parent.mkdir(parents=True, exist_ok=True)
        (cwd / name).write_text(content)
    done = mrirecon(cwd, *shlex.split(COMMANDS[0])[1:], *MORE["train"])
    assert done.returncode == 0, done.stderr
    assert f"mrirecon evaluate ckpt=run/checkpoints/best.ckpt '{TRUST}'" in done.stdout
    return cwd


def test_the_page_has_a_model_a_loss_and_every_kind_of_command() -> None:
    assert {"mypackage/parts.py", "myconf/model/residual.yaml", "myconf/loss/charbonnier.yaml"} == set(FILES)
    words = [shlex.split(line)[1] for line in COMMANDS]
    assert words == ["train", "evaluate", "reconstruct", "export", "study", "tune", "train"]


def test_the_commands_of_the_page_run_as_they_are_typed(own: Path) -> None:
    for line in COMMANDS[1:]:
        typed = shlex.split(line.replace("data/phantom/multicoil_test", "data/phantom_small/singlecoil_test"))[1:]
        done = mrirecon(own, *typed, *MORE.get(typed[0], []))
        assert done.returncode == 0, (line, done.stderr)
    assert metrics(own / "run")["made_by"]["config"]["loss"]["epsilon"] == 0.001
    assert list((own / "images").glob("*.h5"))
    assert TRUST in (own / "model/README.md").read_text()
    assert "trust" not in (own / "myconf/experiment/tuned.yaml").read_text().partition("defaults")[2]
    assert len(list((own / "study").rglob("cell.json"))) == 4
    done = mrirecon(own, "reconstruct", TRUST, "ckpt=model", "input=data/phantom_small/singlecoil_test", "output=again")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "typed",
    [
        ["train", "--config-dir", "myconf", "model=residual"],
        ["train", "--config-dir", "myconf", "loss=charbonnier"],
        ["train", "--config-dir", "myconf", "experiment=trusting"],
        ["train", "ckpt=run/checkpoints/last.ckpt"],
        ["evaluate", "ckpt=run/checkpoints/best.ckpt"],
        ["evaluate", "--config-dir", "myconf", "ckpt=run/checkpoints/best.ckpt"],
        ["reconstruct", "ckpt=run/checkpoints/best.ckpt", "input=data", "output=refused"],
        ["export", "ckpt=run/checkpoints/best.ckpt", "output=refused"],
        ["study", "--config-dir", "myconf", "model=[residual]", "lr=[1e-3,1e-2]", "output=refused"],
        ["tune", "--config-dir", "myconf", "model=residual", "output=refused", "name=refused"],
        ["choose_lambda", "--config-dir", "myconf", "model=residual"],
    ],
)
def test_a_package_that_is_not_trusted_is_named_with_the_remedy(own: Path, typed: list[str]) -> None:
    (own / "myconf/experiment").mkdir(exist_ok=True)
    text = "# @package _global_\ndefaults: [{override /model: residual}]\n"
    (own / "myconf/experiment/trusting.yaml").write_text(text)
    assert_refused(mrirecon(own, *typed), 2, "mypackage is not trusted", "add trust=[mypackage]")


def test_trust_in_a_file_does_not_count(own: Path) -> None:
    for name in ("experiment", "study"):
        (own / "myconf" / name).mkdir(exist_ok=True)
    (own / "myconf/experiment/file.yaml").write_text("# @package _global_\ntrust: [mypackage]\n")
    done = mrirecon(own, "train", "--config-dir", "myconf", "experiment=file", "model=residual")
    assert_refused(done, 2, "trust=['mypackage']", "only the command line")
    preset = "title: x\nsettings: ['trust=[mypackage]', model=residual]\nparts: {a: {axes: {lr: [0.1, 0.2]}}}\n"
    (own / "myconf/study/file.yaml").write_text(preset)
    done = mrirecon(own, "study", "--config-dir", "myconf", "study=file")
    assert_refused(done, 2, "trust=[mypackage]", "only the command line")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["train", "model=residul"], "did you mean residual"),
        (["train", "model=residual", "model.chanz=3"], "did you mean model.chans"),
        (["study", "model=[unet,residul]", "lr=[0.1]"], "did you mean residual"),
        (["tune", "model=choice(unet,residul)"], "did you mean residual"),
        (["evaluate", "ckpt=run/checkpoints/best.ckpt", "mask=[mime,random_4x]"], "did you mean mine"),
        (["evaluate", "ckpt=run/checkpoints/best.ckpt", "mask=[theirs,random_4x]"], "trust=[mypackage,theirpackage]"),
        (["train", "model=residual", "trust=mypackage"], "trust=mypackage: expected names of packages"),
        (["train", "-m", "model=residual", "trust=[a],[b]"], "expected names of packages"),
        (["train", "model=bare"], "derive it from mrirecon.models.base.ReconModel"),
        (["train", "loss=bare"], "derive it from mrirecon.training.losses.TargetLoss"),
        (["train", "model=theirs", "trust=[theirpackage]"], "No module named 'theirpackage'"),
    ],
)
def test_a_mistake_with_a_part_of_one_s_own_is_one_message(own: Path, typed: list[str], words: str) -> None:
    (own / "myconf/mask").mkdir(exist_ok=True)
    (own / "myconf/mask/mine.yaml").write_text((ROOT / "conf/mask/random_4x.yaml").read_text())
    (own / "myconf/mask/theirs.yaml").write_text("_target_: theirpackage.masks.Mask\n")
    (own / "myconf/model/theirs.yaml").write_text("_target_: theirpackage.models.Model\n")
    (own / "mypackage/bare.py").write_text("from torch import nn\n\n\nclass Bare(nn.Module):\n    pass\n")
    for group in ("model", "loss"):
        (own / f"myconf/{group}/bare.yaml").write_text("_target_: mypackage.bare.Bare\n")
    trust = [] if any(text.startswith("trust=") for text in typed) else [TRUST]
    more = MORE.get(typed[0], SMALL) if typed[0] != "evaluate" else []
    done = mrirecon(own, typed[0], "--config-dir", "myconf", *trust, *typed[1:], *more)
    assert_refused(done, 2, words)


def test_masks_of_one_s_own_are_scored_beside_others(own: Path) -> None:
    (own / "myconf/mask").mkdir(exist_ok=True)
    (own / "myconf/mask/mine.yaml").write_text((ROOT / "conf/mask/random_8x.yaml").read_text())
    ckpt = ["--config-dir=myconf", TRUST, "ckpt=run/checkpoints/best.ckpt", "gallery=0", "output=masks"]
    done = mrirecon(own, "evaluate", "mask=[mine,random_4x]", *ckpt)
    assert done.returncode == 0, done.stderr
    assert {cell["mask"] for cell in metrics(own / "masks")["grid"]} == {"mine", "random_4x"}


def test_a_folder_that_cannot_be_used_is_refused(own: Path, tmp_path: Path) -> None:
    assert_refused(mrirecon(own, "train", "--config-dir", "nowhere"), 2, "--config-dir", "nowhere", "no such folder")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/unet.yaml").write_text("_target_: mypackage.parts.Residual\nchans: 8\n")
    done = mrirecon(own, "train", f"--config-dir={tmp_path}", TRUST)
    assert_refused(done, 2, "model/unet.yaml", "give it another name")

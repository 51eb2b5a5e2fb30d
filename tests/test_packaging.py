"""What is installed, and the installed command: its overview, its mistakes, its completion, its hints."""

import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from console import ROOT, install, typed

from mrirecon import __version__

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMMANDS = sorted(path.stem for path in (ROOT / "scripts").glob("[!_]*.py"))
SMALL = (
    "data=phantom_small data.writer.num_train=2 data.writer.num_val=1 data.writer.num_test=1 data.writer.num_slices=2"
)

Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs a line in an empty folder."""
    script = install(tmp_path / "bin")
    (tmp_path / "work").mkdir()
    return lambda line, **more: typed(script, tmp_path / "work", line, **more)


def test_every_folder_of_the_package_is_in_the_wheel() -> None:
    folders = {path.parent for path in (ROOT / "mrirecon").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    names = {folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders if not folder.match("__*__")}
    listed = SETTINGS["tool"]["setuptools"]["packages"]
    assert sorted({*names, "mrirecon.commands", "mrirecon.conf"}) == sorted(listed)
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_every_kind_of_file_is_in_the_wheel() -> None:
    kinds = {path.suffix for path in (ROOT / "mrirecon").rglob("*") if path.is_file()}
    assert kinds <= {".py", ".pyc", ".jinja"}
    assert {path.suffix for path in (ROOT / "conf").rglob("*") if path.is_file()} <= {".py", ".pyc", ".yaml"}
    assert SETTINGS["tool"]["setuptools"]["package-data"] == {"*": ["*.jinja"], "mrirecon.conf": ["**/*.yaml"]}
    assert SETTINGS["project"]["scripts"] == {"mrirecon": "mrirecon.command:cli"}


def test_the_overview_has_a_line_per_command_at_once(shell: Shell) -> None:
    for line in ("mrirecon", "mrirecon --help"):
        done = shell(line)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.findall(r"^  (\w+) +[A-Z][^:\n]+$", done.stdout, re.MULTILINE) == COMMANDS
    imported = shell(
        "python -X importtime -c 'from mrirecon.command import cli; import sys; sys.argv = [\"x\"]; cli()'"
    )
    assert (imported.returncode, "mrirecon.errors" in imported.stderr) == (0, True)
    assert not re.search(r"\b(torch|numpy|hydra|omegaconf)\b", imported.stderr)


def test_the_version_names_the_distribution(shell: Shell) -> None:
    assert shell("mrirecon --version").stdout == f"mrirecon-lightning {__version__}\n"
    assert SETTINGS["project"]["name"] == "mrirecon-lightning"


def test_an_unknown_command_is_one_line_with_the_nearest_names(shell: Shell) -> None:
    done = shell("mrirecon trian optimizer=adam")
    assert done.returncode == 2
    assert done.stderr == "error: trian: there is no such command (did you mean train?); mrirecon --help shows all\n"
    assert shell("mrirecon ../train").returncode == 2


def test_a_command_names_others_as_it_was_typed(shell: Shell, tmp_path: Path) -> None:
    """Also where Lightning starts the other ranks, which needs the name of the command."""
    ranks = "trainer=ddp trainer.accelerator=cpu trainer.devices=2 model.chans=4 trainer.max_epochs=1 hydra.run.dir=run"
    done = shell(f"mrirecon train {ranks} {SMALL}")
    assert done.returncode == 0, done.stderr
    assert "MEMBER: 2/2" in done.stderr
    assert done.stdout.count("\n  mrirecon evaluate ckpt=run/checkpoints/best.ckpt\n") == 1
    assert json.loads((tmp_path / "work/run/metrics.json").read_text())["ssim"] > 0
    done = shell("mrirecon evaluate data.prepared=run model=zero_filled")
    assert done.returncode == 2
    assert "mrirecon prepare_data data.root=DIR output=DIR" in done.stderr


# --- completion ----------------------------------------------------------------------------------------------------

COMPLETE = """
eval "$(%s)"
line=$LINE
COMP_LINE=$line COMP_POINT=${#line} COMP_WORDS=($line)
[[ $line == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]}-1))
hydra_bash_completion
echo "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("install_line", "line", "expected"),
    [
        ("mrirecon -sc install=bash", "mrirecon tr", "train"),
        ("mrirecon -sc install=bash", "mrirecon ", " ".join(COMMANDS)),
        ("mrirecon train -sc install=bash", "mrirecon train opt", "optimizer. optimizer="),
        ("mrirecon -sc install=bash", "mrirecon tune model=unet optimizer=rm", "optimizer=rmsprop"),
        ("mrirecon -sc install=bash", "mrirecon study study=lec", "study=lecture"),
        ("mrirecon -sc install=bash", "mrirecon train model=unt model.ch", ""),
        ("mrirecon -sc install=bash", "mrirecon train --config-dir own model=mi", "model=mine"),
        ("mrirecon -sc install=bash", "mrirecon no optimizer=", ""),
        ("python train.py -sc install=bash", "python train.py optimizer=rm", "optimizer=rmsprop"),
    ],
)
def test_a_shell_completes(shell: Shell, tmp_path: Path, install_line: str, line: str, expected: str) -> None:
    own = tmp_path / "work/own/model/mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("_target_: mypackage.Model\n")
    (tmp_path / "work/train.py").symlink_to(ROOT / "scripts/train.py")
    done = shell(COMPLETE % install_line, LINE=line)
    assert done.stderr == ""
    assert done.stdout.strip() == expected

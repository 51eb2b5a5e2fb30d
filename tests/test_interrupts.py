"""Ctrl-C while a command is still being imported: one line, the exit code, no traceback."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).resolve().parents[1] / "scripts").glob("[!_]*.py"))
# Ctrl-C at the first import of something large: these are what takes seconds.
INTERRUPTED = """
import importlib.abc, os, signal, sys

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("hydra", "numpy", "omegaconf", "torch"):
            print("importing", name, flush=True)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# Ctrl-C when Hydra begins to compose the config.
COMPOSING = """
import importlib, os, runpy, signal, sys
importlib.import_module("hydra.main")._run_hydra = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGINT)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def interrupted(
    script: Path, begin: Callable[[], object] | None = None, how: str = INTERRUPTED, **environment: str
) -> subprocess.CompletedProcess[str]:
    # A shell's background ignores Ctrl-C, and so would what the tests start from there.
    begin = begin or (lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    return subprocess.run(
        [sys.executable, "-c", how, str(script), "--help"],
        capture_output=True, text=True, timeout=60, check=False, preexec_fn=begin, env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_ctrl_c_during_the_first_import_is_one_line(script: Path) -> None:
    done = interrupted(script)
    assert done.stdout.startswith("importing")
    assert (done.returncode, done.stderr) == (130, "error: stopped by Ctrl-C\n")


def test_other_ranks_say_nothing() -> None:
    done = interrupted(SCRIPTS[0], LOCAL_RANK="1")
    assert (done.returncode, done.stderr) == (130, "")


def test_a_command_in_the_background_goes_on_ignoring_ctrl_c() -> None:
    done = interrupted(
        next(path for path in SCRIPTS if path.stem == "compare"),
        lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert done.returncode == 0, done.stderr
    assert "usage: python" in done.stdout


SPAWNING = """
from mrirecon.system.interrupts import end_on_ctrl_c

end_on_ctrl_c()

import multiprocessing, os, signal

def work():
    os.kill(os.getpid(), signal.SIGINT)
    print("goes on", flush=True)

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=work)
    child.start()
    child.join()
    print(child.exitcode)
    os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_spawned_process_leaves_ctrl_c_to_the_one_that_made_it(tmp_path: Path) -> None:
    (tmp_path / "spawning.py").write_text(SPAWNING)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "spawning.py")], capture_output=True, text=True, timeout=60, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "goes on\n0\n", "error: stopped by Ctrl-C\n")


def test_ctrl_c_while_the_config_is_composed_is_one_line_too() -> None:
    done = interrupted(next(path for path in SCRIPTS if path.stem == "check_data"), how=COMPOSING)
    assert (done.returncode, done.stderr) == (130, "error: stopped by Ctrl-C\n")

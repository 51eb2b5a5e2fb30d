"""The installed command for tests: `mrirecon` as pip writes it, for the interpreter that runs the tests."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = f"#!{sys.executable}\nimport sys\nfrom mrirecon.command import cli\nsys.exit(cli())\n"


def install(folder: Path) -> Path:
    """Writes the console script into a folder; the path of it."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "mrirecon"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    return script


def environment(script: Path, **more: str) -> dict[str, str]:
    """The environment of a shell that finds it, and the package of this source tree."""
    return (
        os.environ
        | {
            "PATH": os.pathsep.join([str(script.parent), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
        }
        | more
    )


def typed(script: Path, cwd: Path, line: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs a line in a shell, as a person types it."""
    return subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=environment(script, **more), capture_output=True, text=True, timeout=280,
        check=False,
    )  # fmt: skip

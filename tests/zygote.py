"""A process that has imported and compiled what the commands need, and runs each command in a fork of itself.

Importing torch and Lightning takes several seconds, compiling SSIM another, and the tests type dozens of commands. A
fork runs the script as `python scripts/NAME.py ...` would, as `__main__` with its own arguments, folder and streams; it
only begins later.

Reads lines of JSON: {"argv", "cwd", "stdout", "stderr", "file_size"}; answers each with the exit code. `file_size`,
where it is not null, is the number of bytes at which a file takes no more, as on a full disk.
"""

import atexit
import json
import os
import resource
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any


def serve() -> None:
    import mrirecon.build
    import mrirecon.config.launch
    import mrirecon.data.catalog.inspection
    import mrirecon.evaluation.scoring
    import mrirecon.metrics.ssim_cpu

    assert {"pytorch_lightning", "hydra", "fastmri"} <= set(sys.modules)  # else every fork would import them again

    mrirecon.metrics.ssim_cpu.compiled()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(request: dict[str, Any]) -> None:
    os.chdir(request["cwd"])
    for number, path in ((1, request["stdout"]), (2, request["stderr"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if request["file_size"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], request["file_size"]))
    sys.argv = request["argv"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    code: Any = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:  # noqa: BLE001  (what the interpreter itself does with it)
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve()

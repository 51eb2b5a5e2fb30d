"""Progress of a study, kept in its folder so that every process of it can print it."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrirecon.apps.study.cell import is_finished, read_cell
from mrirecon.apps.study.plan import Cell, Study
from mrirecon.metrics.scores import SCORE_TABLE
from mrirecon.system.atomic import write_json
from mrirecon.system.progress import duration

FILE_NAME = "study.json"


def start(study: Study, cells: Sequence[Cell], command: str) -> int:
    """Writes the plan to study.json. Returns the number of cells already finished."""
    done = sum(is_finished(study.output / cell.folder) for cell in cells)
    folders = [cell.folder for cell in cells]
    content = {"command": command, "started": time.time(), "done": done, "cells": folders}
    write_json(study.output / FILE_NAME, content)
    return done


def line(output: Path, folder: Path) -> str:
    """Line after a finished cell: cells done, its result, estimated time left."""
    plan = json.loads((output / FILE_NAME).read_text())
    done = sum(is_finished(output / cell) for cell in plan["cells"])
    new = max(1, done - plan["done"])
    seconds = (time.time() - plan["started"]) / new * (len(plan["cells"]) - done)
    content = read_cell(folder / "cell.json")
    assert content is not None
    left = f", about {duration(seconds)} left" if done < len(plan["cells"]) else ""
    name = folder.relative_to(output).as_posix()
    return f"{done}/{len(plan['cells'])}  {name}: {_outcome(content)}{left}"


def _outcome(content: dict[str, Any]) -> str:
    if content["status"] == "diverged":
        return f"diverged after {content['num_steps']} steps"
    ssim = content["validations"][-1]["ssim"]
    return f"SSIM {SCORE_TABLE['ssim'].shown(ssim, undefined='undefined')}"

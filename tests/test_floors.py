"""The house: files import from lower floors only, and third parties stay on theirs."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mrirecon"
FLOORS = {
    "errors": 0, "starting": 0, "physics": 1, "metrics": 1, "io": 1,
    "data": 2, "models": 2, "losses": 2, "schedules": 2,
    "optimizers": 2, "pictures": 2, "provenance": 2, "module": 3, "callbacks": 3,
    "export": 4, "model_card": 4, "gallery": 4, "option_lists": 4, "targets": 4, "checkpoints": 4,
    "job_names": 4, "reports": 4,
    "build": 4, "reconstruct": 4, "evaluation": 4, "regularisation": 4, "inspection": 4, "preparation": 4,
    "benchmarks": 5, "study": 5, "tuning": 5, "command": 5,
}  # fmt: skip
# Third party -> where it may be imported.
ALLOWED = {
    "h5py": ("io/",),
    "pytorch_lightning": (
        "data/datamodule.py", "module.py", "callbacks/", "build.py", "evaluation.py", "gallery.py", "command.py",
        "benchmarks/overhead.py", "study/cell.py", "tuning/trial.py",
    ),
    "lightning_fabric": ("build.py", "command.py"),
    "hydra": ("build.py", "command.py", "study/typed.py"),
    "omegaconf": ("build.py", "command.py", "option_lists.py", "study/", "tuning/"),
    "optuna": ("tuning/",),
    "sqlalchemy": ("tuning/storage.py",),
    "defusedxml": ("io/",),
    "filelock": ("io/",),
    "nibabel": ("io/",),
    "pydicom": ("io/",),
    "safetensors": ("export.py",),
    "matplotlib": ("reports/plots.py", "study/figures.py"),
    "numba": ("metrics/windows.py",),
    "jinja2": ("reports/html.py",),
}  # fmt: skip
FORBIDDEN = {"io/": {"torch", "pytorch_lightning"}, "physics/": {"h5py", "numpy.lib.npyio"}}
SIBLINGS_OF_NO_KIND = {("models", "data"), ("data", "models")}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor_of(module: str) -> int:
    room = module.split(".")[1]
    assert room in FLOORS, f"{module} has no floor: add it to the table, here and in docs/design.md"
    return FLOORS[room]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_from_lower_floors_only(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    room = place.split("/")[0].removesuffix(".py")
    for name in imports(path):
        top = name.split(".")[0]
        if top in ALLOWED:
            assert place.startswith(ALLOWED[top]), f"{place} imports {name}"
        assert not any(place.startswith(folder) and top in names for folder, names in FORBIDDEN.items()), name
        if not name.startswith("mrirecon.") or name.split(".")[1] == "__version__":
            continue
        other = name.split(".")[1]
        assert (room, other) not in SIBLINGS_OF_NO_KIND, f"{place} imports {name}"
        beside = floor_of(name) == FLOORS[room] and (other == room or "/" not in place)
        assert floor_of(name) < FLOORS[room] or beside, f"{place} ({FLOORS[room]}) imports {name} ({floor_of(name)})"

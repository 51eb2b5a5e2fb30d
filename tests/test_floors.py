"""The house: files import from lower floors only, no two import each other, and third parties stay on theirs."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mrirecon"
FLOORS = {
    "errors": 0,
    "system": 1,
    "config": 2, "physics": 2, "metrics": 2, "io": 2,
    "models": 3, "sampling": 3, "synthetic": 3, "reports": 3,
    "data": 4,
    "training": 5,
    "inference": 6, "evaluation": 6,
    "build": 7,
    "apps": 8,
    "command": 9,
}  # fmt: skip
# Rooms of one floor do not know each other, but for these: (who imports, what).
BESIDE = {("synthetic", "sampling")}
# Third party -> where it may be imported.
ALLOWED = {
    "h5py": ("io/",),
    "pytorch_lightning": (
        "data/datamodule.py", "training/", "build.py", "evaluation/", "apps/",
    ),
    "lightning_fabric": ("build.py",),
    "hydra": ("command.py", "config/", "apps/"),
    "omegaconf": ("build.py", "command.py", "config/", "apps/"),
    "optuna": ("apps/tuning/",),
    "sqlalchemy": ("apps/tuning/storage.py",),
    "defusedxml": ("io/",),
    "filelock": ("system/",),
    "nibabel": ("io/images/",),
    "pydicom": ("io/images/",),
    "safetensors": ("inference/export.py",),
    "matplotlib": ("reports/plots.py", "apps/study/figures.py"),
    "numba": ("metrics/ssim_cpu.py",),
    "jinja2": ("reports/html.py",),
}  # fmt: skip
FORBIDDEN = {
    "io/": {"torch"},
    "config/": {"torch", "numpy"},
    "physics/": {"numpy"},
}


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
        below = floor_of(name) < FLOORS[room]
        assert below or other == room or (room, other) in BESIDE, (
            f"{place} ({FLOORS[room]}) imports {name} ({floor_of(name)})"
        )


def test_no_two_files_import_each_other_even_by_way_of_others() -> None:
    modules = {f"mrirecon.{path.relative_to(PACKAGE).with_suffix('').as_posix().replace('/', '.')}" for path in FILES}
    graph = {
        f"mrirecon.{path.relative_to(PACKAGE).with_suffix('').as_posix().replace('/', '.')}": {
            name for name in imports(path) if name in modules
        }
        for path in FILES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_room_is_in_the_table_and_every_entry_is_a_room() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert rooms == set(FLOORS)

"""Where the settings of a checkpoint would write: below the folder of the command, or where it is typed."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mrirecon.errors import ConfigError

# Beside a data set that this project wrote, whole or in part: see `synthetic.written_set`.
_MANIFESTS = ("phantom.json", "phantom.partial.json", "simulated.json", "simulated.partial.json")


def check_places(groups: Mapping[str, Any], typed: Collection[str]) -> None:
    """Raises ConfigError for a folder that a checkpoint's groups would write to, where nobody chose it.

    A data set may be written below the current folder, or completed where this project began it. typed: keys that the
    command line gives.
    """
    data = groups.get("data")
    if not isinstance(data, dict):
        return
    for key, value in _written(data):
        if key not in typed:
            raise ConfigError(
                f"{key}={value!r}: the checkpoint's config writes to that folder: "
                f"add {key}=... to the command line, the folder if you want that"
            )


def _written(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if data.get("sensitivities") not in (None, "auto"):
        yield "data.sensitivities", data["sensitivities"]
    writer = data.get("writer")
    if isinstance(writer, dict):
        key, value = ("data.writer.output", writer["output"]) if "output" in writer else ("data.root", data.get("root"))
        for folder in value if isinstance(value, list) else [value]:
            if folder is not None and not (isinstance(folder, str) and _is_ours(Path(folder))):
                yield key, folder


def _is_ours(folder: Path) -> bool:
    below = ".." not in folder.parts and folder.absolute().is_relative_to(Path.cwd())
    return below or any((folder / name).is_file() for name in _MANIFESTS)

"""Exports a trained model as a folder (safetensors, config as JSON, model card), and reads such a folder."""

import json
import logging
from collections.abc import Mapping, Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from mrirecon import __version__
from mrirecon.errors import ConfigError, InputError
from mrirecon.metrics.scores import ALL_SCORES
from mrirecon.system.atomic import replacing
from mrirecon.system.invocation import typed_as

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
Record = dict[str, Any]
log = logging.getLogger(__name__)

_FORMAT, _VERSION = "mrirecon export", 1
_MAX_BYTES, _MAX_DEPTH = 2**20, 20  # of config.json; normally some kilobytes and five levels
# Specific to the machine of the run, and not needed by any command.
_LEFT_OUT = ("callbacks", "logger", "run_dir", "ckpt")
_AGAIN = "export or copy it again"


def is_exported(path: Path) -> bool:
    """Whether `ckpt=path` is an exported folder, or the weights file in one."""
    return path.is_dir() or path.name == WEIGHTS


def weights_file(path: Path) -> Path:
    """Weights file of an exported folder; its sha256 identifies the model."""
    return path / WEIGHTS if path.is_dir() else path


def kept_config(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The part of a checkpoint's config that is exported. Raises InputError unless it is plain data with a model."""
    config = {key: value for key, value in checkpoint["config"].items() if key not in _LEFT_OUT}
    try:
        same = not _deeper(config, _MAX_DEPTH) and json.loads(json.dumps(config)) == config
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: its config is no plain data ({error}): it was not written by this project") from None
    if not same or not isinstance(config.get("model"), dict):
        raise InputError(f"{path}: its config is no plain data with a model: it was not written by this project")
    return config


def pack(checkpoint: Mapping[str, Any], config: dict[str, Any], path: Path) -> tuple[Record, bytes]:
    """Content of config.json and bytes of model.safetensors, which holds only the model's weights."""
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    tensors = {
        # safetensors supports neither shared nor strided tensors: each is written out.
        name.removeprefix("model."): value.clone(memory_format=torch.contiguous_format)
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("model.")
    }
    # A single entry: the order of several varies, and the same model should give the same bytes.
    weights = safetensors.torch.save(tensors, {"made_by": f"mrirecon {__version__}, checkpoint sha256 {digest}"})
    record = {
        "format": _FORMAT,
        "version": _VERSION,
        "mrirecon": __version__,
        "checkpoint": {
            "file": path.name,
            "sha256": digest,
            "num_epochs": _number(checkpoint.get("epoch"), 1),
            "num_steps": _number(checkpoint.get("global_step"), 0),
        },
        "weights": {"file": WEIGHTS, "num_bytes": len(weights), "sha256": sha256(weights).hexdigest()},
        "config": config,
    }
    return {**record, "sha256": _digest(record)}, weights


def write(folder: Path, record: Record, weights: bytes, card: str) -> None:
    """Writes the three files, each atomically; config.json is last and completes the folder.

    Files already written with the same content are kept. Raises ConfigError where the folder holds anything else, or
    cannot be written.
    """
    text = json.dumps(record, indent=2) + "\n"
    contents = {WEIGHTS: weights, CARD: card.encode("utf-8", "replace"), CONFIG: text.encode()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        missing = _missing(folder, contents)
        for name in missing:
            with replacing(folder / name, sum(len(contents[other]) for other in missing)) as temporary:
                temporary.write_bytes(contents[name])
    except OSError as error:
        raise ConfigError(
            f"output={folder}: cannot be written: {error.strerror}. Make space or choose another folder"
        ) from error


def _missing(folder: Path, contents: Mapping[str, bytes]) -> list[str]:
    """Names of files still to be written, in order. Raises ConfigError for a file that would be replaced."""
    missing = list(contents)
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") and path.suffix == ".tmp":  # from an interrupted export
            continue
        if path.name not in contents or not path.is_file() or path.read_bytes() != contents[path.name]:
            raise ConfigError(
                f"output={folder}: holds {path.name}, which is not what would be written there: "
                "nothing is overwritten; choose another folder"
            )
        missing.remove(path.name)
    return missing


def read(path: Path) -> dict[str, Any]:
    """`config` and `state_dict` of an exported folder, as in a checkpoint; nothing in it is executed.

    Raises ConfigError where the path is not an exported folder, InputError for a missing or damaged file.
    """
    folder = path if path.is_dir() else path.parent
    there = {name: (folder / name).is_file() for name in (CONFIG, WEIGHTS)}
    if not any(there.values()):
        raise ConfigError(
            f"ckpt={path}: holds neither {CONFIG} nor {WEIGHTS}: "
            f"give a checkpoint file, or a folder written by {typed_as('export')}"
        )
    for name, found in there.items():
        if not found:
            raise InputError(f"{folder / name}: is missing, so the exported model is not complete: {_AGAIN}")
    record = _read_record(folder / CONFIG)
    weights = _read_weights(folder / WEIGHTS, record["weights"])
    return {"config": record["config"], "state_dict": {f"model.{name}": value for name, value in weights.items()}}


def _read_record(path: Path) -> Record:
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: has {path.stat().st_size} bytes, expected at most {_MAX_BYTES}: {_AGAIN}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not readable as JSON ({error}): {_AGAIN}") from None
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise InputError(f"{path}: is not of an exported model: expected the entry format={_FORMAT!r}: {_AGAIN}")
    if record.get("version") != _VERSION:
        raise InputError(
            f"{path}: has version {record.get('version')!r}, this mrirecon reads {_VERSION}: "
            "use the mrirecon that wrote it, or export the checkpoint again"
        )
    if _deeper(record, _MAX_DEPTH) or record.pop("sha256", None) != _digest(record):
        raise InputError(
            f"{path}: its content does not have the sha256 it gives, so it is damaged or was edited: "
            f"{_AGAIN}, and change settings on the command line"
        )
    if not isinstance(record.get("config"), dict) or not isinstance(record.get("weights"), dict):
        raise InputError(f"{path}: expected the entries config and weights: {_AGAIN}")
    return record


def _read_weights(path: Path, expected: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    num_bytes = path.stat().st_size  # checked first: a wrong file may be of any size
    if num_bytes != expected.get("num_bytes"):
        raise InputError(f"{path}: has {num_bytes} bytes, {CONFIG} says {expected.get('num_bytes')}: {_AGAIN}")
    data = path.read_bytes()
    if (digest := sha256(data).hexdigest()) != expected.get("sha256"):
        raise InputError(
            f"{path}: is damaged, or belongs to another {CONFIG}: its sha256 is {digest[:12]}..., "
            f"expected {str(expected.get('sha256'))[:12]}...: {_AGAIN}"
        )
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise InputError(f"{path}: is not a readable safetensors file ({error}): {_AGAIN}") from None


def _digest(record: Mapping[str, Any]) -> str:
    """sha256 of a record's content, independent of key order and whitespace."""
    return sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _deeper(node: Any, levels: int) -> bool:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return levels < 0 or any(_deeper(child, levels - 1) for child in children)


def _number(value: Any, more: int) -> int | None:
    return value + more if isinstance(value, int) else None


def find_scores(given: str | None, ckpt: Path, digests: Sequence[str]) -> Record | None:
    """Metrics from the file `given`, else from the checkpoint's run; None where the run has none of these weights.

    Raises ConfigError where the given file is missing, InputError where it is not a metrics.json of these weights.
    """
    if given is not None:
        if not Path(given).is_file():
            raise ConfigError(f"scores={given}: there is no such file: give the metrics.json of an evaluation")
        return _read_scores(Path(given), digests)
    for path in (ckpt.parent / "metrics.json", ckpt.parent.parent / "metrics.json"):
        if path.is_file():
            try:
                return _read_scores(path, digests)
            except InputError as error:
                log.warning("note: %s; the card will have no scores", error)
    return None


def _read_scores(path: Path, digests: Sequence[str]) -> Record:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not readable as JSON ({error}): evaluate again") from None
    if not _is_report(report) or ("zero_filled" in report and not _is_report(report["zero_filled"])):
        raise InputError(
            f"{path}: is no metrics.json: expected the entries volumes, conventions and made_by, and numbers or null "
            f"as scores: give one that {typed_as('evaluate')} wrote"
        )
    digest = report["made_by"].get("sha256")
    if digest not in digests:
        raise InputError(
            f"{path}: has the scores of other weights (sha256 {str(digest)[:12]}), not of these "
            f"({' or '.join(known[:12] for known in digests)}): run {typed_as('evaluate')} on this checkpoint and give "
            "its metrics.json as scores=FILE"
        )
    return report


def _is_report(report: Any) -> bool:
    if not isinstance(report, dict) or not isinstance(report.get("volumes"), list) or not report["volumes"]:
        return False
    names, entries = score_names(report), (report.get("conventions"), report.get("made_by"))
    return (
        bool(names)
        and all(isinstance(entry, dict) for entry in entries)
        and all(
            isinstance(row, dict)
            and _is_number(row.get("acceleration"))
            and all(name in row and (row[name] is None or _is_number(row[name])) for name in names)
            for row in report["volumes"]
        )
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def score_names(report: Mapping[str, Any]) -> list[str]:
    """Names of the scores in a report.  ["ssim", "psnr", "nmse"]"""
    return [name for name in ALL_SCORES if name in report]

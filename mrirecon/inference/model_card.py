"""Writes the model card of an exported model: use, architecture, training data, training, scores, limits."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from mrirecon.config.allowlist import packages_to_trust, trust_typed
from mrirecon.inference.export import score_names
from mrirecon.metrics.scores import SCORE_TABLE
from mrirecon.metrics.volume import mean_score
from mrirecon.models.base import ReconModel

Tree = Mapping[str, Any]

_FACTS = ("what", "value")
# Groups of the config that have their own section or row.
_GROUPS = ("data", "mask", "model", "loss", "optimizer", "scheduler", "trainer")
_PATHS = ("root", "prepared", "output", "path", "files")  # shown without their folders
# Options that select data, with the value that selects everything.
_SELECTING = {
    "files": None, "acquisitions": None, "num_cols": None, "volume_sample_rate": 1.0, "sample_rate": 1.0,
    "train_splits": ["train"], "fixed_masks": False,
}  # fmt: skip
_ORIGINS = {
    "PhantomSet": "simulated: numerical phantoms with simulated coils and noise, no anatomy of any person",
    "SimulatedSet": "simulated: k-space made from magnitude images, which is easier to reconstruct than a scanner's",
}
_UNKNOWN_ORIGIN = (
    "files of whoever trained it; nothing is recorded of where they come from, or whether they were measured"
)


def model_card(record: Tree, model: ReconModel, report: Tree | None) -> str:
    """Model card as Markdown. record: config.json. report: metrics.json; None: these weights were not scored."""
    config = record["config"]
    sections = [
        f"# {_name(config['model'])}: MRI reconstruction from undersampled k-space",
        "Gives magnitude images of scans whose k-space was sampled in part. "
        f"Exported by mrirecon {record['mrirecon']}. **Not for clinical use.**",
        _how_to_use(config),
        "## Architecture\n\n" + _architecture(config["model"], model),
        "## Training data\n\n" + _table(_FACTS, _data(config.get("data") or {})),
        "## Training\n\n" + _table(_FACTS, _training(config, record["checkpoint"])),
        "## Scores\n\n" + ("None are recorded for these weights." if report is None else _scores(report)),
        _limits(config, model),
        "## Licence\n\nNone is stated: whoever publishes these weights chooses one, and has to look up what the terms "
        "of the training data allow.",
        "## Versions\n\n" + _table(_FACTS, _versions(record, report)),
    ]
    return "\n\n".join(sections) + "\n"


def _how_to_use(config: Tree) -> str:
    packages = packages_to_trust({key: config[key] for key in ("model", "data", "mask") if config.get(key)})
    trust, trusted = trust_typed(packages), f", trust={packages}" if packages else ""
    return (
        "## How to use it\n\nWith mrirecon installed, and this folder as `FOLDER`:\n\n```\n"
        f"mrirecon reconstruct ckpt=FOLDER input=SCAN_OR_FOLDER output=DIR{trust}\n"
        f"mrirecon evaluate ckpt=FOLDER data.root=DIR data.writer=null{trust}\n```\n\n```python\n"
        "import mrirecon\n\n"
        f'model = mrirecon.load("FOLDER"{trusted})\n'
        'images = mrirecon.reconstruct(model, mrirecon.read("SCAN")).volume\n```\n\n'
        "The weights alone are here: they can be "
        "scored and used, a training run cannot be continued from them."
    )


def _architecture(node: Tree, model: ReconModel) -> str:
    parameters = list(model.parameters())
    rows = [
        ("class", f"`{_text(node['_target_'])}`"),
        *((key, _text(value)) for key, value in node.items() if key != "_target_"),
        ("parameters", f"{sum(p.numel() for p in parameters):,}"),
        ("precision of the weights", ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters}))),
        ("works on", ", ".join(["the zero-filled image", *sorted(model.needs)])),
        ("smallest image", f"{model.min_size}x{model.min_size}"),
    ]
    return _table(_FACTS, rows)


def _data(data: Tree) -> Iterable[tuple[str, str]]:
    prepared = data.get("prepared") is not None
    writer = {} if prepared else data.get("writer") or {}
    origin = _name(writer) if writer else ""
    yield "name", _text(_last_part(data.get("prepared") if prepared else data.get("root")))
    yield "kind", _text(data.get("challenge"))
    yield "origin", _ORIGINS.get(origin, _UNKNOWN_ORIGIN)
    if "num_train" in writer:
        yield "training volumes", f"{_text(writer['num_train'])}, {_text(writer.get('num_slices'))} slices each"
    else:
        yield "training volumes", "not recorded"
    for key, everything in _SELECTING.items():
        if data.get(key) not in (None, everything):
            yield f"`{key}`", _text(_last_part(data[key]))
    if writer:
        yield "made by", _knobs(writer)


def _training(config: Tree, checkpoint: Tree) -> Iterable[tuple[str, str]]:
    trainer, data = config.get("trainer") or {}, config.get("data") or {}
    yield "masks", _knobs(config["mask"]) if config.get("mask") else "those the scans brought"
    for name in ("loss", "optimizer"):
        yield name, _knobs(config.get(name) or {})
    yield "learning rate schedule", _knobs(config.get("scheduler") or {})
    for name, node in config.items():
        if name not in _GROUPS and isinstance(node, dict) and "_target_" in node:
            yield _text(name), _knobs(node)
    yield "epochs", f"{_text(checkpoint['num_epochs'])} of at most {_text(trainer.get('max_epochs'))}"
    yield "optimizer steps", _text(checkpoint["num_steps"])
    yield "batch size", f"{_text(data.get('batch_size'))} slices on each of {_text(trainer.get('devices'))} device(s)"
    yield "accumulated batches", _text(trainer.get("accumulate_grad_batches"))
    yield "precision", _text(trainer.get("precision"))
    yield "target clamp", _text(config.get("target_clamp"))
    yield "seed", _text(config.get("seed"))


def _scores(report: Tree) -> str:
    names, made_by = score_names(report), report["made_by"]
    rows = list(_score_rows("these weights", report, names))
    if "zero_filled" in report:
        rows += _score_rows("zero-filled, no model", report["zero_filled"], names)
    head = ("", "scans", "volumes", "effective acceleration", *(SCORE_TABLE[name].label for name in names))
    challenge, split = _text(made_by.get("challenge")), _text(made_by.get("split"))
    caution = "The checkpoint may have been chosen by its scores on this split: those of the test split are fairer. "
    where = f"Of `{_text(_last_part(made_by.get('data')))}`, {challenge}, split {split}"
    if made_by.get("data_sha256"):
        where += f", data sha256 `{_text(made_by['data_sha256'])}`"
    conventions = [(_text(key), _text(value)) for key, value in report["conventions"].items()]
    return "\n\n".join(
        [
            f"{where}; made with {_text(made_by.get('versions'))}.",
            _table(head, rows),
            (caution if split == "val" else "") + "A score is worth what its conventions say:",
            _table(_FACTS, conventions),
        ]
    )


def _score_rows(label: str, report: Tree, names: Sequence[str]) -> Iterable[tuple[str, ...]]:
    """Rows per mask and condition, and per acquisition where there are several."""
    kinds: dict[str, list[Tree]] = {}
    for row in report["volumes"]:
        setting = ", ".join(_text(row[key]) for key in ("mask", "condition") if row.get(key)) or "all"
        kinds.setdefault(setting, []).append(row)
    for setting, volumes in kinds.items():
        parts = {setting: volumes}
        acquisitions = sorted({str(row.get("acquisition")) for row in volumes})
        for acquisition in acquisitions if len(acquisitions) > 1 else []:
            of_one = [row for row in volumes if str(row.get("acquisition")) == acquisition]
            parts[f"{setting}, {_text(acquisition)}"] = of_one
        for part, chosen in parts.items():
            acceleration = f"{fmean(row['acceleration'] for row in chosen):.2f}"
            shown = [SCORE_TABLE[name].shown(mean_score(chosen, name), undefined="undefined") for name in names]
            yield label, part, str(len(chosen)), acceleration, *shown


def _limits(config: Tree, model: ReconModel) -> str:
    simulated = not (config.get("data") or {}).get("prepared") and (config.get("data") or {}).get("writer")
    lines = [
        "Intended for research on image reconstruction, and for comparing methods.",
        "**Not for clinical use**: nothing here was tested for diagnosis, and no authority has cleared it.",
        "A network can invent structures and remove real ones, and its mistakes can look like anatomy. Scores are "
        "means over volumes and do not show this.",
        "It was trained for the masks and the data named above. Other accelerations, patterns, coils, field strengths, "
        "contrasts, bodies and scanners are not covered by the scores.",
        "It gives magnitude images, no phase.",
    ]
    if simulated:
        lines.append("It was trained on simulated k-space: what it does on a scanner's has to be measured first.")
    return "## Intended use and limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _versions(record: Tree, report: Tree | None) -> Iterable[tuple[str, str]]:
    yield "exported with", f"mrirecon {_text(record['mrirecon'])}, torch {torch.__version__}"
    yield "checkpoint", f"`{_text(record['checkpoint']['file'])}`, sha256 `{record['checkpoint']['sha256']}`"
    yield "weights", f"`{record['weights']['file']}`, sha256 `{record['weights']['sha256']}`"
    if report is not None:
        yield "scored with", _text(report["made_by"].get("versions"))


def _name(node: Tree) -> str:
    return _text(str(node.get("_target_", "?")).rpartition(".")[2])


def _knobs(node: Tree) -> str:
    """One line for a part of the config.  {"_target_": "torch.optim.Adam", "lr": 1} -> "Adam: lr 1" """
    shown = {key: _last_part(value) if key in _PATHS else value for key, value in node.items() if key[:1] != "_"}
    return ": ".join(filter(None, [_name(node), ", ".join(f"{_text(key)} {_text(v)}" for key, v in shown.items())]))


def _last_part(value: Any) -> Any:
    """File name of a path, or of each path in a list; other values unchanged."""
    if isinstance(value, list):
        return [_last_part(item) for item in value]
    return ", ".join(Path(part).name or part for part in value.split(", ")) if isinstance(value, str) else value


def _text(value: Any) -> str:
    """A value as text with Markdown escaped, since it may come from untrusted files."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {item}" for key, item in value.items())
    elif isinstance(value, list):
        value = "[" + ", ".join(_text(item) for item in value) + "]"
    elif value is None or isinstance(value, bool):
        value = {None: "none", True: "true", False: "false"}[value]
    text = " ".join(str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""Targets that moved: what the config of an older checkpoint calls them, and what they are called now."""

from typing import Any

# Module -> module, for every part that a config could name; longer names first.
RENAMED = {
    "mrirecon.data.simulated_set": "mrirecon.synthetic.simulated_set",
    "mrirecon.data.phantom_set": "mrirecon.synthetic.phantom_set",
    "mrirecon.data.patterns": "mrirecon.sampling.patterns",
    "mrirecon.data.masks": "mrirecon.sampling.masks",
    "mrirecon.callbacks": "mrirecon.training.callbacks",
    "mrirecon.optimizers": "mrirecon.training.optimizers",
    "mrirecon.schedules": "mrirecon.training.schedules",
    "mrirecon.losses": "mrirecon.training.losses",
}
# Of a module that stayed.
_PARTS = {"mrirecon.data.datamodule.ReconDataModule": "mrirecon.data.datamodule.recon_datamodule"}


def renamed(node: Any) -> Any:
    """A config with every `_target_` under its present name; nothing else is changed.  plain data -> plain data"""
    if isinstance(node, dict):
        return {key: _target(value) if key == "_target_" else renamed(value) for key, value in node.items()}
    return [renamed(value) for value in node] if isinstance(node, list) else node


def _target(name: Any) -> Any:
    if not isinstance(name, str):
        return name
    if name in _PARTS:
        return _PARTS[name]
    module = next((old for old in RENAMED if name.startswith(f"{old}.")), None)
    return name if module is None else RENAMED[module] + name.removeprefix(module)

"""Keeps the best checkpoint, also when a run is continued in another folder."""

import shutil
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that keeps the best score so far when a run is continued in another folder.

    Lightning's forgets it. The best checkpoint of the continued run is copied into the new folder.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = Path(state_dict["best_model_path"])
        if self.dirpath is not None and best.is_file():
            kept = Path(self.dirpath) / best.name
            if kept.resolve() != best.resolve():
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(best, kept)
            score = state_dict["best_model_score"]
            state_dict = {
                **state_dict,
                "dirpath": str(self.dirpath),
                "best_model_path": str(kept),
                "best_k_models": {str(kept): score},
                "kth_best_model_path": str(kept),
                "kth_value": score,
            }
        super().load_state_dict(state_dict)

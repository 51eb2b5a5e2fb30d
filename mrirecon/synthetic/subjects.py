"""Assigns subjects to splits and images to file names."""

import json
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from mrirecon.synthetic.written_set import SPLITS


def split_subjects(
    subjects: Sequence[str], val_fraction: float, test_fraction: float, seed: int
) -> dict[str, set[str]]:
    """Disjoint sets of subjects per split; with one or two subjects, all of them in every split.

    Subjects are ordered by a digest, so the split is the same on every machine.
    """
    if len(subjects) < 3:
        parts = zip(SPLITS, (1.0, val_fraction, test_fraction), strict=True)
        return {split: set(subjects) if fraction else set() for split, fraction in parts}
    dealt = sorted(subjects, key=lambda subject: digest([seed, subject]))
    num_val = min(max(1, round(val_fraction * len(dealt))), len(dealt) - 2) if val_fraction else 0
    num_test = min(max(1, round(test_fraction * len(dealt))), len(dealt) - 1 - num_val) if test_fraction else 0
    val, test, train = np.split(np.array(dealt, object), [num_val, num_val + num_test])
    return {"train": set(train), "val": set(val), "test": set(test)}


def file_names(names: Sequence[str]) -> list[str]:
    """Unique file name per source, without special characters; a scan's mask is seeded by it."""
    short = [plain(re.sub(r"(?i)\.(nii|nii\.gz|dcm|ima)$", "", name)) for name in names]
    lowered = [name.lower() for name in short]  # some file systems ignore case
    pairs = zip(short, names, strict=True)
    return [f"{one}-{digest(name)}.h5" if lowered.count(one.lower()) > 1 else f"{one}.h5" for one, name in pairs]


def plain(name: str) -> str:
    """The name without special characters or a leading dot; only the last 120 characters of a long one."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[-120:].lstrip(".-_") or "images"


def digest(content: Any) -> str:
    """First twelve hexadecimal digits of the sha256 of plain data."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

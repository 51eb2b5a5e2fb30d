"""Descriptions of scans as JSON: they come back exactly, whatever they hold."""

import json
import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrirecon.data.catalog import scan_record
from mrirecon.io.geometry import Geometry
from mrirecon.io.scan import ScanInfo, System, Target

BYTES = 3 * 2 * 24 * 20 * 8


@pytest.fixture
def info() -> ScanInfo:
    affine = np.random.default_rng(0).normal(size=(4, 4))
    affine[3] = 0, 0, 0, 1
    return ScanInfo(
        path=Path("set/a.h5"),
        name="a.h5",
        num_slices=3,
        num_coils=2,
        kspace_size=(24, 20),
        acquired=(1, 19),
        mask=None,
        num_low_frequency=4,
        recon_size=(16, 15),
        target=Target((16, 15), 2.5),
        geometry=Geometry((240.0, 150.5), 4.5, affine, (0, 2, 1)),
        acquisition="AXT2",
        patient="p1",
        system=System("ACME", "One", 0.055),
        simulated=False,
        fastmri_challenge="multicoil",
        notes=("assumed",),
    )


def plain(value: Any) -> Any:
    """Arrays as lists, with their type: what can be compared."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.tolist()
    if isinstance(value, ScanInfo | Geometry):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value


CHANGES: list[dict[str, Any]] = [
    {},
    {"mask": np.arange(20) % 3 == 0},
    {"mask": np.random.default_rng(1).random((24, 20)) < 0.3},
    {"geometry": None, "target": None, "num_low_frequency": None, "patient": None, "system": System()},
    {"geometry": Geometry((240.0, 150.5))},
]


@pytest.mark.parametrize("changes", CHANGES, ids=["all", "columns", "points", "nothing", "field of view"])
def test_a_description_comes_back_exactly(info: ScanInfo, changes: dict[str, Any]) -> None:
    info = replace(info, **changes)
    content = json.loads(json.dumps(scan_record.record(info)))
    assert plain(scan_record.parse(info.path, content, BYTES)) == plain(info)
    assert plain(pickle.loads(pickle.dumps(info))) == plain(info)  # noqa: S301 -- as workers do


def test_more_kspace_than_the_file_can_hold_is_refused(info: ScanInfo) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        scan_record.parse(info.path, json.loads(json.dumps(scan_record.record(info))), BYTES // 1100 - 1)


@pytest.mark.parametrize("order", [(1, 0), (0, 1, 2, 3)])
def test_an_order_of_other_slices_is_refused(info: ScanInfo, order: tuple[int, ...]) -> None:
    content = json.loads(json.dumps(scan_record.record(info)))
    content["geometry"]["slice_order"] = list(order)
    with pytest.raises(ValueError, match="do not fit"):
        scan_record.parse(info.path, content, BYTES)

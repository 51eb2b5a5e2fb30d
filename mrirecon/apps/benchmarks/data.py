"""Times the data path against fastMRI 0.3.0's data set and transform on the same files."""

import gc
import itertools
import os
import pickle
import resource
import shutil
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastmri.data.mri_data import SliceDataset
from fastmri.data.subsample import RandomMaskFunc
from fastmri.data.transforms import UnetDataTransform
from torch.utils.data import DataLoader

from mrirecon.apps.benchmarks.measure import Row, compared, in_turns
from mrirecon.data.catalog.index import Index
from mrirecon.data.catalog.index_file import FILE_NAME
from mrirecon.data.datamodule import ReconDataModule, recon_datamodule
from mrirecon.data.prepared.prepare import Preparation
from mrirecon.data.sources import Draw, MaskedSlices, Source
from mrirecon.io.raw.fastmri_writer import header_xml, write_volume
from mrirecon.models.image_domain import ZeroFilled
from mrirecon.physics.sample import Sample, Slice, collate, undersample
from mrirecon.synthetic.phantom_set import PhantomSet

NOTES = [
    "Reference: fastMRI's `SliceDataset` and `UnetDataTransform`. Files: phantoms of 640x368 with targets of 320x320, "
    "one coil and fifteen, in the page cache. A ready batch is one that a U-Net could be given: masked, reconstructed, "
    "normalised, on the device. Both sides take turns; the ratio is the median of the turns' ratios.",
]
_ROUNDS, _WORKERS, _COPIES = 7, 2, 7
_BATCH = {"singlecoil": 8, "multicoil": 2}
_MASK = {"center_fractions": [0.08], "accelerations": [4]}


def rows(device: str, folder: Path) -> Iterator[Row]:
    """All result rows; the files are written below `folder`."""
    # An empty cache, so that the first look-ups find nothing of earlier runs.
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    root, prepared = _write_sets(folder)
    yield from _transform_rows(root, prepared)
    yield from _loader_rows(root, prepared, device)
    yield from _index_rows(folder / "headers")
    yield from _memory_rows(folder / "headers")


def _write_sets(folder: Path) -> tuple[Path, Path]:
    root, prepared = folder / "phantoms", folder / "prepared"
    phantoms = PhantomSet(
        seed=0, num_train=6, num_val=1, num_test=1, num_slices=4, num_coils=15, snr=40.0, acceleration=4,
        center_fraction=0.08, matrix_sizes=[[320, 368]],
    )  # fmt: skip
    phantoms.write(root)
    for path in sorted((root / "singlecoil_train").glob("*.h5")):
        for number in range(_COPIES):
            shutil.copy(path, path.with_name(f"{path.stem}_{number}.h5"))
    Preparation(root, prepared, "all", "single", 0, _silent).run()
    return root, prepared


def _silent(what: str, done: int, total: int) -> None:
    pass


def _datamodule(challenge: str, **changes: Any) -> ReconDataModule:
    options = {"root": None, "mask": RandomMaskFunc(**_MASK), "batch_size": _BATCH[challenge], "num_workers": _WORKERS}
    options |= {"check": "headers", "split": "val", "seed": 0, **changes}
    data = recon_datamodule(challenge=challenge, **options)
    data.setup("fit")
    data.serve(ZeroFilled())
    return data


# One slice, in memory, on one core


def _transform_rows(root: Path, prepared: Path) -> Iterator[Row]:
    reference = _their_slice(root)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, goal, where in (
            ("raw k-space", 2.5, {"root": str(root)}),
            ("the prepared store", 8.0, {"prepared": str(prepared)}),
        ):
            dataset = _datamodule("singlecoil", num_workers=0, **where).sets["val"]
            ours = _one_slice(dataset, collate([dataset.source[0]]))
            _need_equal(ours(), reference())
            seconds = in_turns({"ours": _times(20, ours), "reference": _times(20, reference)}, _ROUNDS)
            label = f"transform of one slice, one core, from {name}"
            yield compared(label, seconds["ours"], seconds["reference"], goal, 1e3 / 20)
    finally:
        torch.set_num_threads(threads)


def _their_slice(root: Path) -> Callable[[], Any]:
    """fastMRI's transform of the first validation slice, held in memory."""
    transform = UnetDataTransform("singlecoil", RandomMaskFunc(**_MASK), use_seed=True)
    kspace, _, target, attrs, fname, _ = SliceDataset(root / "singlecoil_val", "singlecoil")[0]
    return lambda: transform(kspace, None, target, attrs, fname, 0)


def _one_slice(dataset: MaskedSlices, batch: Slice) -> Callable[[], Sample]:
    """Draws a mask and does what fastMRI's transform does, on a slice held in memory."""

    def ours() -> Sample:
        sampling = dataset.sampling("", 0, 0)
        mask, acs_mask = (torch.from_numpy(mask)[None, None] for mask in sampling[:2])
        sample = undersample(batch._replace(mask=mask, acs_mask=acs_mask))
        assert sample.target is not None
        mean = sample.mean[:, None, None]
        zero_filled = (sample.measurement.zero_filled - mean).clamp_(-6, 6)
        measurement = sample.measurement._replace(zero_filled=zero_filled)
        return sample._replace(measurement=measurement, target=(sample.target - mean).clamp_(-6, 6))

    return ours


def _need_equal(ours: Sample, theirs: Any) -> None:
    torch.testing.assert_close(ours.measurement.zero_filled[0], theirs.image, atol=1e-5, rtol=1e-5)
    assert ours.target is not None
    torch.testing.assert_close(ours.target[0], theirs.target, atol=1e-5, rtol=1e-5)


def _times(count: int, action: Callable[[], object]) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(count):
            action()

    return repeated


# From file to ready batch


def _loader_rows(root: Path, prepared: Path, device: str) -> Iterator[Row]:
    for name, challenge, goal, where in (
        ("HDF5 to ready batch, single-coil", "singlecoil", 2.0, {"root": str(root)}),
        ("prepared store to ready batch, single-coil", "singlecoil", 5.0, {"prepared": str(prepared)}),
        ("HDF5 to ready batch, 15 coils", "multicoil", 3.0, {"root": str(root)}),
        ("prepared store to ready batch, 15 coils", "multicoil", None, {"prepared": str(prepared)}),
    ):
        data = _datamodule(challenge, **where)
        yield _loader_row(
            f"{name}, {_WORKERS} workers", data, _theirs(root, challenge, _WORKERS, _BATCH[challenge]), device, goal
        )
    data = _datamodule("singlecoil", prepared=str(prepared), resident=True, num_workers=0)
    if device == "cuda":
        theirs = _theirs(root, "singlecoil", len(os.sched_getaffinity(0)), 1)
        yield _loader_row("resident on the GPU to ready batch, single-coil", data, theirs, device, 100.0)
    else:
        theirs = _theirs(root, "singlecoil", _WORKERS, _BATCH["singlecoil"])
        yield _loader_row("resident in memory to ready batch, single-coil", data, theirs, device, None)


def _theirs(root: Path, challenge: str, num_workers: int, batch_size: int) -> DataLoader[Any]:
    transform = UnetDataTransform(challenge, RandomMaskFunc(**_MASK), use_seed=False)
    dataset = SliceDataset(root / f"{challenge}_train", challenge, transform)
    return DataLoader(dataset, batch_size, shuffle=True, num_workers=num_workers, persistent_workers=True)


def _loader_row(name: str, data: ReconDataModule, theirs: DataLoader[Any], device: str, goal: float | None) -> Row:
    loader, num_slices = data.train_dataloader(), len(data.sets["train"])
    epochs = itertools.count()

    def ours() -> None:
        loader.batch_sampler.sampler.set_epoch(next(epochs))  # type: ignore[union-attr]
        for batch in loader:
            data.on_after_batch_transfer(data.transfer_batch_to_device(batch, torch.device(device), 0), 0)
        if device == "cuda":
            torch.cuda.synchronize()

    def reference() -> None:
        for batch in theirs:
            batch.image.to(device)

    seconds = in_turns({"ours": ours, "reference": reference}, _ROUNDS)
    row = compared(name, seconds["ours"], seconds["reference"], goal or 0, 1e3 / num_slices, "ms/slice")
    return row if goal else row._replace(goal="-", met=None)


# Headers


def _index_rows(folder: Path) -> Iterator[Row]:
    paths = _write_headers(folder / "singlecoil_train", 200)

    def first() -> None:
        (folder / FILE_NAME).unlink(missing_ok=True)
        assert all(entry.info for entry in Index(folder).look_up(paths))

    def again() -> None:
        assert all(entry.info for entry in Index(folder).look_up(paths))

    sides = {
        "first": first,
        "again": again,
        "reference": lambda: SliceDataset(folder / "singlecoil_train", "singlecoil"),
    }
    seconds = in_turns(sides, 2 * _ROUNDS + 1)
    yield compared("index of 200 volumes, the first time", seconds["first"], seconds["reference"], 1.0)
    yield compared("index of 200 volumes, again", seconds["again"], seconds["reference"], 20.0)


def _write_headers(folder: Path, number: int) -> list[Path]:
    """Tiny volumes with headers of the length that scanners write, 20 kB."""
    rng = np.random.default_rng(0)
    kspace = (rng.standard_normal((4, 40, 36)) + 1j * rng.standard_normal((4, 40, 36))).astype(np.complex64)
    target = rng.random((4, 32, 32), np.float32)
    folder.mkdir(parents=True)
    paths = [folder / f"file{1000000 + i}.h5" for i in range(number)]
    for path in paths:
        write_volume(
            path, kspace, {"reconstruction_esc": target}, acquisition="AXT2", patient_id="p", recon_size=(32, 32),
            header=_long_header(),
        )  # fmt: skip
        os.utime(path, (1e9, 1e9))
    return paths


def _long_header() -> str:
    parameter = "<userParameterLong><name>EncodingParameter{0}</name><value>{1}</value></userParameterLong>\n"
    parameters = "".join(parameter.format(i, 37 * i) for i in range(220))
    end = "</ismrmrdHeader>"
    return header_xml((40, 36), (32, 32)).removesuffix(end) + f"<userParameters>{parameters}</userParameters>{end}"


# Memory


def _memory_rows(folder: Path) -> Iterator[Row]:
    infos = [entry.info for entry in Index(folder).look_up(sorted((folder / "singlecoil_train").glob("*.h5")))]
    source = Source([info for info in infos if info is not None], [1.0] * len(infos))
    dataset = MaskedSlices(source, {"": RandomMaskFunc(**_MASK)}, seed=0)
    numbers, sizes = [], []
    for number in range(11_000):
        batch = collate([dataset[Draw(number % len(dataset), number)]])
        undersample(batch)
        if number >= 1_000 and number % 500 == 0:
            gc.collect()
            numbers.append(number)
            sizes.append(_resident_bytes())
    slope = statistics.linear_regression(numbers, sizes).slope
    yield Row(
        "growth of memory over 10,000 samples",
        slope * 10_000 / 1024,
        None,
        "KiB",
        None,
        "<= 1024",
        slope * 10_000 < 2**20,
    )
    size = len(pickle.dumps(dataset)) / len(infos)
    yield Row("what a worker is sent, per volume", size, None, "bytes", None, "<= 1024", size <= 1024)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

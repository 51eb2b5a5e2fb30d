"""The Python interface: scans and arrays in, images out; see docs/python.md."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrirecon.config.allowlist import check_foreign
from mrirecon.config.compose import instantiate
from mrirecon.config.options import option_content, options_of
from mrirecon.errors import ConfigError, InputError
from mrirecon.inference.checkpoints import load_weights, read_checkpoint
from mrirecon.inference.reconstruct import Reconstruction, choose_device
from mrirecon.inference.reconstruct import reconstruct as reconstruct_scan
from mrirecon.io import formats
from mrirecon.io.scan import MIN_SIZE, Scan, ScanInfo, System
from mrirecon.models.base import ReconModel, check_model
from mrirecon.sampling.masks import Masking


def read(path: str | Path) -> Scan:
    """The scan in a file of any format that is known, whole, in the units of the file.

    Raises InputError for what cannot be read, with the reason and the remedy.
    """
    return formats.read(Path(path))


def scan_of(
    kspace: Any,
    *,
    mask: Any = None,
    size: tuple[int, int] | None = None,
    name: str = "array",
) -> Scan:
    """A scan of arrays in memory, of NumPy or torch.

    kspace: complex (slice coil h w), or (coil h w) for one slice; h is the readout, w the phase encoding, the zero
    frequency in the middle. mask: sampled columns (w,) or points (h w); None: all, less columns of zeros.
    size: (y, x) of the images; None: (h, w). name: seeds a mask that is drawn. Raises InputError for other shapes, and
    for values that are not finite.
    """
    values = np.asarray(kspace)
    if values.ndim == 3:
        values = values[None]
    if values.ndim != 4 or values.dtype.kind != "c":
        raise InputError(
            f"kspace: expected complex numbers of (slice, coil, h, w) or (coil, h, w), got {values.dtype} of shape "
            f"{values.shape}"
        )
    values = values.astype(np.complex64)
    h, w = values.shape[-2:]
    y, x = size or (h, w)
    if min(h, w, y, x) < MIN_SIZE:
        raise InputError(
            f"kspace: expected at least {MIN_SIZE} samples and pixels each way, got {h}x{w} samples for {y}x{x} pixels"
        )
    if not np.isfinite(values.view(np.float32)).all():
        raise InputError("kspace: expected finite numbers, found NaN or Inf")
    sampled = None if mask is None else np.asarray(mask) != 0
    if sampled is not None and (sampled.shape not in ((w,), (h, w)) or not sampled.any()):
        raise InputError(f"mask: expected ({w},) or ({h}, {w}), got {sampled.shape} with {sampled.sum()} samples")
    info = ScanInfo(
        path=Path(name),
        name=name,
        num_slices=len(values),
        num_coils=values.shape[1],
        kspace_size=(h, w),
        acquired=(0, w),
        mask=sampled,
        num_low_frequency=None,
        recon_size=(y, x),
        target=None,
        geometry=None,
        acquisition="unknown",
        patient=None,
        system=System(),
        simulated=False,
        fastmri_challenge=None,
        notes=(),
    )
    return Scan(info, values, None)


def load(path: str | Path, *, trust: Collection[str] = ()) -> ReconModel:
    """The model of a checkpoint or an exported folder, with its weights, in evaluation mode; or, by name, one of
    conf/model that needs no training: "zero_filled", "cg_sense", "tv", "wavelet".

    trust: packages of your own that its config may name. Nothing else in the file is executed or imported. Raises
    ConfigError for a missing file or a part that is not trusted, InputError for a file that cannot be used.
    """
    if str(path) in options_of("model") and not Path(path).exists():
        model = check_model(instantiate("model", option_content("model", str(path))))
        if any(True for _ in model.parameters()):
            raise ConfigError(f"{path}: this model has to be trained first: give a checkpoint of a training run")
        return model.eval()
    checkpoint = read_checkpoint(path)
    node = check_foreign(checkpoint["config"].get("model"), "model", trust)
    model = check_model(instantiate("model", node, trust))
    load_weights(model, path)
    return model.eval()


def reconstruct(
    model: ReconModel,
    scan: Scan,
    *,
    mask: Masking | None = None,
    batch_size: int = 8,
    device: str | torch.device = "auto",
) -> Reconstruction:
    """Reconstructs every slice of a scan: `volume` and `zero_filled`, float32 (slice y x), in the units of the scan.

    mask: undersamples a fully sampled scan first, one of fastMRI's mask classes, seeded by the scan's name.
    device: auto, cpu or cuda.

    Raises InputError where the scan does not suit the model, ConfigError for a device that is not there.
    """
    chosen = choose_device(device) if isinstance(device, str) else device
    return reconstruct_scan(model, scan, mask, batch_size, chosen)

"""What the tests share: small files in the fastMRI layout, and the real scans where they are."""

from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, settings
from omegaconf import DictConfig

from mrirecon.config.options import CONF
from mrirecon.io.raw import fastmri_writer

# A busy machine is no failure of the code.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")

REALDATA = Path(__file__).resolve().parents[2] / "shared" / "realdata"
Volume = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test leaves anything in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real scans; they are not part of the project."""
    if not REALDATA.is_dir():
        pytest.skip("the real scans (../shared/realdata beside the project) are not on this machine")
    return REALDATA


def compose_config(command: str, *overrides: str) -> DictConfig:
    """The config of a command without a checkpoint."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(command, list(overrides))


def smooth_object(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Complex images with structure on all scales: blocks and noise.  -> complex64 shape"""
    *outer, h, w = shape
    coarse = rng.standard_normal((*outer, -(-h // 8), -(-w // 8)))
    image = coarse.repeat(8, axis=-2).repeat(8, axis=-1)[..., :h, :w] + 0.1 * rng.standard_normal(shape)
    return (image * np.exp(0.5j)).astype(np.complex64)


@pytest.fixture
def volume() -> Volume:
    """Writes one volume whose target is what its k-space gives: volume(path, slices, coils or None, (h, w), (y, x))"""

    def write(
        path: Path,
        num_slices: int = 2,
        num_coils: int | None = None,
        size: tuple[int, int] = (40, 36),
        target: tuple[int, int] | None = None,
        seed: int = 0,
        mask: np.ndarray | None = None,
        scale: float = 1.0,
    ) -> Path:
        rng = np.random.default_rng(seed)
        coils = () if num_coils is None else (num_coils,)
        images = scale * smooth_object(rng, num_slices, *coils, *size)
        axes = (-2, -1)
        kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes), norm="ortho"), axes).astype(np.complex64)
        y, x = target or size
        top, left = (size[0] - y) // 2, (size[1] - x) // 2
        magnitude = np.abs(images)[..., top : top + y, left : left + x]
        combined = magnitude if num_coils is None else np.sqrt((magnitude**2).sum(axis=1))
        name = "reconstruction_esc" if num_coils is None else "reconstruction_rss"
        path.parent.mkdir(parents=True, exist_ok=True)
        if mask is not None:
            kspace = kspace * mask
        fastmri_writer.write_volume(
            path,
            kspace,
            {name: combined.astype(np.float32)},
            acquisition="TEST",
            patient_id=path.stem,
            recon_size=(y, x),
            mask=mask,
        )
        return path

    return write


@pytest.fixture
def folder(tmp_path: Path, volume: Volume) -> Path:
    """A single-coil set of mixed sizes, three training volumes and two validation volumes."""
    root = tmp_path / "set"
    for number, size in enumerate([(40, 36), (40, 36), (48, 45)]):
        volume(root / "singlecoil_train" / f"t{number}.h5", num_slices=3, size=size, seed=number)
    for number, size in enumerate([(40, 36), (48, 45)]):
        volume(root / "singlecoil_val" / f"v{number}.h5", num_slices=2, size=size, seed=10 + number)
    return root

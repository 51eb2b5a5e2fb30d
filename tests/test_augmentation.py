"""Augmentation: exact where it can be, the same for every coil and for the target, and drawn by the counter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Volume
from samples import Needing, slices
from test_data import MASK, datamodule
from torch import Tensor

from mrirecon.data.augmentation import Augmentation, apply_affine, move
from mrirecon.errors import ConfigError
from mrirecon.physics.coils import rss
from mrirecon.physics.crop import center_crop
from mrirecon.physics.fft import fft2c, ifft2c
from mrirecon.physics.sample import Sample, Slice
from mrirecon.physics.zero_filled import to_hybrid


def movement(matrix: list[list[float]], shift: tuple[float, float] = (0, 0)) -> Tensor:
    return torch.cat([torch.tensor(matrix, dtype=torch.float32), torch.tensor(shift).float()[:, None]], dim=1)[None]


def smooth_images(h: int, w: int, num_coils: int = 2) -> Tensor:
    """Complex images that cubic interpolation can follow.  -> (1 coil h w)"""
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    blob = torch.exp(-8 * ((y - 0.2) ** 2 + 1.5 * (x + 0.15) ** 2))
    phases = torch.exp(1j * (0.5 * y + torch.arange(1, num_coils + 1)[:, None, None] * x))
    return (blob * phases)[None].to(torch.complex64)


def batch(images: Tensor, how: Tensor, size: tuple[int, int], hybrid: bool = False) -> Slice:
    kspace, target = fft2c(images), center_crop(rss(images), size)
    mask = torch.ones(1, 1, 1, images.shape[-1], dtype=torch.bool)
    kspace = to_hybrid(kspace, size[0]) if hybrid else kspace
    return slices(kspace, mask, size, target=target, affine=how, hybrid=hybrid)


def test_whole_pixel_movements_are_exact() -> None:
    images = torch.randn(1, 1, 9, 12)
    torch.testing.assert_close(move(images, movement([[1, 0], [0, 1]]), (4, 6)), images, atol=1e-5, rtol=0)
    shifted = move(images, movement([[1, 0], [0, 1]], (2, -3)), (4, 6))
    torch.testing.assert_close(shifted[..., 2:, :-3], images[..., :-2, 3:], atol=1e-5, rtol=0)
    flipped = move(images, movement([[-1, 0], [0, 1]]), (4, 6))
    torch.testing.assert_close(flipped, images.flip(-2), atol=1e-5, rtol=0)
    turned = move(images[..., :9], movement([[0, -1], [1, 0]]), (4, 4))
    torch.testing.assert_close(turned, images[..., :9].rot90(-1, (-2, -1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize(("h", "w", "size"), [(64, 40, (32, 32)), (63, 41, (33, 30)), (48, 48, (48, 48))])
def test_the_target_moves_with_the_coils(h: int, w: int, size: tuple[int, int], hybrid: bool) -> None:
    angle = np.deg2rad(7.0)
    how = movement([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], (1.3, -2.1))
    before = batch(smooth_images(h, w), how, size, hybrid)
    after = apply_affine(before)
    assert type(after) is type(before)
    if hybrid:
        image = rss(center_crop(torch.fft.fftshift(torch.fft.ifft(torch.fft.ifftshift(after.kspace, dim=-1), dim=-1,
                    norm="ortho"), dim=-1), size))  # fmt: skip
    else:
        image = center_crop(rss(ifft2c(after.kspace)), size)
    # The target is made of the moved images: what is left is the rounding of transforms in single precision.
    assert (image - after.target).abs().max() < 1e-5 * after.target.max()
    assert (after.target - before.target).abs().max() > 0.1 * after.target.max()


@pytest.fixture
def folder(tmp_path: Path, volume: Volume) -> Path:
    for split in ("train", "val"):
        volume(tmp_path / f"singlecoil_{split}" / f"{split}.h5", 4, size=(40, 36))
    return tmp_path


def test_movements_follow_the_counter_in_training_only(folder: Path) -> None:
    def drawn(**changes: Any) -> dict[tuple[int, int], list[float]]:
        data = datamodule(folder, augmentation=Augmentation(0.5, 10, 3), mask=MASK, **changes)
        data.setup("fit")
        data.serve(Needing())
        assert all(torch.equal(b.affine, torch.eye(2, 3).expand_as(b.affine)) for b in data.val_dataloader())
        loader, found = data.train_dataloader(), {}
        for epoch in (0, 1):
            loader.batch_sampler.sampler.set_epoch(epoch)
            for b in loader:
                found |= {(epoch, int(n)): m.flatten().tolist() for n, m in zip(b.slice_num, b.affine, strict=True)}
        return found

    one = drawn(batch_size=1)
    assert len({tuple(values) for values in one.values()}) == 8
    assert one == drawn(batch_size=3) == drawn(batch_size=2, resident=True)


def test_workers_move_training_images_as_the_device_would(folder: Path) -> None:
    targets = []
    for num_workers in (0, 1):
        data = datamodule(folder, augmentation=Augmentation(0.5, 10, 3), mask=MASK, num_workers=num_workers)
        data.setup("fit")
        data.serve(Needing())
        batch = next(iter(data.train_dataloader()))
        assert isinstance(batch, Sample if num_workers else Slice)
        targets.append(batch.target * batch.scale[:, None, None] if num_workers else apply_affine(batch).target)
        batch = next(iter(data.val_dataloader()))
        targets.append(batch.target * batch.scale[:, None, None] if num_workers else batch.target)
    torch.testing.assert_close(targets[:2], targets[2:])


@pytest.mark.parametrize("changes", [{"flip_prob": 1.5}, {"max_angle": -1}, {"max_shift": float("inf")}])
def test_what_cannot_be_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        Augmentation(**({"flip_prob": 0.5, "max_angle": 5, "max_shift": 3} | changes))

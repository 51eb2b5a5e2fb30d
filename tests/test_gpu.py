"""On a GPU: the numbers of the CPU, without waiting for the host, and a training run."""

from pathlib import Path

import pytest
import torch
from samples import slices
from test_configs import TINY, compose

from mrirecon.build import build_datamodule, build_module, build_trainer
from mrirecon.metrics.volume import VolumeScores
from mrirecon.models.image_domain import unet
from mrirecon.physics.sample import Slice, undersample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine"),
]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def batch(device: str) -> Slice:
    generator = torch.Generator().manual_seed(0)
    kspace = torch.randn(3, 4, 96, 80, dtype=torch.complex64, generator=generator)
    mask = torch.rand(3, 1, 1, 80, generator=generator) < 0.5
    target = torch.rand(3, 48, 47, generator=generator)
    made = slices(kspace, mask, (48, 47), target=target)
    return Slice(*(None if tensor is None else tensor.to(device) for tensor in made))


def test_undersampling_gives_the_cpu_s_sample() -> None:
    cpu, gpu = undersample(batch("cpu"), ["kspace"]), undersample(batch("cuda"), ["kspace"])
    for name in ("kspace", "zero_filled"):
        values, wanted = (getattr(one.measurement, name) for one in (gpu, cpu))
        torch.testing.assert_close(values.cpu(), wanted, atol=1e-5, rtol=1e-5)
    for name in ("target", "data_range", "scale", "mean"):
        torch.testing.assert_close(getattr(gpu, name).cpu(), getattr(cpu, name), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["instance", "batch", "group", "layer", "none"])
def test_a_unet_gives_the_cpu_s_image(norm: str) -> None:
    model = unet(8, 3, 0.0, norm, None, 6.0).eval()
    images = {}
    for device in ("cpu", "cuda"):
        sample = undersample(batch(device))
        images[device] = model.to(device)(sample.measurement).image.detach().cpu()
    torch.testing.assert_close(images["cuda"], images["cpu"], atol=1e-4, rtol=1e-4)


def test_scores_are_the_cpu_s_and_updating_them_waits_for_no_host() -> None:
    results = {}
    for device in ("cpu", "cuda"):
        made, scores = batch(device), VolumeScores().to(device)
        pred = made.target * 0.9
        args = (pred, made.target, made.data_range, made.volume, made.slice_num)
        torch.cuda.set_sync_debug_mode("error")
        try:
            scores.update(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        results[device] = scores.compute()
    for name in ("ssim", "psnr", "nmse"):
        assert results["cuda"][name] == pytest.approx(results["cpu"][name], rel=1e-12)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_an_epoch_on_the_gpu_gives_finite_weights(folder: Path, tmp_path: Path, precision: str) -> None:
    places = ["data=fastmri_singlecoil", f"data.root={folder}", f"run_dir={tmp_path}"]
    cfg = compose("trainer=gpu", f"trainer.precision={precision}", "trainer.max_epochs=1", *TINY, *places)
    module, trainer = build_module(cfg), build_trainer(cfg)
    trainer.fit(module, build_datamodule(cfg))
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert trainer.callback_metrics["val/ssim"] > -1

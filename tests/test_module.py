"""Training: equal to fastMRI's own parts in a plain loop, exact when resumed, stopped before it diverges."""

from functools import partial
from pathlib import Path
from typing import Any

import fastmri.models
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import Volume
from fastmri.data import SliceDataset, transforms
from fastmri.data.subsample import RandomMaskFunc
from torch import Tensor, nn
from torch.nn import functional as F

from mrirecon.data.datamodule import ReconDataModule, recon_datamodule
from mrirecon.data.sources import Draw, MaskedSlices
from mrirecon.errors import ConfigError, DivergedError, InputError
from mrirecon.models.base import ReconModel
from mrirecon.models.image_domain import ZeroFilled, unet
from mrirecon.physics.sample import Measurement, Prediction
from mrirecon.training import schedules
from mrirecon.training.callbacks.record import Record
from mrirecon.training.losses import L1Loss
from mrirecon.training.module import ReconModule

MASK = RandomMaskFunc([0.08], [4])


def small_unet(**changes: Any) -> nn.Module:
    settings = {
        "chans": 4, "num_pool_layers": 2, "drop_prob": 0.0, "norm": "instance", "num_groups": None, "clamp": 6.0,
    }  # fmt: skip
    return unet(**{**settings, **changes})


def data_of(root: Path | list[Path], **changes: Any) -> ReconDataModule:
    settings: dict[str, Any] = {"batch_size": 1, "num_workers": 0, "check": "headers", "split": "val", "seed": 0}
    roots = [str(path) for path in root] if isinstance(root, list) else str(root)
    return recon_datamodule(root=roots, challenge="singlecoil", mask=MASK, **{**settings, **changes})


def trainer_of(tmp_path: Path, *callbacks: pl.Callback, **changes: Any) -> pl.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu", "max_epochs": 2, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False,
        "default_root_dir": tmp_path, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return pl.Trainer(**{**settings, "callbacks": list(callbacks), **changes})


class Losses(pl.Callback):
    """Keeps every training loss, and which slices it was of."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.draws: list[tuple[int, int, int]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(float(outputs["loss"]))
        self.draws.append((int(batch.volume[0]), int(batch.slice_num[0]), trainer.current_epoch))


class Replay:
    """A mask function for fastMRI's transform that gives the mask this project drew."""

    def __init__(self, dataset: MaskedSlices) -> None:
        self.dataset = dataset
        self.draw = Draw(0, 0)

    def __call__(self, shape: Any, offset: Any = None, seed: Any = None) -> tuple[Tensor, int]:
        item = self.dataset[self.draw]
        return item.mask.reshape(1, -1, 1).float(), int(item.acs_mask.sum())


Weights = dict[str, Tensor]


class Reference:
    """fastMRI's data set, transform and U-Net, L1 loss and torch's RMSprop, stepped by hand."""

    def __init__(self, root: Path, dataset: MaskedSlices, weights: Weights, dtype: torch.dtype) -> None:
        self.replay = Replay(dataset)
        transform = transforms.UnetDataTransform("singlecoil", self.replay, use_seed=False)

        def in_dtype(kspace: np.ndarray, mask: None, target: np.ndarray, *rest: Any) -> transforms.UnetSample:
            wide = dtype == torch.float64
            return transform(kspace.astype("c16" if wide else "c8"), mask, target.astype("f8" if wide else "f4"), *rest)

        self.slices = SliceDataset(root / "singlecoil_train", "singlecoil", in_dtype, use_dataset_cache=False)
        self.numbers = {(Path(e.fname).name, e.slice_ind): i for i, e in enumerate(self.slices.raw_samples)}
        self.model = fastmri.models.Unet(1, 1, chans=8, num_pool_layers=3)
        self.model.load_state_dict(weights)
        self.model.to(dtype)
        self.optimizer = torch.optim.RMSprop(self.model.parameters(), lr=1e-3, weight_decay=0.0)

    def step(self, draw: tuple[int, int, int]) -> float:
        volume, slice_num, epoch = draw
        source = self.replay.dataset.source
        index = next(i for i in range(len(source)) if source.where(i)[1:] == (volume, slice_num))
        self.replay.draw = Draw(index, epoch)
        sample = self.slices[self.numbers[source.volumes[volume].name, slice_num]]
        loss = F.l1_loss(self.model(sample.image[None, None]).squeeze(1), sample.target[None])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


class Wide(ReconDataModule):
    """The same batches in double precision: fastMRI's parts are then followed without rounding in the way."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        wide = batch._replace(kspace=batch.kspace.to(torch.complex128), target=batch.target.double())
        return super().on_after_batch_transfer(wide, dataloader_idx)


def train_20_steps(
    tmp_path: Path, data: ReconDataModule, dtype: torch.dtype, *callbacks: pl.Callback
) -> tuple[Losses, Weights]:
    """fastMRI's recipe by this project, and the weights it began with."""
    torch.manual_seed(0)
    model = small_unet(chans=8, num_pool_layers=3)
    weights = {k: v.clone() for k, v in model.network.state_dict().items()}  # type: ignore[union-attr]
    optimizer = partial(torch.optim.RMSprop, lr=1e-3, weight_decay=0.0)
    module = ReconModule(model, L1Loss(), optimizer, partial(schedules.step, step_size=40, gamma=0.1), target_clamp=6.0)
    losses = Losses()
    trainer = trainer_of(tmp_path, losses, *callbacks, max_epochs=-1, max_steps=20, limit_val_batches=0)
    trainer.fit(module.to(dtype), data)
    return losses, weights


@pytest.fixture(params=["written", "real"])
def training_root(request: pytest.FixtureRequest, tmp_path: Path, volume: Volume) -> Path:
    if request.param == "real":
        return request.getfixturevalue("realdata") / "lowfield"
    for number in range(5):
        volume(
            tmp_path / "singlecoil_train" / f"t{number}.h5", 4, size=(72, 60), target=(48, 48), seed=number, scale=1e-4
        )
    volume(tmp_path / "singlecoil_val" / "v.h5", 1, size=(72, 60), target=(48, 48))
    return tmp_path


def test_twenty_training_losses_equal_fastmri_s(tmp_path: Path, training_root: Path) -> None:
    """Free-running, in double precision: RMSprop moves by the sign of a gradient at first, so float32 rounding of
    gradients that should vanish changes whole steps, in fastMRI's loop against itself too (see the next tests)."""
    plain = data_of(training_root)
    data = Wide(plain.reading, plain.selection, plain.undersampling, plain.loading, "val", 0)
    losses, weights = train_20_steps(tmp_path, data, torch.float64)
    reference = Reference(training_root, data.sets["train"], weights, torch.float64)
    expected = [reference.step(draw) for draw in losses.draws]
    assert len(expected) == 20
    assert losses.values == pytest.approx(expected, rel=1e-5)


class Follow(pl.Callback):
    """Gives every training step the weights that the reference has at that step."""

    def __init__(self, root: Path, data: ReconDataModule) -> None:
        self.root, self.data = root, data
        self.reference: Reference | None = None
        self.expected: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.reference is None:
            weights = {k: v.clone() for k, v in pl_module.model.network.state_dict().items()}
            self.reference = Reference(self.root, self.data.sets["train"], weights, torch.float32)
        pl_module.model.network.load_state_dict(self.reference.model.state_dict())
        draw = (int(batch.volume[0]), int(batch.slice_num[0]), trainer.current_epoch)
        self.expected.append(self.reference.step(draw))


def test_in_single_precision_each_step_s_loss_equals_fastmri_s_from_the_same_weights(
    tmp_path: Path, training_root: Path
) -> None:
    data = data_of(training_root)
    follow = Follow(training_root, data)
    losses, _ = train_20_steps(tmp_path, data, torch.float32, follow)
    assert losses.values == pytest.approx(follow.expected, rel=1e-5)
    assert len(follow.expected) == 20


def test_in_single_precision_the_free_running_losses_part_no_faster_than_fastmri_s_own_loop(
    tmp_path: Path, training_root: Path
) -> None:
    """The first loss agrees; later ones part as fastMRI's loop parts from itself when its first weights are changed by
    one part in 10^7, the rounding of float32: by up to some per cent within 20 steps, whatever the code."""
    data = data_of(training_root)
    losses, weights = train_20_steps(tmp_path, data, torch.float32)

    def follow(start: Weights) -> np.ndarray:
        reference = Reference(training_root, data.sets["train"], start, torch.float32)
        return np.array([reference.step(draw) for draw in losses.draws])

    expected = follow(weights)
    rounding = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        shaken = {k: v * (1 + 1e-7 * torch.randn(v.shape, generator=generator)) for k, v in weights.items()}
        rounding.append(np.abs(follow(shaken) / expected - 1))
    ours = np.abs(np.array(losses.values) / expected - 1)
    assert ours[0] < 1e-6
    # Sums over the run, and four shaken runs: single steps of chaotic paths differ by more than a factor of a few.
    assert ours.sum() < 5 * np.max([path.sum() for path in rounding])
    assert ours.max() < 0.1


@pytest.mark.parametrize(
    "schedule", [partial(schedules.step, step_size=1, gamma=0.5), partial(schedules.cosine, final_factor=0.0)]
)
def test_a_run_resumed_after_an_epoch_has_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, folder: Path, schedule: Any
) -> None:
    def fit(epochs: int, ckpt: str | None = None) -> ReconModule:
        torch.manual_seed(1)
        module = ReconModule(small_unet(drop_prob=0.2), L1Loss(), partial(torch.optim.Adam, lr=1e-3), schedule)
        keep = pl.callbacks.ModelCheckpoint(
            tmp_path / "kept", save_last=True, save_top_k=0, save_on_train_epoch_end=True, enable_version_counter=False
        )
        # The schedule is that of the whole run, so the first part stops early instead of being a shorter run.
        stop = StopAfter(epochs)
        trainer = trainer_of(tmp_path, keep, stop, max_epochs=3, enable_checkpointing=True, limit_val_batches=0)
        trainer.fit(module, data_of(folder, batch_size=2), ckpt_path=ckpt, weights_only=True)
        return module

    whole = fit(3)
    fit(1)
    resumed = fit(3, str(tmp_path / "kept" / "last.ckpt"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


class StopAfter(pl.Callback):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


class PoisonAt(ReconModel):
    """A model whose answer becomes NaN at one step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.inner, self.step, self.seen = small_unet(), step, 0

    def forward(self, measurement: Measurement) -> Prediction:
        self.seen += self.training
        image = self.inner(measurement).image
        return Prediction(image * float("nan") if self.training and self.seen == self.step else image)


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_file(tmp_path: Path, folder: Path) -> None:
    module = ReconModule(PoisonAt(3), L1Loss(), partial(torch.optim.SGD, lr=1e-2))
    with pytest.raises(DivergedError, match=r"step 2 \(epoch 0\): loss nan.* on t\d\.h5 slice \d.*lower optimizer\.lr"):
        trainer_of(tmp_path).fit(module, data_of(folder))
    assert all(torch.isfinite(p).all() for p in module.parameters())


def test_a_model_without_parameters_is_refused_for_training(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        trainer_of(tmp_path).fit(ReconModule(ZeroFilled(), L1Loss(), torch.optim.Adam), data_of(folder))


def test_images_too_small_for_the_model_stop_before_the_first_step(tmp_path: Path, folder: Path) -> None:
    module = ReconModule(small_unet(num_pool_layers=5), L1Loss(), torch.optim.Adam)
    with pytest.raises(InputError, match="at least 64x64"):
        trainer_of(tmp_path).fit(module, data_of(folder))


def test_scores_do_not_depend_on_the_batch_size(tmp_path: Path, folder: Path) -> None:
    def results(batch_size: int) -> dict[str, Any]:
        module = ReconModule(ZeroFilled(), L1Loss())
        trainer_of(tmp_path).test(module, datamodule=data_of(folder, batch_size=batch_size), verbose=False)
        return module.results

    one, two = results(1), results(2)
    for score in ("ssim", "psnr", "nmse", "loss"):
        assert one[score] == pytest.approx(two[score], rel=1e-6)  # float32 sums of a batched FFT


def test_checkpoints_hold_plain_data(tmp_path: Path, folder: Path) -> None:
    module = ReconModule(
        small_unet(), L1Loss(), partial(torch.optim.Adam, lr=1e-3), partial(schedules.step, step_size=1, gamma=0.5)
    )
    keep = pl.callbacks.ModelCheckpoint(tmp_path / "c", filename="best", monitor="val/ssim", mode="max")
    trainer_of(tmp_path, keep, Record({"seed": 0}, "seed: 0"), max_epochs=1, enable_checkpointing=True).fit(
        module, data_of(folder)
    )
    checkpoint = torch.load(tmp_path / "c" / "best.ckpt", weights_only=True)
    assert checkpoint["config"] == {"seed": 0}

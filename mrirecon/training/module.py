"""The one LightningModule: any model, any loss, any optimizer."""

import copy
import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from mrirecon.data.datamodule import ReconDataModule
from mrirecon.errors import ConfigError, DivergedError
from mrirecon.metrics.scores import MAIN_SCORES
from mrirecon.metrics.volume import VolumeScores, mean_score
from mrirecon.models.base import ReconModel
from mrirecon.physics.sample import Prediction, Sample
from mrirecon.system.invocation import typed_as
from mrirecon.training.optimizers import Accumulation, exempt_from_decay, is_training, switches_weights


class Loss(Protocol):
    """The contract of losses; needs: out of "target" and "held_back", fields of a `Sample`."""

    needs: Collection[str]

    def __call__(self, prediction: Prediction, sample: Sample) -> Tensor:
        """A value for each slice.  -> (b)"""


class ReconModule(pl.LightningModule):
    """Trains and scores a reconstruction model.

    model: `model(measurement) -> Prediction`, see `mrirecon.models.base.ReconModel`.
    loss: `loss(prediction, sample) -> (b)`, in units of the zero-filled image's standard deviation.
    optimizer: `optimizer(params)`; None where the module only evaluates.
    scheduler: one of mrirecon.training.schedules, `scheduler(optimizer, num_steps, num_epochs)`.
    target_clamp: in training, clamps the target to so many standard deviations of the zero-filled image, as fastMRI's
        U-Net transform does; None does not. Scores are always of the true target.
    """

    def __init__(
        self,
        model: ReconModel,
        loss: Loss | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., dict[str, Any]] | None = None,
        target_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.model: ReconModel = model
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.target_clamp = target_clamp
        self.scores = VolumeScores()
        self.baseline: VolumeScores | None = None
        self.results: dict[str, Any] = {}  # of the last test
        self.baseline_results: dict[str, Any] | None = None
        self.validated: tuple[int, dict[str, Any]] | None = None  # the step of the last validation, and its results
        self._accumulation = Accumulation()
        self._seen: list[Sample] | None = None  # the batches of an epoch, for an optimizer that evaluates them again

    def choose_scores(self, scores: Sequence[str], baseline: bool) -> None:
        """Tests give these scores from here on, and with `baseline` those of the zero-filled image beside them."""
        self.scores = VolumeScores(scores)
        self.baseline = VolumeScores(scores) if baseline else None

    def forward(self, batch: Sample) -> Prediction:
        """The reconstruction of a batch, in units of `batch.scale`."""
        return self.model(batch.measurement)

    def setup(self, stage: str) -> None:
        self._datamodule().serve(self.model)
        if stage == "fit" and not any(p.requires_grad for p in self.parameters()):
            raise ConfigError(f"model: has nothing to train; score it with: {typed_as('evaluate')} model=zero_filled")

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        loss = self._training_loss(batch)
        self._batch, self._loss = batch, loss.detach()
        self.log("train/loss", self._loss, prog_bar=True, batch_size=len(batch.scale))
        return loss

    def _training_loss(self, batch: Sample) -> Tensor:
        assert self.loss is not None
        if self.target_clamp is not None and batch.target is not None:
            mean = batch.mean[:, None, None]
            batch = batch._replace(target=batch.target.clamp(mean - self.target_clamp, mean + self.target_clamp))
        return self.loss(self(batch), batch).mean()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Adds a batch's gradient; over several batches as a sum over slices, of which the step takes the mean."""
        if self._accumulates:
            # Lightning divided by the number of batches, which have different numbers of slices.
            whole = loss * self.trainer.accumulate_grad_batches
            loss = self._accumulation.weight(whole, len(self._batch.scale))
        if self._seen is not None:
            self._seen.append(self._batch)
        super().backward(loss, *args, **kwargs)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """A step by the mean gradient over all slices since the last one."""
        assert optimizer_closure is not None
        first = iter([optimizer_closure])  # the last batch; the gradients of those before are there
        again = optimizer_closure if self._seen is None else self._evaluate_again

        def closure() -> Tensor | None:
            loss = next(first, again)()
            if self._accumulates:
                self._loss = self._accumulation.finish(self.parameters())
                # Lightning takes None for a step that is to be skipped; an optimizer needs what it minimises.
                return None if loss is None else self._loss
            return loss

        optimizer.step(closure=closure)
        if self._seen is not None:
            self._seen.clear()

    @property
    def step_loss(self) -> Tensor:
        """The loss that the last optimizer step was taken by; of several batches, the mean over their slices."""
        return self._loss

    @property
    def _accumulates(self) -> bool:
        return self._seen is not None or self.trainer.accumulate_grad_batches > 1

    def _evaluate_again(self) -> Tensor:
        """Loss and gradient of all the epoch's batches at the weights as they are now."""
        assert self._seen is not None
        self.zero_grad()
        loss = torch.zeros(())
        for batch in self._seen:
            with self.trainer.precision_plugin.train_step_context():
                loss = self._accumulation.weight(self._training_loss(batch), len(batch.scale))
            loss.backward()
        return loss

    def on_train_epoch_start(self) -> None:
        self._accumulation.clear()
        if self._seen is not None:
            self._seen.clear()

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        # Dropout depends on these alone, so that a resumed run continues it.
        key = (self._datamodule().seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        self._switch_weights(training=True)

    def on_validation_start(self) -> None:
        self._switch_weights(training=False)

    def on_train_epoch_end(self) -> None:
        """Before checkpoints are written: they hold the weights that were validated."""
        self._switch_weights(training=False)

    def on_train_end(self) -> None:
        self._switch_weights(training=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Within an epoch, too, a checkpoint holds the weights that are to be evaluated."""
        if not any(switches_weights(o) and is_training(o) for o in self.trainer.optimizers):
            return
        self._switch_weights(training=False)
        checkpoint["state_dict"] = {name: value.clone() for name, value in self.state_dict().items()}
        if "optimizer_states" in checkpoint:
            checkpoint["optimizer_states"] = [copy.deepcopy(o.state_dict()) for o in self.trainer.optimizers]
        self._switch_weights(training=True)

    def _switch_weights(self, training: bool) -> None:
        for optimizer in self.trainer.optimizers:
            if switches_weights(optimizer):
                optimizer.train() if training else optimizer.eval()  # type: ignore[attr-defined]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Logs the gradient's norm, and stops every rank before a step that would not be finite."""
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        finite = torch.isfinite(norm) & torch.isfinite(self._loss)
        if self.trainer.world_size > 1:
            finite = self.trainer.strategy.reduce(finite.float(), reduce_op="sum") == self.trainer.world_size
        if not finite:
            raise DivergedError(self._divergence(norm))
        self.log("grad_norm", norm)
        self.log("lr", optimizer.param_groups[0]["lr"])

    def _divergence(self, norm: Tensor) -> str:
        train = self._datamodule().sets["train"]
        pairs = zip(self._batch.volume.tolist(), self._batch.slice_num.tolist(), strict=True)
        where = ", ".join(f"{train.source.label(train.volume(number)[0])} slice {n}" for number, n in pairs)
        return (
            f"training diverged at step {self.global_step} (epoch {self.current_epoch}): loss {float(self._loss):g}, "
            f"gradient norm {float(norm):g}, on {where}. No step was taken; lower optimizer.lr, "
            "clip with trainer.gradient_clip_val=1, or resume from the last checkpoint with ckpt=..."
        )

    def on_validation_epoch_start(self) -> None:
        self.scores.reset()

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        results = self._finite(self.scores.compute())
        if not self.trainer.sanity_checking:
            self.validated = self.global_step, results
        values = {f"val/{name}": _or_nan(results[name]) for name in (*MAIN_SCORES, "loss")}
        self.log_dict(values, prog_bar=True, batch_size=1, sync_dist=True)  # the same on every rank
        self.log_dict(self._by_mask(results["volumes"]), batch_size=1, sync_dist=True)

    def _by_mask(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """The scores under each mask, where there are several: `val/ssim_4x`, `val/ssim_8x`."""
        dataset = self._datamodule().sets["val"]
        of_mask = {mask: [r for r in rows if dataset.volume(r["volume"])[1] == mask] for mask in dataset.masks if mask}
        return {
            f"val/{score}_{mask.replace(' ', '_')}": _or_nan(mean_score(some, score))
            for mask, some in of_mask.items()
            for score in MAIN_SCORES
        }

    def on_test_epoch_start(self) -> None:
        self.scores.reset()
        if self.baseline is not None:
            self.baseline.reset()

    def test_step(self, batch: Sample, batch_idx: int) -> None:
        """Slice by slice: which kernels a convolution takes, and so the last bits, can depend on the batch size."""
        if not any(True for _ in self.model.parameters()):  # nothing learned, no convolution
            self._score(batch)
            return
        for number in range(len(batch.scale)):
            self._score(batch.rows(slice(number, number + 1)))

    def on_test_epoch_end(self) -> None:
        self.results = self._finite(self.scores.compute())
        self.baseline_results = None if self.baseline is None else self.baseline.compute()

    def _finite(self, results: dict[str, Any]) -> dict[str, Any]:
        """The results; raises DivergedError where the model's answer made a score of them NaN or infinite."""
        for row in results["volumes"]:
            if not all(math.isfinite(row[name]) for name in (*self.scores.scores, "loss") if row[name] is not None):
                split = self._datamodule().split if self.trainer.testing else "val"
                name = self._datamodule().sets[split].volume(row["volume"])[0].name
                raise DivergedError(
                    f"the reconstruction of {name} is not finite: the model's weights are not sound. "
                    "Lower optimizer.lr, or use an earlier checkpoint"
                )
        return results

    def _score(self, batch: Sample) -> None:
        prediction = self(batch)
        loss = None if self.loss is None or "held_back" in self.loss.needs else self.loss(prediction, batch)
        _update(self.scores, prediction.magnitude, batch, loss)
        if self.baseline is not None:
            _update(self.baseline, batch.measurement.zero_filled, batch, None)

    def set_lr(self, lr: float) -> None:
        """The optimizer that is configured from here on has this learning rate."""
        assert self.optimizer is not None
        self.optimizer = partial(self.optimizer, lr=lr)

    def configure_optimizers(self) -> Any:
        assert self.optimizer is not None
        optimizer = exempt_from_decay(self.optimizer(self.parameters()))
        if getattr(optimizer, "full_batch", False):
            self._take_whole_epochs()
            self._seen = [] if getattr(optimizer, "reevaluates", False) else None
        if switches_weights(optimizer) and any(isinstance(c, WeightAveraging) for c in self._callbacks()):
            raise ConfigError(
                "callbacks/averaging: a schedule-free optimizer averages the weights itself: leave the averaging out, "
                "or choose another optimizer"
            )
        if self.scheduler is None:
            return optimizer
        num_steps, num_epochs = self.trainer.estimated_stepping_batches, self.trainer.max_epochs
        if num_steps == float("inf") or num_epochs is None:
            raise ConfigError("trainer.max_epochs: a schedule needs the length of the run: give a number of epochs")
        config = self.scheduler(optimizer, num_steps=int(num_steps), num_epochs=num_epochs)
        return {"optimizer": optimizer, "lr_scheduler": config}

    def _take_whole_epochs(self) -> None:
        """Makes an optimizer step come after all batches of an epoch."""
        trainer = self.trainer
        trainer.fit_loop.setup_data()
        if trainer.accumulate_grad_batches not in (1, trainer.num_training_batches) or trainer.world_size > 1:
            raise ConfigError(
                f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches} on {trainer.world_size} device(s): "
                "this optimizer takes the gradient of the whole training set: it needs trainer.devices=1 and "
                "trainer.accumulate_grad_batches=1"
            )
        trainer.accumulate_grad_batches = int(trainer.num_training_batches)

    def _callbacks(self) -> list[pl.Callback]:
        return self.trainer.callbacks  # type: ignore[attr-defined]

    def _datamodule(self) -> ReconDataModule:
        return self.trainer.datamodule  # type: ignore[attr-defined]


def _update(scores: VolumeScores, pred: Tensor, batch: Sample, loss: Tensor | None) -> None:
    assert batch.target is not None  # only training does without
    scale = batch.scale[:, None, None]  # sums over a volume need one unit: that of its file
    args = (batch.data_range * batch.scale, batch.volume, batch.slice_num, loss)
    scores.update(pred * scale, batch.target * scale, *args)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value

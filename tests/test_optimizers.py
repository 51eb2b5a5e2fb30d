"""Optimizers: every option takes the steps of its paper, written out here; whole epochs, two sets of weights."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from test_module import StopAfter, data_of, small_unet, trainer_of
from torch import Tensor

from mrirecon.config.allowlist import check_targets
from mrirecon.config.compose import instantiate
from mrirecon.config.options import CONF
from mrirecon.errors import ConfigError
from mrirecon.physics.sample import Measurement, Slice, undersample
from mrirecon.training import schedules
from mrirecon.training.losses import L1Loss
from mrirecon.training.module import ReconModule
from mrirecon.training.optimizers import HeavyBall, exempt_from_decay

ALL = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
NUM_STEPS = 7  # RAdam's rectification begins with the sixth
Array = np.ndarray
Gradient = Callable[[Array], Array]
Rule = Callable[..., Iterator[Array]]


def build(name: str, params: Any, **changes: Any) -> torch.optim.Optimizer:
    config = OmegaConf.to_container(OmegaConf.load(CONF / "optimizer" / f"{name}.yaml"))
    assert isinstance(config, dict)
    config.pop("defaults", None)
    return instantiate("optimizer", {**config, **changes})(params)


# The updates. Each gives the weights after every step; g(w) is the gradient at w.


def sgd(w: Array, g: Gradient, lr: float) -> Iterator[Array]:
    while True:
        w = w - lr * g(w)
        yield w


def momentum(w: Array, g: Gradient, lr: float, m: float, nesterov: bool = False) -> Iterator[Array]:
    v = np.zeros_like(w)
    while True:
        gradient = g(w)
        v = m * v + gradient
        w = w - lr * (gradient + m * v if nesterov else v)
        yield w


def heavy_ball(w: Array, g: Gradient, lr: float, m: float) -> Iterator[Array]:
    before = w
    while True:
        before, w = w, w - lr * g(w) + m * (w - before)
        yield w


def rmsprop(w: Array, g: Gradient, lr: float, alpha: float, eps: float) -> Iterator[Array]:
    s = np.zeros_like(w)
    while True:
        gradient = g(w)
        s = alpha * s + (1 - alpha) * gradient**2
        w = w - lr * gradient / (np.sqrt(s) + eps)
        yield w


def adagrad(w: Array, g: Gradient, lr: float, eps: float) -> Iterator[Array]:
    s = np.zeros_like(w)
    while True:
        gradient = g(w)
        s = s + gradient**2
        w = w - lr * gradient / (np.sqrt(s) + eps)
        yield w


def adadelta(w: Array, g: Gradient, lr: float, rho: float, eps: float) -> Iterator[Array]:
    s, u = np.zeros_like(w), np.zeros_like(w)
    while True:
        gradient = g(w)
        s = rho * s + (1 - rho) * gradient**2
        move = np.sqrt(u + eps) / np.sqrt(s + eps) * gradient
        u = rho * u + (1 - rho) * move**2
        w = w - lr * move
        yield w


def adam(
    w: Array, g: Gradient, lr: float, b1: float, b2: float, eps: float, decay: float = 0.0, amsgrad: bool = False
) -> Iterator[Array]:
    m, v, largest = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    for t in range(1, 100):
        gradient = g(w)
        m = b1 * m + (1 - b1) * gradient
        v = b2 * v + (1 - b2) * gradient**2
        largest = np.maximum(largest, v)
        second = (largest if amsgrad else v) / (1 - b2**t)
        w = w - lr * decay * w - lr * m / (1 - b1**t) / (np.sqrt(second) + eps)
        yield w


def nadam(w: Array, g: Gradient, lr: float, b1: float, b2: float, eps: float, psi: float) -> Iterator[Array]:
    m, v, product = np.zeros_like(w), np.zeros_like(w), 1.0
    for t in range(1, 100):
        now, following = (b1 * (1 - 0.5 * 0.96 ** (step * psi)) for step in (t, t + 1))
        product *= now
        gradient = g(w)
        m = b1 * m + (1 - b1) * gradient
        v = b2 * v + (1 - b2) * gradient**2
        ahead = following * m / (1 - product * following) + (1 - now) * gradient / (1 - product)
        w = w - lr * ahead / (np.sqrt(v / (1 - b2**t)) + eps)
        yield w


def rectification(t: int, b2: float) -> float:
    """0 where the variance of Adam's second moment is not tractable yet."""
    longest = 2 / (1 - b2) - 1
    length = longest - 2 * t * b2**t / (1 - b2**t)
    if length <= 4:
        return 0.0
    return float(np.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)))


def radam(w: Array, g: Gradient, lr: float, b1: float, b2: float, eps: float) -> Iterator[Array]:
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, 100):
        gradient = g(w)
        m = b1 * m + (1 - b1) * gradient
        v = b2 * v + (1 - b2) * gradient**2
        longest = 2 / (1 - b2) - 1
        length = longest - 2 * t * b2**t / (1 - b2**t)
        first = m / (1 - b1**t)
        # torch's threshold is 5, the paper's 4: no step of these lies between.
        w = w - lr * (rectification(t, b2) * first * np.sqrt(1 - b2**t) / (np.sqrt(v) + eps) if length > 5 else first)
        yield w


def lion(w: Array, g: Gradient, lr: float, b1: float, b2: float) -> Iterator[Array]:
    m = np.zeros_like(w)
    while True:
        gradient = g(w)
        w, m = w - lr * np.sign(b1 * m + (1 - b1) * gradient), b2 * m + (1 - b2) * gradient
        yield w


def prodigy(w: Array, g: Gradient, lr: float, b1: float, b2: float, eps: float, d: float) -> Iterator[Array]:
    """Algorithm 4 of arXiv:2306.06101; the estimate of this step scales the next one's moments."""
    start, first = w, d
    m, v, s, r = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w), 0.0
    root = np.sqrt(b2)
    while True:
        gradient = g(w)
        m = b1 * m + (1 - b1) * d * gradient
        v = b2 * v + (1 - b2) * d**2 * gradient**2
        r = root * r + (1 - root) * lr * d**2 * np.sum(gradient * (start - w))
        s = root * s + (1 - root) * lr * d**2 * gradient
        new = max(d, r / np.sum(np.abs(s)))
        w = w - lr * d * m / (np.sqrt(v) + new * eps)
        d = new
        assert d >= first
        yield w


def schedule_free(w: Array, g: Gradient, beta: float, move: Callable[[Array, int], Array]) -> Iterator[Array]:
    """x of arXiv:2405.15682, Eq. 3 to 5, with a constant rate: every z has the same weight."""
    x = z = w
    count = 0
    for t in range(1, 100):
        y = (1 - beta) * z + beta * x
        step = move(g(y), t)
        z = z - step
        count += bool(np.any(step))  # a step that is left out, RAdam's, has no weight
        x = x + (z - x) / count if count else x
        yield x


def second_moment(lr: float, b2: float, eps: float) -> Callable[[Array, int], Array]:
    v: Array | float = 0.0

    def move(gradient: Array, t: int) -> Array:
        nonlocal v
        v = b2 * v + (1 - b2) * gradient**2
        return lr * gradient / (np.sqrt(v / (1 - b2**t)) + eps)

    return move


def muon(w: Array, g: Gradient, lr: float, m: float) -> Iterator[Array]:
    buffer = np.zeros_like(w)
    while True:
        gradient = g(w)
        buffer = m * buffer + (1 - m) * gradient
        x = m * buffer + (1 - m) * gradient
        x = x / np.linalg.norm(x)
        for _ in range(5):
            gram = x.T @ x
            x = 3.4445 * x + x @ (-4.7750 * gram + 2.0315 * gram @ gram)
        w = w - lr * np.sqrt(max(1, w.shape[0] / w.shape[1])) * x
        yield w


def soap(w: Array, g: Gradient, lr: float, b: float, eps: float) -> Iterator[Array]:
    """Algorithm 3 of arXiv:2409.11321 before the first update of its basis."""
    yield w
    gradient = g(w)
    left, right = np.linalg.eigh(gradient @ gradient.T)[1], np.linalg.eigh(gradient.T @ gradient)[1]
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, 100):
        gradient = g(w)
        m = b * m + (1 - b) * gradient
        v = b * v + (1 - b) * (left.T @ gradient @ right) ** 2
        # The authors' code adds eps before the bias is corrected; beside directions without a gradient yet that shows.
        turned = left.T @ m @ right / (np.sqrt(v) + eps)
        w = w - lr * np.sqrt(1 - b**t) / (1 - b**t) * left @ turned @ right.T
        yield w


def lbfgs(w: Array, g: Gradient) -> Iterator[Array]:
    """With steps of length 1 but for the first, which is at most 1 long; the inverse Hessian as a matrix."""
    shape, pairs = w.shape, []
    x, gradient = w.ravel(), g(w).ravel()
    inverse = np.eye(len(x)) * min(1.0, 1 / np.abs(gradient).sum())
    while True:
        move = -inverse @ gradient
        x = x + move
        yield x.reshape(shape)
        change = g(x.reshape(shape)).ravel() - gradient
        gradient = gradient + change
        pairs.append((move, change))
        inverse = np.eye(len(x)) * (move @ change) / (change @ change)
        for s, y in pairs:
            flat = np.eye(len(x)) - np.outer(y, s) / (y @ s)
            inverse = flat.T @ inverse @ flat + np.outer(s, s) / (y @ s)


ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
TEXTBOOK: dict[str, Rule] = {
    "gd": partial(sgd, lr=0.1),
    "sgd": partial(sgd, lr=0.1),
    "momentum": partial(momentum, lr=0.1, m=0.9),
    "nesterov": partial(momentum, lr=0.1, m=0.9, nesterov=True),
    "heavy_ball": partial(heavy_ball, lr=0.1, m=0.9),
    "rmsprop": partial(rmsprop, lr=1e-3, alpha=0.99, eps=1e-8),
    "adagrad": partial(adagrad, lr=0.01, eps=1e-10),
    "adadelta": partial(adadelta, lr=1.0, rho=0.9, eps=1e-6),
    "adam": partial(adam, lr=1e-3, **ADAM),
    "adamw": partial(adam, lr=1e-3, **ADAM, decay=0.01),
    "amsgrad": partial(adam, lr=1e-3, **ADAM, amsgrad=True),
    "nadam": partial(nadam, lr=1e-3, **ADAM, psi=4e-3),
    "radam": partial(radam, lr=1e-3, **ADAM),
    "lion": partial(lion, lr=1e-4, b1=0.9, b2=0.99),
    "prodigy": partial(prodigy, lr=1.0, **ADAM, d=1e-6),
    "schedulefree_sgd": lambda w, g: schedule_free(w, g, 0.9, lambda gradient, t: 1.0 * gradient),
    "schedulefree_adamw": lambda w, g: schedule_free(w, g, 0.9, second_moment(2.5e-3, 0.999, 1e-8)),
    "schedulefree_radam": lambda w, g: radam_free(w, g, 2.5e-3, 0.9, 0.999, 1e-8),
    "muon": partial(muon, lr=0.02, m=0.95),
    "soap": partial(soap, lr=3e-3, b=0.95, eps=1e-8),
    "lbfgs": lbfgs,
}
# Muon iterates in bfloat16, of eight bits. Prodigy's eps is added to a second moment of 1e-12.
TOLERANCE = {"muon": 2e-2}


def radam_free(w: Array, g: Gradient, lr: float, beta: float, b2: float, eps: float) -> Iterator[Array]:
    """As `schedule_free`, each z weighted by the square of the largest rate so far, which rectification raises."""
    x = z = w
    move, largest, total = second_moment(lr, b2, eps), 0.0, 0.0
    for t in range(1, 100):
        rect = rectification(t, b2)
        z = z - rect * move(g((1 - beta) * z + beta * x), t)
        largest = max(largest, rect)
        total += largest**2
        x = x + (largest**2 / total) * (z - x) if total else x
        yield x


def test_every_option_has_its_update_written_out() -> None:
    assert set(TEXTBOOK) == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_the_first_steps_on_a_quadratic_are_the_textbook_s(name: str) -> None:
    rng = np.random.default_rng(0)
    curvature, start, bottom = 0.3 + rng.random((4, 3)), rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    w = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = build(name, [w], **({"line_search_fn": None, "max_iter": 1} if name == "lbfgs" else {}))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = 0.5 * (torch.from_numpy(curvature) * (w - torch.from_numpy(bottom)) ** 2).sum()
        loss.backward()
        return loss

    expected = TEXTBOOK[name](start, lambda at: curvature * (at - bottom))
    for step in range(NUM_STEPS):
        if hasattr(optimizer, "train"):
            optimizer.train()
        optimizer.step(closure)
        if hasattr(optimizer, "eval"):
            optimizer.eval()
        moved, should = w.detach().numpy() - start, next(expected) - start
        np.testing.assert_allclose(moved, should, rtol=1e-6, atol=TOLERANCE.get(name, 1e-9), err_msg=f"step {step}")


def test_the_two_forms_of_momentum_agree_until_the_rate_changes() -> None:
    def path(optimizer_type: Any, rates: list[float]) -> Array:
        w = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        optimizer, points = optimizer_type([w], lr=0.0, momentum=0.9), []
        for lr in rates:
            optimizer.param_groups[0]["lr"] = lr
            w.grad = torch.tensor([1.0, 3.0], dtype=torch.float64) * w.detach()
            optimizer.step()
            points.append(w.detach().numpy().copy())
        return np.array(points)

    same = [0.1] * 8
    np.testing.assert_allclose(path(HeavyBall, same), path(torch.optim.SGD, same), rtol=1e-12)
    falling = [0.1] * 4 + [0.01] * 4
    ours, theirs = path(HeavyBall, falling), path(torch.optim.SGD, falling)
    np.testing.assert_allclose(ours[:4], theirs[:4], rtol=1e-12)
    # The move before the change goes on at full length; torch's is cut to a tenth with the rate.
    assert np.linalg.norm(ours[4] - ours[3]) > 3 * np.linalg.norm(theirs[4] - theirs[3])


@pytest.mark.parametrize("name", ALL)
def test_every_option_trains_the_unet(name: str) -> None:
    torch.manual_seed(0)
    model = small_unet()
    optimizer = exempt_from_decay(build(name, model.parameters(), **({"max_iter": 3} if name == "lbfgs" else {})))
    image = torch.nn.functional.avg_pool2d(torch.randn(2, 34, 34), 3, 1)
    mask = torch.ones(2, 1, 1, 32, dtype=torch.bool)
    noisy = image + 0.5 * torch.randn(2, 1, 32, 32, dtype=torch.complex64)[:, 0].abs()
    measurement = Measurement(None, mask, mask, None, noisy, (32, 32), "kspace")
    losses = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(measurement).image - image).abs().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        return loss

    if hasattr(optimizer, "train"):
        optimizer.train()
    for _ in range(30 if name == "prodigy" else 12):  # Prodigy's first rate is a millionth
        optimizer.step(closure)
    assert np.isfinite(losses).all()
    assert min(losses[-3:]) < 0.995 * losses[0]


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("heavy_ball", "lbfgs", "gd", "muon")])
def test_biases_and_norms_do_not_decay(name: str) -> None:
    layer = torch.nn.Conv2d(2, 2, 3)
    with torch.no_grad():
        layer.bias.fill_(1.0)  # type: ignore[union-attr]
    optimizer = exempt_from_decay(build(name, layer.parameters(), weight_decay=0.1))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {id(layer.weight): 0.1, id(layer.bias): 0.0}
    others = [
        {k: v for k, v in group.items() if k not in ("params", "weight_decay")} for group in optimizer.param_groups
    ]
    assert others[0] == others[1]


def test_muon_takes_the_matrices_and_decays_no_bias() -> None:
    params = dict(small_unet(norm="group").named_parameters())
    optimizer = exempt_from_decay(build("muon", params.values(), weight_decay=0.1))
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(of) == len(params)
    ends = ("network.down_sample_layers.0.layers.0.weight", "network.up_conv.1.1.weight")  # one channel in, one out
    for name, p in params.items():
        assert of[id(p)]["use_muon"] == (p.ndim == 4 and name not in ends), name
        assert of[id(p)]["weight_decay"] == (0.1 if p.ndim == 4 else 0.0), name


def test_without_decay_nothing_is_split() -> None:
    assert len(exempt_from_decay(build("adam", small_unet(norm="group").parameters())).param_groups) == 1


# Training by whole epochs, and by several batches.


def batches_of_one(data: Any) -> list[Any]:
    """Every training slice of the first epoch alone, as the module sees it."""
    data.setup("fit")
    loader = data.train_dataloader()
    return [undersample(one) for batch in loader for one in rows_of(batch)]


def rows_of(batch: Slice) -> list[Slice]:
    """The slices of a batch, each alone."""
    numbers = range(len(batch.kspace))
    return [Slice(*(None if f is None else f[i : i + 1] for f in batch)) for i in numbers]


def gradient(model: torch.nn.Module, samples: list[Any]) -> list[Tensor]:
    """Of the mean loss over slices, slice by slice."""
    model.zero_grad()
    for s in samples:
        loss = L1Loss()(model(s.measurement), s).mean()
        (loss / len(samples)).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


class KeepGradients(pl.Callback):
    def __init__(self) -> None:
        self.kept: list[list[Tensor]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.kept.append([p.grad.clone() for p in pl_module.parameters() if p.grad is not None])


def module_of(optimizer: Any, **changes: Any) -> ReconModule:
    torch.manual_seed(1)
    return ReconModule(small_unet(**changes), L1Loss(), optimizer)


@pytest.mark.parametrize(("accumulate", "optimizer"), [(1, "gd"), (2, "sgd"), (3, "adam")])
def test_the_gradient_of_several_batches_is_the_mean_over_their_slices(
    tmp_path: Path, folder: Path, accumulate: int, optimizer: str
) -> None:
    """Nine slices of two sizes in batches of 2, 2, 2, 2 and 1, in some order."""
    keep = KeepGradients()
    module = module_of(partial(build, optimizer, lr=0.0))  # the weights stay, so all gradients are at one point
    settings = {"max_epochs": 1, "limit_val_batches": 0, "accumulate_grad_batches": accumulate}
    trainer = trainer_of(tmp_path, keep, **settings)
    trainer.fit(module, data_of(folder, batch_size=2))
    sizes = [len(batch.target) for batch in data_of_epoch(folder)]
    assert sorted(sizes) == [1, 2, 2, 2, 2]
    per_step = len(sizes) if optimizer == "gd" else accumulate
    assert trainer.global_step == len(keep.kept) == -(-len(sizes) // per_step)
    samples = batches_of_one(data_of(folder, batch_size=2))
    taken = 0
    for step, found in enumerate(keep.kept):
        num = sum(sizes[step * per_step : (step + 1) * per_step])
        expected = gradient(module.model, samples[taken : taken + num])
        taken += num
        for ours, theirs in zip(found, expected, strict=True):
            # float32 sums in another order
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def data_of_epoch(folder: Path) -> list[Any]:
    data = data_of(folder, batch_size=2)
    data.setup("fit")
    return list(data.train_dataloader())


def test_lbfgs_is_torch_s_on_the_whole_set(tmp_path: Path, folder: Path) -> None:
    knobs = {"lr": 1.0, "max_iter": 3, "line_search_fn": "strong_wolfe"}
    module, plain = (module_of(partial(build, "lbfgs", **knobs)) for _ in range(2))
    module.double(), plain.double()  # two orders of summing would part within a line search in float32
    plain_data = data_of(folder, batch_size=2)
    parts = plain_data.reading, plain_data.selection, plain_data.undersampling, plain_data.loading
    data = Double(*parts, "val", 0)
    trainer = trainer_of(tmp_path, max_epochs=1, limit_val_batches=0)
    trainer.fit(module, data)
    assert trainer.global_step == 1
    samples = [undersample(widen(one)) for batch in data_of_epoch(folder) for one in rows_of(batch)]
    optimizer = torch.optim.LBFGS(plain.parameters(), history_size=10, **knobs)  # type: ignore[arg-type]

    def closure() -> Tensor:
        gradient(plain.model, samples)
        with torch.no_grad():
            losses = [L1Loss()(plain.model(s.measurement), s) for s in samples]
        return torch.cat(losses).mean()

    before = float(closure())
    optimizer.step(closure)
    assert float(closure()) < 0.95 * before
    for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def widen(batch: Slice) -> Slice:
    return batch._replace(kspace=batch.kspace.to(torch.complex128), target=batch.target.double())


class Double(type(data_of("nowhere"))):  # type: ignore[misc]
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return super().on_after_batch_transfer(widen(batch), dataloader_idx)


def test_whole_epochs_cannot_be_accumulated_again(tmp_path: Path, folder: Path) -> None:
    trainer = trainer_of(tmp_path, accumulate_grad_batches=2)
    with pytest.raises(ConfigError, match=r"trainer\.accumulate_grad_batches=2 .* gradient of the whole training set"):
        trainer.fit(module_of(partial(build, "gd")), data_of(folder))


# Two sets of weights, and continuing.

FREE = ["schedulefree_sgd", "schedulefree_adamw", "schedulefree_radam"]


def last(folder: Path, **changes: Any) -> pl.callbacks.ModelCheckpoint:
    settings = {"filename": "last", "save_top_k": 1, "save_on_train_epoch_end": True, "enable_version_counter": False}
    return pl.callbacks.ModelCheckpoint(folder, **{**settings, **changes})


# Those of torch that step with the batch are resumed in test_module.py, with Adam.
KEEPS_MORE = ["gd", "lbfgs", "heavy_ball", "lion", "nadam", "prodigy", "muon", "soap", *FREE]


@pytest.mark.parametrize("name", KEEPS_MORE)
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(tmp_path: Path, folder: Path, name: str) -> None:
    knobs = {"max_iter": 2} if name == "lbfgs" else {}

    def fit(epochs: int, ckpt: str | None = None) -> ReconModule:
        module = module_of(partial(build, name, **knobs))
        module.scheduler = partial(schedules.cosine, final_factor=0.1)
        callbacks = [last(tmp_path / "kept", save_last=True, save_top_k=0), StopAfter(epochs)]
        trainer = trainer_of(tmp_path, *callbacks, max_epochs=2, enable_checkpointing=True, limit_val_batches=0)
        trainer.fit(module, data_of(folder, batch_size=2), ckpt_path=ckpt, weights_only=True)
        return module

    whole = fit(2)
    fit(1)
    resumed = fit(2, str(tmp_path / "kept" / "last.ckpt"))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


class Watch(pl.Callback):
    """The weights that are validated, and those that gradients are taken at."""

    def __init__(self, within: Path | None = None) -> None:
        self.validated: dict[str, Tensor] = {}
        self.trained: dict[str, Tensor] = {}
        self.within = within

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self.validated = {k: v.clone() for k, v in pl_module.state_dict().items()}

    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Tensor) -> None:
        self.trained = {k: v.clone() for k, v in pl_module.state_dict().items()}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        if self.within is not None:
            trainer.save_checkpoint(self.within)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in b)


@pytest.mark.parametrize("name", FREE)
def test_schedule_free_validates_keeps_and_ends_with_its_average(tmp_path: Path, folder: Path, name: str) -> None:
    watch, module = Watch(), module_of(partial(build, name))
    trainer = trainer_of(tmp_path, watch, last(tmp_path / "kept"), max_epochs=1, enable_checkpointing=True)
    trainer.fit(module, data_of(folder))
    optimizer = trainer.optimizers[0]
    kept = torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)
    weights = module.state_dict()
    assert same(kept["state_dict"], watch.validated)
    assert same(weights, watch.validated)
    assert not kept["optimizer_states"][0]["param_groups"][0]["train_mode"]
    # y = x + (1 - beta) (z - x), where gradients are taken, is another point.
    optimizer.train()  # type: ignore[attr-defined]
    p = next(module.parameters())
    x, z = kept["state_dict"][next(iter(weights))], optimizer.state[p]["z"]
    torch.testing.assert_close(p.detach(), x + 0.1 * (z - x), rtol=1e-5, atol=1e-7)
    assert not torch.equal(p, x)


def test_a_schedule_free_checkpoint_within_an_epoch_has_the_average_and_training_goes_on(
    tmp_path: Path, folder: Path
) -> None:
    modules = []
    for within in (None, tmp_path / "within.ckpt"):
        module = module_of(partial(build, "schedulefree_adamw"))
        trainer = trainer_of(tmp_path, Watch(within), max_epochs=1, limit_val_batches=0)
        trainer.fit(module, data_of(folder))
        modules.append(module.state_dict())
    kept = torch.load(tmp_path / "within.ckpt", weights_only=True)
    assert not kept["optimizer_states"][0]["param_groups"][0]["train_mode"]
    for name, value in modules[0].items():
        # There and back is rounded: two interpolations in float32 per checkpoint, nine checkpoints.
        torch.testing.assert_close(modules[1][name], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(kept["state_dict"][name], modules[1][name], rtol=1e-5, atol=1e-6)
    # Were these the weights that gradients are taken at, the difference would be far more than rounding.
    p, optimizer = next(module.parameters()), trainer.optimizers[0]
    assert float((optimizer.state[p]["z"] - p.detach()).abs().max()) > 1e-4


def test_onecycle_leaves_the_beta_of_schedule_free_alone() -> None:
    optimizer = build("schedulefree_adamw", [torch.nn.Parameter(torch.ones(1))])
    schedules.onecycle(optimizer, 10, 1, pct_start=0.3, div_factor=25.0, final_div_factor=1e4)
    assert optimizer.param_groups[0]["betas"] == [0.9, 0.999]


@pytest.mark.parametrize(
    "target",
    [
        "pytorch_optimizer.load_optimizer", "pytorch_optimizer.Muon", "schedulefree.ScheduleFreeWrapper",
        "prodigyopt.prodigy.torch.load", "mrirecon.training.optimizers.SGD",
    ],
)  # fmt: skip
def test_of_the_optimizer_libraries_a_config_may_name_the_listed_classes_alone(target: str) -> None:
    with pytest.raises(ConfigError, match="is refused"):
        check_targets({"optimizer": {"_target_": target}})


@pytest.mark.parametrize("knobs", [{"lr": -1.0}, {"momentum": 1.0}, {"weight_decay": -0.1}])
def test_heavy_ball_refuses_knobs_that_cannot_work(knobs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected lr"):
        HeavyBall([torch.nn.Parameter(torch.ones(1))], **{"lr": 0.1, "momentum": 0.9, **knobs})

"""Lesson 2: momentum, RMSprop and Adam, each written out in a few lines and held against torch.optim."""

# %% [markdown]
# # 2. Momentum, RMSprop, Adam
#
# Gradient descent forgets: each step sees one gradient. Three ways to remember, with $g_k = \nabla f(x_k)$:
#
# **Momentum.** A velocity collects gradients, and old ones fade by $\beta$ per step:
# $v_{k+1} = \beta v_k + g_k,\; x_{k+1} = x_k - \eta v_{k+1}$. Eliminate $v$ and the same method reads as
# **heavy ball** (Polyak 1964): $x_{k+1} = x_k - \eta g_k + \beta\,(x_k - x_{k-1})$.
# A third way to write it averages instead of adding: $v_{k+1} = \beta v_k + (1-\beta)\,g_k$. It is the first with
# $\eta$ divided by $1-\beta$: two people who mean the same method then report step sizes that differ tenfold.
#
# **RMSprop** (Hinton's course, 2012) divides each coordinate by the recent size of its own gradient:
# $s_{k+1} = \alpha s_k + (1-\alpha)\,g_k^2,\; x_{k+1} = x_k - \eta\, g_k / (\sqrt{s_{k+1}} + \varepsilon)$.
#
# **Adam** (arXiv:1412.6980) does both, as averages, and corrects that averages started at zero are too small at first:
# $m_{k+1} = \beta_1 m_k + (1-\beta_1) g_k$, $s_{k+1} = \beta_2 s_k + (1-\beta_2) g_k^2$,
# $x_{k+1} = x_k - \eta\,\hat m / (\sqrt{\hat s} + \varepsilon)$, with $\hat m = m_{k+1}/(1-\beta_1^{k+1})$ and
# $\hat s = s_{k+1}/(1-\beta_2^{k+1})$.

# %%
import math
from collections.abc import Callable, Iterator
from itertools import islice

import matplotlib.pyplot as plt
import torch
from lesson import choose, save
from torch import Tensor

Gradient = Callable[[Tensor], Tensor]

# %% [markdown]
# ## Written out
#
# Each method is a generator of the points it visits, the first step included.


# %%
def momentum(gradient: Gradient, x: Tensor, step: float, beta: float) -> Iterator[Tensor]:
    velocity = torch.zeros_like(x)
    while True:
        velocity = beta * velocity + gradient(x)
        x = x - step * velocity
        yield x


def heavy_ball(gradient: Gradient, x: Tensor, step: float, beta: float) -> Iterator[Tensor]:
    before = x
    while True:
        before, x = x, x - step * gradient(x) + beta * (x - before)
        yield x


def rmsprop(gradient: Gradient, x: Tensor, step: float, alpha: float = 0.99, eps: float = 1e-8) -> Iterator[Tensor]:
    square = torch.zeros_like(x)
    while True:
        g = gradient(x)
        square = alpha * square + (1 - alpha) * g**2
        x = x - step * g / (square.sqrt() + eps)
        yield x


def adam(
    gradient: Gradient, x: Tensor, step: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> Iterator[Tensor]:
    mean, square, k = torch.zeros_like(x), torch.zeros_like(x), 0
    while True:
        g, k = gradient(x), k + 1
        mean = beta1 * mean + (1 - beta1) * g
        square = beta2 * square + (1 - beta2) * g**2
        x = x - step * (mean / (1 - beta1**k)) / ((square / (1 - beta2**k)).sqrt() + eps)
        yield x


def by_torch(gradient: Gradient, x: Tensor, optimizer: Callable[..., torch.optim.Optimizer]) -> Iterator[Tensor]:
    """The points an optimizer of torch visits, given the same gradients."""
    x = x.clone().requires_grad_()
    method = optimizer([x])
    while True:
        x.grad = gradient(x.detach())
        method.step()
        yield x.detach().clone()


# %% [markdown]
# The test function is the quadratic of lesson 1, now with condition number $\kappa = 100$ and $L = 1$.

# %%
kappa = 100.0
eigenvalues = torch.logspace(-math.log10(kappa), 0, 20, dtype=torch.float64)
start = torch.ones(20, dtype=torch.float64)


def gradient(x: Tensor) -> Tensor:
    return eigenvalues * x


def points(method: Iterator[Tensor], num_steps: int) -> Tensor:
    """The first points.  -> (num_steps dimension)"""
    return torch.stack(list(islice(method, num_steps)))


pairs = {
    "momentum": (
        momentum(gradient, start, 0.5, 0.9),
        by_torch(gradient, start, lambda p: torch.optim.SGD(p, 0.5, 0.9)),
    ),
    "rmsprop": (rmsprop(gradient, start, 0.01), by_torch(gradient, start, lambda p: torch.optim.RMSprop(p, 0.01))),
    "adam": (adam(gradient, start, 0.01), by_torch(gradient, start, lambda p: torch.optim.Adam(p, 0.01))),
    "heavy ball": (heavy_ball(gradient, start, 0.5, 0.9), momentum(gradient, start, 0.5, 0.9)),
}
differences = {
    name: float((points(ours, 100) - points(other, 100)).abs().max()) for name, (ours, other) in pairs.items()
}
for name, difference in differences.items():
    other = "momentum" if name == "heavy ball" else "torch.optim"
    print(f"{name:>10} written out, 100 steps: at most {difference:.1e} from {other}")

# %% [markdown]
# ## What beta does
#
# With a fixed step of $1/L$, each eigenvalue $\lambda$ obeys $e_{k+1} = (1+\beta-\lambda/L)\,e_k - \beta\,e_{k-1}$. The
# two roots of $z^2 - (1+\beta-\lambda/L)\,z + \beta$ say how fast: as long as they are real, more $\beta$ helps; once
# they are complex, both have magnitude $\sqrt\beta$ and more $\beta$ only makes the swinging last. The change comes at
# $\beta = (1-\sqrt{1/\kappa})^2$ for the slowest eigenvalue: 0.81 here.


# %%
def steps_to(method: Iterator[Tensor], accuracy: float, most: int = 20_000) -> int:
    """Steps until the distance to the minimum is and stays below `accuracy` for 100 steps; `most` where it never is."""
    below = 0
    for number, x in enumerate(islice(method, most)):
        below = below + 1 if torch.linalg.vector_norm(x) < accuracy else 0
        if below == 100:
            return number - 98
    return most


betas = [0.0, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99]
needed = {beta: steps_to(momentum(gradient, start, 1.0, beta), 1e-6) for beta in betas}
best_beta, theory_beta = min(needed, key=needed.__getitem__), (1 - kappa**-0.5) ** 2
for beta, count in needed.items():
    print(f"beta {beta:4.2f}: {count:5d} steps to an error of 1e-6")
speedup = needed[0.0] / needed[best_beta]
print(f"Best of these is beta {best_beta}, {speedup:.1f} times faster than none (theory: best at {theory_beta:.2f}).")

# %% [markdown]
# Momentum also moves the limit of lesson 1: $\eta < 2\,(1+\beta)/L$, almost twice as far.


# %%
def limit(beta: float) -> float:
    """The largest step with which the steepest coordinate stays bounded, by halving an interval; L is 1."""
    low, high, steepest = 0.0, 8.0, torch.ones(1, dtype=torch.float64)
    for _ in range(12):
        middle = (low + high) / 2
        end = points(momentum(lambda x: x, steepest, middle, beta), choose(2000, 1000))[-1]
        low, high = (middle, high) if float(end.abs()) < 1 else (low, middle)
    return low


limits = {beta: limit(beta) for beta in (0.0, 0.5, 0.9)}
for beta, measured in limits.items():
    print(f"beta {beta}: diverges beyond a step of {measured:.3f}/L; theory {2 * (1 + beta):.3f}/L")

# %% [markdown]
# ## Adam and RMSprop: the first step, and the neighbourhood of the optimum
#
# Divided by its own size, a gradient is only a sign. Adam's first step therefore has length $\eta$ in every coordinate.
# RMSprop lacks the correction: its average has seen one gradient and forgotten 99 % of it, so the first step is
# $1/\sqrt{1-\alpha} = 10$ times $\eta$. Near the optimum the gradient vanishes, but RMSprop's average of its square
# fades as well, and $g/\sqrt s$ becomes a step of about $\eta$ again. Adam averages $g$, too: steps to and fro cancel.
# Both run long, without noise and with noise on the gradients, as minibatches have it.

# %%
STEP = 0.01
first = {name: float((start - next(m)).abs().max()) / STEP for name, m in (
    ("rmsprop", rmsprop(gradient, start, STEP)), ("adam", adam(gradient, start, STEP)))}  # fmt: skip
print(f"First step, in learning rates: RMSprop {first['rmsprop']:.2f}, Adam {first['adam']:.2f}.")


def noisy(seed: int, strength: float) -> Gradient:
    generator = torch.Generator().manual_seed(seed)
    return lambda x: gradient(x) + strength * torch.randn(x.shape, dtype=x.dtype, generator=generator)


num_steps = choose(6000, 2000)
curves = {
    (name, strength): torch.linalg.vector_norm(points(method(noisy(0, strength), start, STEP), num_steps), dim=-1)
    for name, method in (("rmsprop", rmsprop), ("adam", adam))
    for strength in (0.0, 0.01)
}
floors = {key: float(curve[-500:].mean()) for key, curve in curves.items()}
for (name, strength), floor in floors.items():
    print(f"{name:>8}, noise {strength}: mean distance over the last 500 steps {floor:.2e}")
print(
    f"Without noise RMSprop keeps stepping around the minimum, {floors['rmsprop', 0.0]:.3f} away, and Adam comes "
    f"closer and closer; with noise a constant learning rate leaves both away from it ("
    f"{floors['rmsprop', 0.01]:.3f} and {floors['adam', 0.01]:.3f}), which is what schedules are for."
)

# %%
figure, axes = plt.subplots(1, 3, figsize=(15, 3.8))
for beta in (0.0, 0.5, 0.8, 0.95, 0.99):
    curve = torch.linalg.vector_norm(points(momentum(gradient, start, 1.0, beta), 600), dim=-1)
    axes[0].semilogy(curve, label=f"beta {beta}")
axes[0].set(title="momentum, step 1/L, condition 100", xlabel="step", ylabel="distance", ylim=(1e-8, 20))
axes[1].semilogy(needed.keys(), needed.values(), "o-")
axes[1].axvline(theory_beta, color="0.6", linestyle="--", label="theory")
axes[1].set(title="steps to 1e-6", xlabel="beta")
for (name, strength), curve in curves.items():
    axes[2].semilogy(curve, label=f"{name}, noise {strength}", linewidth=0.8)
axes[2].set(title=f"learning rate {STEP}", xlabel="step", ylabel="distance", ylim=(1e-6, 20))
for axis in axes:
    axis.legend(fontsize=8)
save(figure, "2_momentum_and_adam")

# %% [markdown]
# ## Questions
#
# 1. The two forms of momentum agree while $\eta$ is constant. Change $\eta$ in the middle of a run: which of the two
#    changes the speed it already has?
# 2. Rotate the quadratic, so that its axes are no longer the coordinates. Which methods notice, and why?
# 3. Weights in front of a normalization layer have gradients that are zero but for rounding. What does Adam make of
#    them in its first step?

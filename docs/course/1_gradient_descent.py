"""Lesson 1: gradient descent, and why one number, the step size, decides whether it crawls, converges or diverges."""

# %% [markdown]
# # 1. Gradient descent and its step size
#
# To minimise a smooth $f$, walk downhill: $x_{k+1} = x_k - \eta\,\nabla f(x_k)$. Everything that can go wrong already
# goes wrong on a quadratic, where it can be computed:
#
# $$f(x) = \tfrac12 x^\top H x, \qquad \nabla f(x) = H x, \qquad x_{k+1} = (I - \eta H)\,x_k .$$
#
# Along an eigenvector of $H$ with eigenvalue $\lambda$ the error is multiplied by $1 - \eta\lambda$ at every step:
#
# | $\eta\lambda$ | factor | what it looks like |
# |---|---|---|
# | near 0 | just below 1 | crawls |
# | up to 1 | between 0 and 1 | converges from one side |
# | between 1 and 2 | negative, above -1 | converges, changing sides: oscillates |
# | above 2 | below -1 | diverges |
#
# One $\eta$ serves all eigenvalues. The largest, $L$, sets the limit: **$\eta < 2/L$**. The smallest, $\mu$, sets the
# pace: with the best step, $2/(L+\mu)$, both ends shrink by $(\kappa-1)/(\kappa+1)$ per step, $\kappa = L/\mu$.

# %%
import math
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from fastmri.data.subsample import EquiSpacedMaskFunc
from lesson import choose, heads, save, show
from torch import Tensor

from mrirecon.physics.espirit import espirit
from mrirecon.physics.sense import SenseOperator, crop_readout
from mrirecon.physics.solvers import conjugate_gradient

# %% [markdown]
# The whole algorithm. It keeps the error after each step, measured as the distance to the known solution.


# %%
def descend(gradient: Callable[[Tensor], Tensor], x: Tensor, step: float, num_steps: int, solution: Tensor) -> Tensor:
    """Distances to the solution before and after each step, over the first one.  -> (num_steps + 1)"""
    distances = [torch.linalg.vector_norm(x - solution)]
    for _ in range(num_steps):
        x = x - step * gradient(x)
        distances.append(torch.linalg.vector_norm(x - solution))
    return torch.stack(distances) / distances[0]


def largest_step(gradient: Callable[[Tensor], Tensor], x: Tensor, solution: Tensor, num_steps: int) -> float:
    """The step size at which the error stops falling and starts to grow, found by halving an interval.

    The last steps decide: at first the error may fall along some eigenvectors while it grows along others.
    """
    low, high = 0.0, 1.0
    while descend(gradient, x, high, num_steps, solution)[-1] < 1:
        low, high = high, 2 * high
    for _ in range(14):
        middle = (low + high) / 2
        last = descend(gradient, x, middle, num_steps, solution)[-2:]
        low, high = (middle, high) if last[1] < last[0] else (low, middle)
    return low


# %% [markdown]
# ## Twenty dimensions, condition number 100

# %%
eigenvalues = torch.logspace(math.log10(0.05), math.log10(5.0), 20, dtype=torch.float64)
L, mu = float(eigenvalues.max()), float(eigenvalues.min())
start, zero = torch.ones(20, dtype=torch.float64), torch.zeros(20, dtype=torch.float64)


def quadratic_gradient(x: Tensor) -> Tensor:
    return eigenvalues * x


steps = {"crawls": 0.02 / L, "converges": 1 / L, "best": 2 / (L + mu), "oscillates": 1.999 / L, "diverges": 2.05 / L}
curves = {name: descend(quadratic_gradient, start, step, 300, zero) for name, step in steps.items()}
bound, measured_bound = 2 / L, largest_step(quadratic_gradient, start, zero, 300)
rate = (L - mu) / (L + mu)
measured_rate = float((curves["best"][-1] / curves["best"][-51]) ** (1 / 50))
for name, curve in curves.items():
    print(f"step {steps[name]:.4f} = {steps[name] * L:.3f}/L {name:>10}: error after 300 steps {curve[-1]:.2e}")
print(f"The error starts to grow at a step of {measured_bound:.5f}; the theory says 2/L = {bound:.5f}.")
print(f"With the best step it shrinks by {measured_rate:.5f} a step; (kappa-1)/(kappa+1) = {rate:.5f}.")

# %% [markdown]
# ## The same in two dimensions, to look at

# %%
H = torch.tensor([0.3, 3.0], dtype=torch.float64)
figure, axes = plt.subplots(1, 5, figsize=(17, 3.2))
for axis, product in zip(axes[:4], (0.1, 1.0, 1.9, 2.1), strict=True):
    path = [torch.tensor([-3.0, 1.0], dtype=torch.float64)]
    for _ in range(15):
        path.append(path[-1] - product / float(H.max()) * H * path[-1])
    grid_x, grid_y = torch.meshgrid(torch.linspace(-4, 4, 60), torch.linspace(-5, 5, 60), indexing="xy")
    axis.contour(grid_x, grid_y, 0.5 * (H[0] * grid_x**2 + H[1] * grid_y**2), levels=12, colors="0.8")
    axis.plot(*torch.stack(path).T, "o-", markersize=3)
    axis.set(title=f"step {product:g}/L", xlim=(-4, 4), ylim=(-5, 5))
for name, curve in curves.items():
    axes[4].semilogy(curve, label=f"{name}, {steps[name] * L:.2f}/L")
axes[4].set(title="20 dimensions, condition 100", xlabel="step", ylabel="error", ylim=(1e-4, 1e3))
axes[4].legend(fontsize=7)
save(figure, "1_quadratic")

# %% [markdown]
# ## A reconstruction
#
# An image $x$ seen through coil sensitivities $S$, the Fourier transform $F$ and a mask $M$ is k-space $y = MFSx$ and
# noise. Regularised least squares is again a quadratic,
#
# $$f(x) = \tfrac12\lVert MFSx - y\rVert^2 + \tfrac\lambda2\lVert x\rVert^2, \qquad
# \nabla f(x) = (S^*F^*MFS + \lambda)\,x - S^*F^*y ,$$
#
# now with thousands of unknowns and eigenvalues nobody writes down. The largest one is still easy: multiply by $H$
# again and again (the power method). The smallest is at least $\lambda$.

# %%
REG_WEIGHT = 0.01
sample = heads([1], choose(64, 32), EquiSpacedMaskFunc([0.2], [3]), num_slices=1)
measured = sample.measurement
kspace = crop_readout(measured.kspace, measured.mask, measured.size[0])
operator = SenseOperator(measured.mask, espirit(kspace, measured.acs_mask))
rhs = operator.adjoint(kspace)


def hessian(x: Tensor) -> Tensor:
    return operator.normal(x) + REG_WEIGHT * x


def image_gradient(x: Tensor) -> Tensor:
    return hessian(x) - rhs


vector = torch.randn(rhs.shape, dtype=rhs.dtype, generator=torch.Generator().manual_seed(0))
for _ in range(200):
    vector = hessian(vector / torch.linalg.vector_norm(vector))
image_L = float(torch.linalg.vector_norm(vector))
solution = conjugate_gradient(hessian, rhs, 300)
image_bound = 2 / image_L
image_measured_bound = largest_step(image_gradient, torch.zeros_like(rhs), solution, choose(200, 100))
print(f"Reconstruction: L = {image_L:.4f}, 2/L = {image_bound:.4f}, measured {image_measured_bound:.4f}.")

# %%
num_steps = choose(200, 60)
image_curves = {
    name: descend(image_gradient, torch.zeros_like(rhs), product / image_L, num_steps, solution)
    for name, product in (("crawls", 0.02), ("converges", 1.0), ("oscillates", 1.98), ("diverges", 2.1))
}
for name, curve in image_curves.items():
    print(f"{name:>10}: error after {num_steps} steps {curve[-1]:.2e}")

figure, axes = plt.subplots(1, 4, figsize=(15, 3.6))
images = {"zero-filled": measured.zero_filled[0], "minimum of f": solution[0].abs(), "target": sample.target[0]}
for axis, (title, image) in zip(axes, images.items(), strict=False):
    show(axis, image, title, vmax=0.8 * float(sample.target.max()))
for name, curve in image_curves.items():
    axes[3].semilogy(curve, label=name)
axes[3].set(title="distance to the minimum", xlabel="step", ylim=(1e-4, 1e2))
axes[3].legend()
save(figure, "1_reconstruction")

# %% [markdown]
# ## Questions
#
# 1. Just below $2/L$ the error of the quadratic stays high although it does not grow. Along which eigenvector?
# 2. Why does the reconstruction converge quickly at first and slowly later? What would a larger $\lambda$ change, in
#    the speed and in the image?
# 3. A network's loss is no quadratic, and its curvature changes on the way. What happens where the curvature becomes
#    larger than $2/\eta$? Lesson 3 measures it.

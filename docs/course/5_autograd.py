"""Lesson 5: autograd, a data-consistency operator with its own gradient, and the Jacobian of the forward model."""

# %% [markdown]
# # 5. Autograd and a custom gradient
#
# Autograd never writes a Jacobian $J$ down. It needs, for every operation, the map $g \mapsto J^{*}g$ from the gradient
# at its output to the gradient at its input, and chains these maps from the loss backwards. For a **linear** operation
# $x \mapsto Ax$ the Jacobian is $A$ itself, so its backward is the **adjoint** $A^*$, whatever $x$ was.
#
# With complex numbers torch's gradient of a real loss is $\partial\ell/\partial\,\mathrm{Re}\,x +
# i\,\partial\ell/\partial\,\mathrm{Im}\,x$: the direction of steepest ascent. With that convention $A^*$ is the
# conjugate transpose. A transpose without the conjugate is the classic mistake.

# %%
from typing import Any

import matplotlib.pyplot as plt
import torch
from fastmri.data.subsample import RandomMaskFunc
from lesson import choose, save, show
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.function import once_differentiable

from mrirecon.physics.coils import rss
from mrirecon.physics.fft import fft2c, ifft2c
from mrirecon.physics.sense import SenseOperator
from mrirecon.sampling.masks import draw_mask
from mrirecon.synthetic import head as phantom

# %% [markdown]
# ## Data consistency
#
# A network's image $x$ need not agree with the k-space $y$ that was measured. Data consistency corrects it where there
# are measurements, trusting them $\nu$ times as much as the image. It is the solution of
# $\min_z \lVert z - x\rVert^2 + \nu\,\lVert MFz - y\rVert^2$, and since the mask is diagonal in
# k-space it needs no iteration:
#
# $$D(x, y, \nu) = F^*\Big[(1-M)\,Fx + M\,\frac{Fx + \nu y}{1+\nu}\Big].$$
#
# Three inputs, three adjoints. With $\hat g = Fg$:
#
# * with respect to $x$: $F^*\big[(1 - M\tfrac{\nu}{1+\nu})\,\hat g\big]$, the linear part itself: it is self-adjoint;
# * with respect to $y$: $M\,\tfrac{\nu}{1+\nu}\,\hat g$;
# * with respect to $\nu$: $\mathrm{Re}\,\langle \hat g,\; M\,(y - Fx)/(1+\nu)^2\rangle$.


# %%
class DataConsistency(torch.autograd.Function):
    """D(x, y, nu) with the gradients above.  (*b h w), (*b h w), bool (*1 h w), () -> (*b h w), complex"""

    @staticmethod
    def forward(ctx: Any, image: Tensor, kspace: Tensor, mask: Tensor, nu: Tensor) -> Tensor:
        predicted = fft2c(image)
        difference = mask * (kspace - predicted)
        ctx.save_for_backward(difference, mask, nu)
        return ifft2c(predicted + nu / (1 + nu) * difference)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, Tensor]:
        difference, mask, nu = ctx.saved_tensors
        spectrum = fft2c(grad)
        to_kspace = nu / (1 + nu) * mask * spectrum
        to_nu = (spectrum.conj() * difference).real.sum() / (1 + nu) ** 2
        return ifft2c(spectrum - to_kspace), to_kspace, None, to_nu


class ForgottenAdjoint(DataConsistency):
    """The same with the mistake: a transpose, where the conjugate transpose belongs."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, Tensor]:
        _, mask, nu = ctx.saved_tensors
        _, to_kspace, _, to_nu = DataConsistency.backward(ctx, grad)
        spectrum = ifft2c(grad)
        return fft2c(spectrum - nu / (1 + nu) * mask * spectrum), to_kspace, None, to_nu


def by_autograd(image: Tensor, kspace: Tensor, mask: Tensor, nu: Tensor) -> Tensor:
    """D again, as plain operations, whose gradient autograd finds."""
    predicted = fft2c(image)
    return ifft2c(torch.where(mask, (predicted + nu * kspace) / (1 + nu), predicted))


# %% [markdown]
# `gradcheck` moves every input a little, also in the imaginary direction, and compares differences with the gradient.
# It wants double precision: with a step of $10^{-6}$, single precision has no digits left for a difference.

# %%
generator = torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=generator).requires_grad_()


mask = torch.rand(1, 5, generator=generator) < 0.6
mask = mask.expand(6, 5)
inputs = (random(2, 6, 5), random(2, 6, 5), mask, torch.tensor(1.7, dtype=torch.float64, requires_grad=True))
passes = gradcheck(DataConsistency.apply, inputs)
agreement = float((DataConsistency.apply(*inputs) - by_autograd(*inputs)).detach().abs().max())
passes_twice = gradgradcheck(by_autograd, inputs)
wrong_is_caught = not gradcheck(ForgottenAdjoint.apply, inputs, raise_exception=False)
print(
    f"gradcheck passes: {passes}; forward as plain operations: to {agreement:.0e}; second derivatives: {passes_twice}"
)
print(f"gradcheck catches the forgotten conjugate: {wrong_is_caught}")

# %% [markdown]
# ## The Jacobian of the forward model, and its adjoint
#
# $A = MFS$ is linear: its Jacobian can be had column by column, $A e_i$, or row by row from autograd's
# $A^* e_j$. On an image of a few pixels both can be written out and compared. With coils whose squares
# sum to one, its singular values lie between 0 and 1. With one uniform coil they are exactly 0 or 1, a 1 for each
# sample: what was not sampled is lost entirely, and what was is not even stretched.

# %%
H, W = 4, 6
columns_mask = torch.tensor([True, False, True, True, False, True])[None, None, None]
uniform = torch.ones(1, 1, H, W, dtype=torch.complex128)
model = SenseOperator(columns_mask, uniform)


def forward(image: Tensor) -> Tensor:
    return model.forward(image.reshape(1, H, W)).flatten()


basis = torch.eye(H * W, dtype=torch.complex128)
point = random(H * W).detach()
column_by_column = torch.stack([forward(e) for e in basis], dim=1)
_, pull_back = torch.func.vjp(forward, point)
row_by_row = torch.stack([pull_back(e)[0] for e in basis]).conj()
jacobian_difference = float((column_by_column - row_by_row).abs().max())
singular_values = torch.linalg.svdvals(column_by_column)
rank = int((singular_values > 0.5).sum())
print(f"Columns, and rows by autograd, agree to {jacobian_difference:.0e}.")
print(f"Singular values: {rank} of {H * W} are 1, the others 0; sampled: {int(columns_mask.sum()) * H}.")

# %% [markdown]
# For a real size nobody writes $A$ down. The **dot-product test** needs two random vectors:
# $\langle Ax, y\rangle = \langle x, A^*y\rangle$. An operator and a wrong adjoint do not pass it by accident.

# %%
SIZE, COILS = choose(64, 24), 4
raw_maps = random(1, COILS, SIZE, SIZE + 1).detach()
sens_maps = raw_maps / rss(raw_maps)[:, None]
line_mask = torch.from_numpy(draw_mask(RandomMaskFunc([0.2], [3]), (SIZE, SIZE + 1), (1,))[0])[None, None]
operator = SenseOperator(line_mask, sens_maps)
x, y = random(1, SIZE, SIZE + 1).detach(), random(1, COILS, SIZE, SIZE + 1).detach()
left = torch.vdot(operator.forward(x).flatten(), y.flatten())
right = torch.vdot(x.flatten(), operator.adjoint(y).flatten())
dot_difference = float((left - right).abs() / left.abs())
unconjugated = (ifft2c(y * line_mask) * sens_maps).sum(1)
wrong_difference = float((left - torch.vdot(x.flatten(), unconjugated.flatten())).abs() / left.abs())
print(f"Dot-product test, {COILS} coils: {dot_difference:.0e}; sensitivities not conjugated: {wrong_difference:.1f}")

# %% [markdown]
# ## A gradient that is not there
#
# $\sqrt{\sum|x_c|^2}$ over coils has no derivative at 0, and backgrounds are 0. Written out, autograd finds
# $0\cdot\infty$. `rss` of this project takes the subgradient 0 there.

# %%
dark = torch.zeros(1, 2, 1, 1, requires_grad=True)
dark.square().sum(1).sqrt().sum().backward()
naive_gradient, dark.grad = dark.grad, None
rss(dark).sum().backward()
print(f"Gradient at a black pixel: written out {naive_gradient.flatten().tolist()}, rss {dark.grad.flatten().tolist()}")

# %% [markdown]
# ## Used: learning how far to trust the scanner
#
# A smoothed image stands in for a network's output, and the measured k-space is noisy. $\nu = \infty$ puts all
# the noise back, $\nu = 0$ keeps the blur. Gradient descent through `DataConsistency` finds the $\nu$ between, and a
# search over a grid shows whether it is the best one.

# %%
scan = phantom.simulate(
    "AXT1", SIZE, SIZE, num_slices=1, num_coils=4, snr=50.0, generator=phantom.volume_generator(0, 3)
)
truth = (scan.target[0] / scan.target.std()).to(torch.complex128)
noise = 0.5 * torch.randn(SIZE, SIZE, dtype=torch.complex128, generator=generator)
lines = line_mask[0, 0, 0, :SIZE].expand(SIZE, SIZE)
measured = lines * (fft2c(truth) + noise)
prior = torch.nn.functional.avg_pool2d(truth.real[None], 3, stride=1, padding=1)[0].to(torch.complex128)


def error(log_nu: Tensor) -> Tensor:
    return (DataConsistency.apply(prior, measured, lines, log_nu.exp()) - truth).abs().square().mean()


log_nu = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.Adam([log_nu], lr=0.1)
for _ in range(200):
    optimizer.zero_grad()
    error(log_nu).backward()
    optimizer.step()
learned_nu = float(log_nu.detach().exp())
grid = torch.logspace(-2, 2, 201, dtype=torch.float64)
with torch.no_grad():
    errors = torch.stack([error(nu.log()) for nu in grid])
best_nu = float(grid[errors.argmin()])
print(f"Learned nu {learned_nu:.3f}, best of the grid {best_nu:.3f}; error {float(errors.min()):.4f}, at nu=0.01 "
      f"{float(errors[0]):.4f}, at nu=100 {float(errors[-1]):.4f}")  # fmt: skip

figure, axes = plt.subplots(1, 4, figsize=(14, 3.4))
with torch.no_grad():
    combined = DataConsistency.apply(prior, measured, lines, log_nu.exp())
images = {"smoothed prior": prior, "zero-filled measurement": ifft2c(measured), f"D, nu = {learned_nu:.2f}": combined}
for axis, (title, image) in zip(axes, images.items(), strict=False):
    show(axis, image.abs(), title, vmax=float(truth.abs().max()) * 0.8)
axes[3].semilogx(grid, errors)
axes[3].axvline(learned_nu, color="0.5", linestyle="--", label="learned")
axes[3].set(xlabel="nu", ylabel="mean squared error", title="trust in the measurement")
axes[3].legend()
figure.tight_layout()
save(figure, "5_autograd")

# %% [markdown]
# ## Questions
#
# 1. `ForgottenAdjoint` uses $F^\top$ where $F^*$ belongs. For which gradients and masks are the two the
#    same, so that a test would miss it?
# 2. `once_differentiable` refuses second derivatives. What would have to be saved to allow them?
# 3. With several coils $S^*F^*MFS$ is no longer diagonal in k-space. What takes the place of the closed form?

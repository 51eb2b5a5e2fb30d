"""Lesson 4: convolution by hand, the size of its output, and the Fourier transform that turns it into a product."""

# %% [markdown]
# # 4. Convolution and the Fourier transform
#
# A convolution layer slides a kernel $w$ of size $k$ over an image $x$ and takes a weighted sum at every place,
#
# $$y_i = \sum_{j=0}^{k-1} w_j\, x_{si + dj - p},$$
#
# with stride $s$, dilation $d$ and $p$ zeros around the image. (Without the mirror of the mathematical convolution: a
# network learns its kernel, so it may as well learn the mirrored one. The proper word is cross-correlation.)
#
# The last place where the kernel fits has $si + d(k-1) \le n - 1 + 2p$. There are
#
# $$m = \left\lfloor \frac{n + 2p - d(k-1) - 1}{s} \right\rfloor + 1$$
#
# such places: the size of the output.

# %%
import itertools

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from fastmri.data.subsample import EquiSpacedMaskFunc, RandomMaskFunc
from lesson import choose, save, show
from torch import Tensor

from mrirecon.physics.fft import fft2c, ifft2c
from mrirecon.sampling.masks import draw_mask
from mrirecon.synthetic import head as phantom

# %% [markdown]
# ## By hand: four loops' worth of sums


# %%
def output_size(n: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def convolve(image: Tensor, kernel: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
    """Cross-correlation, one output pixel after the other.  (h w), (k k) -> (m n)"""
    padded = F.pad(image, (padding,) * 4)
    rows, columns = (output_size(n, len(kernel), stride, padding, dilation) for n in image.shape)
    extent = dilation * (len(kernel) - 1) + 1
    result = torch.empty(rows, columns, dtype=image.dtype)
    for row, column in itertools.product(range(rows), range(columns)):
        top, left = stride * row, stride * column
        window = padded[top : top + extent : dilation, left : left + extent : dilation]
        result[row, column] = (window * kernel).sum()
    return result


generator = torch.Generator().manual_seed(0)
num_cases, worst = 0, 0.0
for h, k, s, p, d in itertools.product((9, 12), (1, 2, 3), (1, 2, 3), (0, 1, 2), choose((1, 2), (1,))):
    image = torch.randn(h, h + 2, generator=generator, dtype=torch.float64)
    kernel = torch.randn(k, k, generator=generator, dtype=torch.float64)
    by_torch = F.conv2d(image[None, None], kernel[None, None], stride=s, padding=p, dilation=d)[0, 0]
    worst = max(worst, float((convolve(image, kernel, s, p, d) - by_torch).abs().max()))
    num_cases += 1
print(
    f"By hand and by torch, {num_cases} combinations of size, kernel, stride, padding, dilation: at most {worst:.0e}."
)

# %% [markdown]
# A U-Net halves the image at every level and doubles it again with **transposed** convolutions. The name is meant
# literally: as a matrix, it is the transpose of the convolution of the same stride. The dot product tells whether two
# linear maps are each other's transpose: $\langle Ax, y\rangle = \langle x, A^\top y\rangle$ for any $x$ and $y$.

# %%
weight = torch.randn(1, 1, 2, 2, generator=generator, dtype=torch.float64)
x = torch.randn(1, 1, 12, 12, generator=generator, dtype=torch.float64)
y = torch.randn(1, 1, 6, 6, generator=generator, dtype=torch.float64)
forward_dot = float((F.conv2d(x, weight, stride=2) * y).sum())
transposed_dot = float((x * F.conv_transpose2d(y, weight, stride=2)).sum())
print(f"<Ax, y> = {forward_dot:.12f}, <x, A^T y> = {transposed_dot:.12f}")

# %% [markdown]
# ## The convolution theorem
#
# Let the image continue periodically and mirror the kernel: then it is the circular convolution
# $(x \circledast w)_i = \sum_j w_j\, x_{i-j}$. A wave $e^{2\pi i f n/N}$ that is shifted is the same wave times a
# number, so waves are its eigenvectors, and in the Fourier domain it is a product.
#
# This project's transforms are **centred** (zero frequency and the middle of the image lie at $n/2$, as on a
# scanner) and **orthonormal** (they keep lengths: $\lVert Fx\rVert = \lVert x\rVert$, so the adjoint is the
# inverse). The theorem then has a factor, because the product of two orthonormal transforms has been divided by
# $\sqrt N$ once too often:
#
# $$F(x \circledast w) = \sqrt{N}\; Fx \cdot Fw, \qquad N = hw.$$


# %%
def circular(image: Tensor, kernel: Tensor) -> Tensor:
    """Circular convolution by shifting; the kernel's origin is its middle, n // 2.  (h w), (h w) -> (h w)"""
    total = torch.zeros_like(image * kernel)
    for row, column in (kernel != 0).nonzero().tolist():
        shift = (row - kernel.shape[0] // 2, column - kernel.shape[1] // 2)
        total += kernel[row, column] * image.roll(shift, (0, 1))
    return total


theorem_errors, length_errors = {}, {}
for size in ((12, 16), (11, 15)):
    image, kernel = (torch.randn(*size, generator=generator, dtype=torch.complex128) for _ in range(2))
    left, right = fft2c(circular(image, kernel)), (size[0] * size[1]) ** 0.5 * fft2c(image) * fft2c(kernel)
    theorem_errors[size] = float((left - right).abs().max() / right.abs().max())
    length_errors[size] = abs(float(fft2c(image).abs().square().sum() / image.abs().square().sum()) - 1)
    print(f"{size}: theorem holds to {theorem_errors[size]:.0e}, length kept to {length_errors[size]:.0e}")
middle = torch.zeros(12, 16, dtype=torch.complex128)
middle[6, 8] = 1
flatness = float((fft2c(middle) - (12 * 16) ** -0.5).abs().max())
print(f"A point in the middle has the same k-space everywhere, without phase: to {flatness:.0e}.")

# %% [markdown]
# ## Leaving out k-space is a convolution
#
# Read the theorem the other way round: multiply k-space by a mask, and the image is convolved with the transform of the
# mask, its **point spread function**. Every third column, and the PSF is three points: two ghosts, the folded
# image. Random columns of the same number, and what was ghosts is spread like noise, which is easier to take away.

# %%
SIZE = choose(96, 48)
scan = phantom.simulate(
    "AXT2", SIZE, SIZE, num_slices=1, num_coils=8, snr=50.0, generator=phantom.volume_generator(0, 2)
)
image = scan.target[0].to(torch.complex128)
centre = 8 / SIZE
masks = {
    "every third": torch.arange(SIZE) % 3 == 0,
    "equispaced, centre": torch.from_numpy(draw_mask(EquiSpacedMaskFunc([centre], [3]), (SIZE, SIZE), (0,))[0][0]),
    "random, centre": torch.from_numpy(draw_mask(RandomMaskFunc([centre], [3]), (SIZE, SIZE), (0,))[0][0]),
}
figure, axes = plt.subplots(2, 3, figsize=(10, 6), height_ratios=(3, 1.4))
psf_errors, sidelobes = {}, {}
for (name, mask), column in zip(masks.items(), axes.T, strict=True):
    pattern = mask.expand(SIZE, SIZE).to(torch.complex128)
    psf = ifft2c(pattern) / SIZE
    zero_filled = ifft2c(pattern * fft2c(image))
    row = psf[SIZE // 2].abs() / psf[SIZE // 2].abs().max()
    psf_errors[name] = float((circular(image, psf * (psf.abs() > 1e-14)) - zero_filled).abs().max() / image.abs().max())
    sidelobes[name] = float(row[(torch.arange(SIZE) - SIZE // 2).abs() > SIZE // 8].max())
    show(column[0], zero_filled.abs(), name, vmax=0.9 * float(zero_filled.abs().max()))
    column[1].plot(torch.arange(SIZE) - SIZE // 2, row)
    column[1].set(xlabel="columns from the middle", ylim=(0, 1.05), title="point spread function")
    print(
        f"{name:>18}: highest peak away from the middle {sidelobes[name]:.2f}; "
        f"mask and PSF agree to {psf_errors[name]:.0e}"
    )
figure.tight_layout()
save(figure, "4_convolution_and_fourier")

# %% [markdown]
# ## What it costs
#
# A $k\times k$ kernel on $N$ pixels takes $k^2N$ products; by transform it takes about $\tfrac{15}2 N\log_2 N + 3N$
# real multiplications and additions, whatever the kernel. A network's $3\times3$ kernels are far below the crossing;
# the kernel of a mask is as large as the image.

# %%
N = 320 * 320
crossing = next(k for k in range(1, 100) if 2 * k**2 * N > 7.5 * N * torch.tensor(float(N)).log2() + 3 * N)
print(f"Counted operations, 320x320 pixels: the transform is cheaper from a kernel of {crossing}x{crossing} on.")

# %% [markdown]
# ## Questions
#
# 1. Which padding keeps the size for odd $k$ and stride 1? Why is there none for even $k$?
# 2. An image of 45 columns goes through a 2x2 pooling and a transposed convolution of stride 2. How many come back, and
#    what does `Unet` do about it?
# 3. Where do the ghosts go if every fourth column is taken, starting with the second one? Why do four coils help?

"""Iterative solvers of regularised least squares, batched: step and weight are per image.

They minimise 1/2 ||A x - y||^2 + g(x). `normal` maps x to A* A x and has norm at most 1; `rhs` is A* y.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]

_CONVERGED = 1e-12  # relative squared residual: the precision of float32
_TINY = 1e-30


def in_threads(solve: Callable[..., Tensor], *batch: Tensor) -> Tensor:
    """`solve` of a batch in parts, on a CPU, a thread for each part.  (b ...), ... -> (b h w)

    An iteration is dozens of short operations: where the threads of each have to wait for one another, that takes
    longer than one thread alone.
    """
    is_inference = torch.is_inference_mode_enabled()

    def part(tensors: tuple[Tensor, ...]) -> Tensor:
        with torch.inference_mode() if is_inference else torch.no_grad():  # these are per thread
            return solve(*tensors)

    num_threads = max(1, min(torch.get_num_threads(), len(batch[0])))
    parts = list(zip(*(tensor.tensor_split(num_threads) for tensor in batch), strict=True))
    with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return torch.cat(list(pool.map(part, parts)))


def conjugate_gradient(normal: Operator, rhs: Tensor, num_iterations: int) -> Tensor:
    """Solves normal(x) = rhs for a positive definite `normal`, starting from zero.  complex (b h w) -> (b h w)

    Images that have converged are no longer updated.
    """
    x = torch.zeros_like(rhs)
    residual = direction = rhs
    first = squared = _squared_norm(rhs)
    for _ in range(num_iterations):
        unsolved = squared > _CONVERGED * first
        moved = normal(direction)
        curvature = (direction.conj() * moved).real.sum((-2, -1), keepdim=True)
        step = torch.where(unsolved, squared / torch.where(unsolved, curvature, 1), 0)
        x = x + step * direction
        residual = residual - step * moved
        before, squared = squared, _squared_norm(residual)
        direction = residual + torch.where(unsolved, squared / torch.where(unsolved, before, 1), 0) * direction
    return x


def fista(normal: Operator, rhs: Tensor, prox: Callable[[Tensor, int], Tensor], num_iterations: int) -> Tensor:
    """Minimises 1/2 ||A x - y||^2 + g(x), given the proximal map of g.  complex (b h w) -> (b h w)

    Beck and Teboulle, doi:10.1137/080716542, with step 1, from A* y. `prox` gets the point and the iteration number.
    """
    x = ahead = rhs
    momentum = 1.0
    for iteration in range(num_iterations):
        before, x = x, prox(ahead - (normal(ahead) - rhs), iteration)
        last, momentum = momentum, (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = x + (last - 1) / momentum * (x - before)
    return x


def total_variation(
    normal: Operator, rhs: Tensor, weight: Tensor, isotropic: bool, step: float, num_iterations: int
) -> Tensor:
    """Minimises 1/2 ||A x - y||^2 + weight TV(x), from A* y.  complex (b h w), real (b 1 1) -> (b h w)

    The primal-dual algorithm of Chambolle and Pock, doi:10.1007/s10851-010-0251-1, with an explicit step on the data
    term (Condat, doi:10.1007/s10957-012-0245-9, Algorithm 3.1): 1/step - dual_step ||grad||^2 >= 1/2.
    """
    dual_step = (1 / step - 0.5) / 8  # ||grad||^2 is at most 8
    x = rhs
    dual = torch.zeros_like(gradient(x))
    for _ in range(num_iterations):
        before, x = x, x - step * (normal(x) - rhs + gradient_adjoint(dual))
        dual = clip(dual + dual_step * gradient(2 * x - before), weight[:, None], isotropic)
    return x


def gradient(image: Tensor) -> Tensor:
    """Differences to the next pixel down and to the right, periodic.  (*b h w) -> (*b 2 h w)"""
    return torch.stack([image.roll(-1, -2) - image, image.roll(-1, -1) - image], dim=-3)


def gradient_adjoint(field: Tensor) -> Tensor:
    """The adjoint of `gradient`.  (*b 2 h w) -> (*b h w)"""
    down, right = field.unbind(-3)
    return down.roll(1, -2) - down + right.roll(1, -1) - right


def clip(field: Tensor, radius: Tensor, isotropic: bool) -> Tensor:
    """Shortens vectors (isotropic) or components to at most `radius`: a projection.  (b 2 h w), (b 1 1 1) -> same"""
    # Real arithmetic throughout: torch takes several times as long to multiply complex by real tensors.
    parts = torch.view_as_real(field)
    down, right = (part.square().sum(-1) for part in parts.unbind(1))
    squares = (down + right)[:, None] if isotropic else torch.stack([down, right], dim=1)
    scale = radius * torch.maximum(squares, radius.square()).clamp_min(_TINY).rsqrt()
    return torch.view_as_complex(parts * scale[..., None])


def soft_threshold(parts: Tensor, threshold: Tensor, dim: int) -> Tensor:
    """Proximal map of the l1 norm: magnitudes shrunk by `threshold`, phases kept.  real (*n) -> (*n)

    dim: the axis of real and imaginary part, along which `threshold` has one element.
    """
    real, imag = parts.unbind(dim)
    # Not vector_norm, which takes torch ten times as long. The smallest magnitude keeps the gradient at zero finite.
    magnitude = torch.addcmul(real.square(), imag, imag).clamp_min(_TINY).sqrt().unsqueeze(dim)
    return parts * (1 - threshold / magnitude).clamp_min(0)


def _squared_norm(images: Tensor) -> Tensor:
    return torch.view_as_real(images).square().sum((-3, -2, -1))[:, None, None]

"""Lesson 3: what each normalization layer averages over, and which step sizes a U-Net can be trained with behind it."""

# %% [markdown]
# # 3. Normalization
#
# A feature map has axes $(b, c, h, w)$: image, channel, row, column. Every normalization layer subtracts a mean and
# divides by a standard deviation, $\hat x = (x - \bar x)/\sqrt{\mathrm{var}(x) + \varepsilon}$. They differ in one
# thing only, **the axes the statistics are over**:
#
# | layer | statistics over | one value for each | remembers |
# |---|---|---|---|
# | batch | $b, h, w$ | channel | running statistics, for evaluation |
# | instance | $h, w$ | image and channel | nothing |
# | group | $h, w$ and the channels of a group | image and group | nothing |
# | layer | $c, h, w$ | image | nothing |
#
# Group norm is in between: with one group it is layer norm, with as many groups as channels it is instance norm.

# %%
import math

import matplotlib.pyplot as plt
import torch
from fastmri.data.subsample import RandomMaskFunc
from lesson import choose, heads, save
from torch import Tensor

from mrirecon.models.image_domain import unet
from mrirecon.models.unet import NORMS
from mrirecon.physics.sample import Prediction
from mrirecon.training.losses import L1Loss

# %% [markdown]
# ## By hand
#
# The layers are the very ones of the framework's U-Net, from its table `NORMS`.


# %%
def normalised(x: Tensor, axes: tuple[int, ...], eps: float = 1e-5) -> Tensor:
    """Mean 0 and variance 1 over some axes.  (*n) -> (*n)"""
    variance, mean = torch.var_mean(x, dim=axes, correction=0, keepdim=True)
    return (x - mean) / (variance + eps).sqrt()


def normalised_groups(x: Tensor, num_groups: int) -> Tensor:
    """Group norm: the channels are split, and each group has its own statistics.  (b c h w) -> (b c h w)"""
    return normalised(x.unflatten(1, (num_groups, -1)), (2, 3, 4)).flatten(1, 2)


CHANS, NUM_GROUPS = 8, 4
generator = torch.Generator().manual_seed(0)
x = 3 * torch.randn(4, CHANS, 16, 16, generator=generator) + torch.arange(CHANS)[:, None, None]
by_hand = {
    "batch": normalised(x, (0, 2, 3)),
    "instance": normalised(x, (2, 3)),
    "group": normalised_groups(x, NUM_GROUPS),
    "layer": normalised(x, (1, 2, 3), eps=1e-6),
    "none": x,
}
differences, dependences = {}, {}
for name, wanted in by_hand.items():
    layer = NORMS[name](CHANS, NUM_GROUPS)
    with torch.no_grad():
        differences[name] = float((layer(x) - wanted).abs().max())
        dependences[name] = float((layer(x)[:1] - layer(x[:1])).abs().max())
    print(
        f"{name:>8}: {differences[name]:.1e} from the definition; an image alone and in a batch differ by "
        f"{dependences[name]:.1e}"
    )

# %% [markdown]
# Only batch norm lets the other images of a batch change an image. For evaluation that would be a score that depends on
# the batch size, so it then uses **running statistics**: an average over the batches of training, each new one with
# weight 0.1. Until that average has settled, training and evaluation are two different networks.

# %%
batch_norm = NORMS["batch"](CHANS, None)
gaps = []
for _ in range(60):
    batch = 3 * torch.randn(4, CHANS, 16, 16, generator=generator) + torch.arange(CHANS)[:, None, None]
    with torch.no_grad():
        in_training = batch_norm.train()(batch)
        in_evaluation = batch_norm.eval()(batch)
    gaps.append(float((in_training - in_evaluation).abs().mean()))
with torch.no_grad():
    alone = float((batch_norm(batch)[:1] - batch_norm(batch[:1])).abs().max())
print(
    f"Batch norm, training against evaluation: {gaps[0]:.2f} after 1 batch, {gaps[-1]:.3f} after {len(gaps)}; in "
    f"evaluation an image alone and in a batch differ by {alone:.0e}."
)

# %% [markdown]
# ## Why it helps to train: the scale of the weights no longer matters
#
# Multiply the weights $W$ of a convolution by $a$. With a norm behind it the output is the same, so the loss is the
# same, and the gradient with respect to $W$ is divided by $a$. And $W$ and its gradient are orthogonal, so that a
# step of gradient descent can only make $W$ longer, $\lVert W\rVert^2 + \eta^2\lVert\nabla\rVert^2$. After a step
# that was too long the weights are large, the gradients small, and the relative step has corrected itself. Without a
# norm, a step that was too long stays one.

# %%
conv = torch.nn.Conv2d(CHANS, CHANS, 3, bias=False)


def loss_and_gradient(scale: float) -> tuple[float, Tensor]:
    """The loss with the weights times `scale`, and its gradient with respect to the scaled weights."""
    weight = (scale * conv.weight).detach().requires_grad_()
    loss = (normalised(torch.nn.functional.conv2d(x, weight), (2, 3), eps=0.0) - 1).abs().pow(1.5).mean()
    loss.backward()
    return loss.item(), weight.grad


(loss_1, gradient_1), (loss_10, gradient_10) = loss_and_gradient(1.0), loss_and_gradient(10.0)
gradient_ratio = float(gradient_1.norm() / gradient_10.norm())
cosine = float((gradient_1 * conv.weight).sum().detach() / (gradient_1.norm() * conv.weight.norm().detach()))
print(
    f"Weights ten times larger: loss {loss_1:.5f} and {loss_10:.5f}, gradient {gradient_ratio:.3f} times smaller; "
    f"cosine between weights and gradient {cosine:.0e}."
)

# %% [markdown]
# ## Measured: usable step sizes of a small U-Net
#
# One U-Net per norm and step size, the same first weights' seed, the same heads and masks, plain gradient descent on
# minibatches without momentum. A step size counts as *usable* when the L1 loss in the end is below half of what the
# untrained networks have: enough to see that it learns, little enough to be reached in so few steps.

# %%
train = heads(range(choose(12, 2)), choose(48, 32), RandomMaskFunc([0.12], [4]), num_slices=2)
BATCH, NUM_STEPS = 4, choose(60, 25)
learning_rates = choose([0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0], [0.1, 1.0])
loss_function = L1Loss()
do_nothing = float(loss_function(Prediction(train.measurement.zero_filled), train).mean())


def train_unet(norm: str, learning_rate: float) -> tuple[float, list[float]]:
    """The loss over all slices in evaluation after training, and the loss of every step; inf once it is not finite."""
    torch.manual_seed(0)
    model = unet(CHANS, 2, 0.0, norm, NUM_GROUPS, 6.0).train()
    optimizer = torch.optim.SGD(model.parameters(), learning_rate)
    order, losses = torch.Generator().manual_seed(0), []
    for _ in range(NUM_STEPS):
        chosen = torch.randperm(len(train.target), generator=order)[:BATCH]
        batch = train.rows(chosen)
        loss = loss_function(model(batch.measurement), batch).mean()
        if not math.isfinite(loss.item()):
            return math.inf, losses
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        final = float(loss_function(model.eval()(train.measurement), train).mean())
    return (final if math.isfinite(final) else math.inf), losses


runs = {norm: [train_unet(norm, rate) for rate in learning_rates] for norm in NORMS}
results = {norm: [final for final, _ in several] for norm, several in runs.items()}
untrained = sum(several[0][1][0] for several in runs.values()) / len(runs)
usable = {norm: sum(final < untrained / 2 for final in finals) for norm, finals in results.items()}
print(f"Untrained {untrained:.4f}, zero-filled {do_nothing:.4f}. Loss after {NUM_STEPS} steps, by learning rate:")
print(" " * 8, *(f"{rate:>8g}" for rate in learning_rates))
for norm, finals in results.items():
    print(f"{norm:>8}", *(f"{final:8.4g}" for final in finals), f"  usable: {usable[norm]} of {len(finals)}")
widest = max(usable, key=usable.__getitem__)
fewest = min(count for norm, count in usable.items() if norm != "none")
print(
    f"Of {len(learning_rates)} step sizes {usable['none']} can be used without a norm, and at least {fewest} with any "
    f"norm; {widest} norm has {usable[widest]}."
)

# %%
figure, axis = plt.subplots(figsize=(6.5, 4))
for norm, finals in results.items():
    axis.loglog(learning_rates, [min(final, 10.0) for final in finals], "o-", label=norm)
axis.axhline(do_nothing, color="0.5", linestyle="--", label="zero-filled")
axis.axhline(untrained / 2, color="0.7", linestyle=":", label="usable below")
axis.set(xlabel="learning rate of SGD", ylabel=f"L1 after {NUM_STEPS} steps (10: diverged)", title="small U-Net")
axis.legend()
save(figure, "3_normalization")

# %% [markdown]
# ## Questions
#
# 1. At the bottom of a U-Net a feature map may have few pixels. Which layers suffer from that, and from a batch of one?
# 2. Instance norm removes the mean of each channel. Which information about the image can no longer pass, and how does
#    `ImageDomain` give it back?
# 3. Why is weight decay on weights in front of a norm not a penalty on the function, and what does it change instead?

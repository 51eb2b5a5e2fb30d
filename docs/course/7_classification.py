"""Lesson 7: supervised classification of the contrast of a scan: softmax, cross-entropy, a small network, its score."""

# %% [markdown]
# # 7. Classification
#
# A file of fastMRI states its contrast (`acquisition`: AXT1, AXT2, AXFLAIR, AXT1POST). Could a network read it off the
# image? Its last layer gives one number per class, the **logits** $z$. **Softmax** turns them into probabilities and
# **cross-entropy** asks how surprised they are by the label $t$:
#
# $$p_c = \frac{e^{z_c}}{\sum_j e^{z_j}}, \qquad \ell = -\log p_t, \qquad
# \frac{\partial\ell}{\partial z_c} = p_c - [c = t].$$
#
# The gradient is prediction minus label, and never larger than 1: one reason why the two belong together.

# %%
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from fastmri.data.subsample import RandomMaskFunc
from lesson import choose, heads, save
from torch import Tensor, nn

from mrirecon.physics.sample import Sample
from mrirecon.synthetic.head import ACQUISITIONS

# %% [markdown]
# ## Softmax, written out, and where it breaks
#
# In single precision $e^{89}$ is infinite, and $\infty/\infty$ is no number. Subtracting the largest logit changes
# nothing in exact arithmetic and removes the overflow. What remains is underflow: the probability of an unlikely class
# rounds to 0 and its logarithm to $-\infty$. The **log-softmax** never takes that logarithm:
# $\log p_c = z_c - \max z - \log\sum_j e^{z_j - \max z}$.


# %%
def softmax_naive(z: Tensor) -> Tensor:
    return z.exp() / z.exp().sum(-1, keepdim=True)


def softmax_shifted(z: Tensor) -> Tensor:
    return softmax_naive(z - z.amax(-1, keepdim=True))


def log_softmax(z: Tensor) -> Tensor:
    shifted = z - z.amax(-1, keepdim=True)
    return shifted - shifted.exp().sum(-1, keepdim=True).log()


def cross_entropy(z: Tensor, labels: Tensor) -> Tensor:
    return -log_softmax(z).gather(-1, labels[:, None]).mean()


large = torch.tensor([[1000.0, 0.0, -50.0]])
stability = {
    "log of naive softmax": softmax_naive(large).log(),
    "log of shifted softmax": softmax_shifted(large).log(),
    "log-softmax": log_softmax(large),
}
for name, values in stability.items():
    print(f"{name:>22} of (1000, 0, -50): {values[0].tolist()}")

z = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
labels = torch.tensor([0, 1, 2, 3, 1])
loss = cross_entropy(z, labels)
loss.backward()
loss_difference = abs(loss.item() - F.cross_entropy(z, labels).item())
gradient_difference = float((z.grad - (softmax_shifted(z.detach()) - F.one_hot(labels, 4)) / 5).abs().max())
print(f"Cross-entropy by hand and by torch: {loss_difference:.0e}; gradient and p - label: {gradient_difference:.0e}")

# %% [markdown]
# ## Heads, by contrast
#
# The contrasts take turns over the heads, so each is a quarter: guessing is right one time in four. Images come as
# targets divided by their scale, so that absolute brightness tells nothing. Training and test heads are
# different heads.

# %%
SIZE, SLICES = choose(48, 32), 2
mask_func = RandomMaskFunc([0.1], [4])
train = heads(range(choose(120, 40)), SIZE, mask_func, num_slices=SLICES, num_coils=2)
test = heads(range(2000, 2000 + choose(60, 16)), SIZE, mask_func, num_slices=SLICES, num_coils=2)


def labels_of(sample: Sample) -> Tensor:
    """The contrast of each slice, as `heads` dealt them.  -> int64 (b)"""
    return sample.volume % len(ACQUISITIONS)


def images_of(sample: Sample) -> Tensor:
    """Targets with mean 0 and standard deviation 1 each.  -> (b 1 y x)"""
    variance, mean = torch.var_mean(sample.target, dim=(-2, -1), keepdim=True)
    return ((sample.target - mean) / variance.sqrt()).unsqueeze(1)


# %% [markdown]
# ## A small classifier
#
# Convolutions with stride 2 instead of pooling, group norm, and a mean over what is left of the image: what counts is
# whether a pattern occurs, not where.

# %%
torch.manual_seed(0)
classifier = nn.Sequential(
    nn.Conv2d(1, 12, 5, stride=2, padding=2), nn.GroupNorm(3, 12), nn.ReLU(),
    nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.GroupNorm(6, 24), nn.ReLU(),
    nn.Conv2d(24, 24, 3, stride=2, padding=1), nn.GroupNorm(6, 24), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, len(ACQUISITIONS)),
)  # fmt: skip
NUM_STEPS, BATCH = choose(600, 250), 32
optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=1e-2)
images, wanted, losses = images_of(train), labels_of(train), []
for _ in range(NUM_STEPS):
    chosen = torch.randint(len(images), (BATCH,))
    mirrored = images[chosen].flip(-1) if torch.rand(()) < 0.5 else images[chosen]  # heads are nearly symmetric
    loss = cross_entropy(classifier(mirrored), wanted[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"Cross-entropy {losses[0]:.3f} at first (ln 4 = {math.log(4):.3f} is guessing), {losses[-1]:.3f} in the end.")

# %% [markdown]
# ## Inference, and how much to believe
#
# A head counts once: its slices share anatomy and intensities, so they are not independent trials. Their
# log-probabilities are added, the largest sum is the answer. The interval is Wilson's for a proportion. A simple
# competitor keeps the network honest: the mean histogram of each contrast, the nearest one wins.


# %%
def by_head(log_probabilities: Tensor, sample: Sample) -> tuple[Tensor, Tensor]:
    """The predicted and the true contrast of every head.  (b class) -> (head), (head)"""
    numbers = sample.volume.unique()
    sums = torch.stack([log_probabilities[sample.volume == number].sum(0) for number in numbers])
    return sums.argmax(-1), numbers % len(ACQUISITIONS)


def wilson(correct: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    share, spread = correct / total, z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return middle - half, middle + half


def histograms(sample: Sample) -> Tensor:
    """The share of pixels in each of 24 bins of brightness.  -> (b 24)"""
    rows = images_of(sample).flatten(1)
    return torch.stack([torch.histc(row, 24, -2, 4) / row.numel() for row in rows])


with torch.no_grad():
    pred, truth = by_head(log_softmax(classifier.eval()(images_of(test))), test)
centres = torch.stack([histograms(train)[wanted == c].mean(0) for c in range(len(ACQUISITIONS))])
simple, _ = by_head(-torch.cdist(histograms(test), centres).square(), test)
chance = 1 / len(ACQUISITIONS)
accuracy = float((pred == truth).float().mean())
simple_accuracy = float((simple == truth).float().mean())
interval = wilson(int((pred == truth).sum()), len(truth))
print(
    f"Accuracy on {len(truth)} unseen heads: {accuracy:.2f} (95 % interval {interval[0]:.2f} to {interval[1]:.2f}); "
    f"nearest histogram {simple_accuracy:.2f}; chance {chance:.2f}."
)

confusion = torch.zeros(4, 4, dtype=torch.int64)
confusion.index_put_((truth, pred), torch.ones_like(truth), accumulate=True)
print("true \\ predicted", *(f"{name:>9}" for name in ACQUISITIONS))
for name, row in zip(ACQUISITIONS, confusion.tolist(), strict=True):
    print(f"{name:>16}", *(f"{count:9d}" for count in row))
wrong = confusion - torch.diag(confusion.diagonal())
if int(wrong.sum()):
    true_class, predicted_class = divmod(int(wrong.argmax()), len(ACQUISITIONS))
    print(
        f"Most often {ACQUISITIONS[true_class]} is taken for {ACQUISITIONS[predicted_class]}, {int(wrong.max())} times."
    )

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 4))
axes[0].plot(losses, linewidth=0.7)
axes[0].axhline(math.log(4), color="0.5", linestyle="--", label="guessing: ln 4")
axes[0].set(title="cross-entropy of each batch", xlabel="step")
axes[0].legend()
axes[1].imshow(confusion.numpy(), cmap="Blues")
axes[1].set(
    xticks=range(4), xticklabels=ACQUISITIONS, yticks=range(4), yticklabels=ACQUISITIONS, xlabel="predicted",
    ylabel="true", title=f"unseen heads, accuracy {accuracy:.2f}",
)  # fmt: skip
for row, column in [(r, c) for r in range(4) for c in range(4)]:
    dark = confusion[row, column] > confusion.max() / 2
    axes[1].text(column, row, int(confusion[row, column]), ha="center", color="white" if dark else "black")
figure.tight_layout()
save(figure, "7_classification")

# %% [markdown]
# ## Questions
#
# 1. AXT1 and AXT1POST are the same sequence before and after a contrast agent. Where in the image does the
#    difference lie?
# 2. Give the network the zero-filled images instead of the targets. Which contrasts does aliasing confuse?
# 3. A probability of 0.99 should be right 99 times in 100. How would you test that with these heads?

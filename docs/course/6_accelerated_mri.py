"""Lesson 6: accelerated MRI. Leave out most of k-space, see the aliasing, undo it by compressed sensing and a U-Net."""

# %% [markdown]
# # 6. Accelerated MRI
#
# A scanner measures k-space line by line, and each line takes its time. Measure a quarter of the lines and the scan is
# almost four times shorter, but $y = MFSx$ has fewer equations than unknowns. What is missing must come from elsewhere:
#
# * **zero-filled**: from nowhere. Unmeasured samples are 0, and the image is aliased (lesson 4).
# * **compressed sensing**: from the assumption that images are piecewise smooth,
#   $\min_x \tfrac12\lVert MFSx - y\rVert^2 + \lambda\,\mathrm{TV}(x)$. Nothing is trained; $\lambda$ is chosen.
# * **a U-Net**: from other heads. It learns to map a zero-filled image to the target, and $\min_\theta$ runs over its
#   weights: Adam (lesson 2), group norm (lesson 3), convolutions (lesson 4), autograd (lesson 5).
#
# The scores are the community's: SSIM with the maximum of the volume as its range, PSNR, and NMSE, per volume.

# %%
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from fastmri.data.subsample import RandomMaskFunc
from lesson import choose, heads, save, show
from torch import Tensor

from mrirecon.metrics import functional as metrics
from mrirecon.models.base import ReconModel, with_sensitivities
from mrirecon.models.image_domain import ZeroFilled, unet
from mrirecon.models.iterative import TotalVariation
from mrirecon.physics.sample import Sample
from mrirecon.training.losses import L1Loss

# %% [markdown]
# ## Heads to learn from, and others to be judged by
#
# Simulated heads with four coils. A head is in one of the two sets with all its slices: neighbouring slices look alike,
# and a network that saw one of them would be judged by what it remembers.

# %%
SIZE, SLICES = choose(64, 32), choose(4, 2)
mask_func = RandomMaskFunc([0.08], [4])
train = heads(range(choose(24, 6)), SIZE, mask_func, num_slices=SLICES)
test_numbers = range(1000, 1000 + choose(8, 2))
test = heads(test_numbers, SIZE, mask_func, num_slices=SLICES)
sampled = float(test.measurement.mask.float().mean())
print(
    f"{len(train.target)} slices to learn from, {len(test.target)} of {len(test_numbers)} other heads to be judged by; "
    f"{sampled:.0%} of k-space is measured."
)

# %% [markdown]
# ## Scores


# %%
class Scores(NamedTuple):
    """Means over volumes."""

    ssim: float
    psnr: float
    nmse: float


def volume_scores(pred: Tensor, sample: Sample, number: int) -> Scores:
    """The scores of one head, in the units of its file: its slices have different scales.  (b y x)"""
    chosen = sample.volume == number
    scale = sample.scale[chosen]
    pred, target = pred[chosen] * scale[:, None, None], sample.target[chosen] * scale[:, None, None]
    data_range = sample.data_range[chosen] * scale
    error = float(metrics.squared_error(pred, target).sum())
    return Scores(
        float(metrics.ssim(pred, target, data_range).mean()),
        metrics.psnr(error, target.numel(), float(data_range[0])),
        metrics.nmse(error, float(metrics.squared_norm(target).sum())),
    )


def mean_scores(pred: Tensor, sample: Sample) -> Scores:
    """Means over the heads of a sample."""
    each = [volume_scores(pred, sample, number) for number in sample.volume.unique().tolist()]
    return Scores(*(sum(column) / len(each) for column in zip(*each, strict=True)))


def reconstruct(model: ReconModel, sample: Sample) -> Tensor:
    """What any model of the framework makes of a sample: they all take its measurement.  -> (b y x)"""
    with torch.no_grad():
        return model(with_sensitivities(model, sample).measurement).magnitude


# %% [markdown]
# ## Compressed sensing
#
# The weight is chosen on heads of the training set. One chosen on the heads it is judged by would be flattered.


# %%
def total_variation(reg_weight: float) -> TotalVariation:
    return TotalVariation(reg_weight, choose(100, 40), isotropic=True, step=1.0, calib_width=24, kernel_width=6)


few = train.rows(slice(4 * SLICES))
by_weight = {
    w: mean_scores(reconstruct(total_variation(w), few), few).ssim
    for w in choose((0.0005, 0.002, 0.005, 0.02), (0.02, 0.05))
}
reg_weight = max(by_weight, key=by_weight.__getitem__)
print("SSIM on training heads by weight:", ", ".join(f"{w:g}: {s:.3f}" for w, s in by_weight.items()))

# %% [markdown]
# ## A U-Net

# %%
torch.manual_seed(0)
model = unet(chans=choose(16, 8), num_pool_layers=choose(3, 2), drop_prob=0.0, norm="group", num_groups=4, clamp=6.0)
NUM_STEPS, BATCH = choose(300, 60), 8
optimizer = torch.optim.Adam(model.parameters(), lr=choose(2e-3, 5e-3))
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, choose(2e-3, 5e-3), NUM_STEPS)
loss_function, losses = L1Loss(), []
for _ in range(NUM_STEPS):
    chosen = torch.randint(len(train.target), (BATCH,))
    batch = train.rows(chosen)
    loss = loss_function(model(batch.measurement), batch).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    losses.append(loss.item())
print(f"L1 loss: {losses[0]:.3f} at first, {sum(losses[-10:]) / 10:.3f} over the last ten steps of {NUM_STEPS}.")

# %% [markdown]
# ## The comparison

# %%
models = {"zero-filled": ZeroFilled(), "total variation": total_variation(reg_weight), "U-Net": model.eval()}
preds = {name: reconstruct(each, test) for name, each in models.items()}
scores = {name: mean_scores(pred, test) for name, pred in preds.items()}
wins = sum(
    volume_scores(preds["U-Net"], test, number).ssim > volume_scores(preds["total variation"], test, number).ssim
    for number in test_numbers
)
for name, (ssim, psnr, nmse) in scores.items():
    print(f"{name:>16}: SSIM {ssim:.3f}, PSNR {psnr:.2f} dB, NMSE {nmse:.4f}")
best = max(scores, key=lambda name: scores[name].ssim)
print(
    f"On heads it has never seen, {best} has the highest mean SSIM, "
    f"{scores[best].ssim - scores['zero-filled'].ssim:.3f} above zero-filled; of {len(test_numbers)} heads the U-Net "
    f"is above total variation on {wins}. The U-Net saw one coil-combined image of each slice, total variation "
    "all coils."
)

# %%
figure, axes = plt.subplots(2, 4, figsize=(12, 6))
shown, vmax = 1, 0.8 * float(test.target[1].max())
for column, (name, image) in zip(axes.T, {**preds, "target": test.target}.items(), strict=True):
    show(column[0], image[shown], name, vmax)
    show(column[1], (image - test.target)[shown].abs(), "error, twice as bright", vmax / 2)
show(axes[1, 3], test.measurement.mask[shown, 0].expand(SIZE, -1).float(), f"mask, {sampled:.0%}", 1.0)
figure.tight_layout()
save(figure, "6_accelerated_mri")

# %% [markdown]
# ## Questions
#
# 1. Look at the background of the three images, then at the brain. Where does the U-Net earn most of its lead in SSIM,
#    and would a reader of the image agree with the score?
# 2. These phantoms are piecewise smooth, as TV assumes. In whose favour is that, and what would real scans change?
# 3. Nothing forces the U-Net's image to agree with the measured samples. How would the operator of lesson 5 help?
# 4. The number of test heads is small. How would you tell a difference in SSIM from luck? (`scripts/evaluate.py` does.)

"""How the slices of a data set are undersampled: masks, augmentation and splitting in training, masks in evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass

from mrirecon.data.augmentation import Augmentation
from mrirecon.data.sources import MaskedSlices, Source
from mrirecon.errors import ConfigError
from mrirecon.sampling.masks import Masking, by_acceleration, is_2d, volume_mask
from mrirecon.sampling.splitting import Splitting


@dataclass(frozen=True, kw_only=True)
class Undersampling:
    """mask: one of fastMRI's mask classes or another, see `masks.Masking`; None where every scan brings its own mask.
    Of several accelerations training draws one for each slice; evaluation scores every volume at each.
    fixed_masks: one training mask per slice for all epochs, instead of a new one in every epoch.
    augmentation: moves the images of training slices before they are undersampled; None leaves them as they are.
    splitting: holds a part of each training mask back from the model; None gives it all.
    scored_masks: under each name a mask for evaluation, in the place of `mask`; None is `mask`.
    """

    mask: Masking | None = None
    fixed_masks: bool = False
    augmentation: Augmentation | None = None
    splitting: Splitting | None = None
    scored_masks: Mapping[str, Masking] | None = None

    def training(self, source: Source, seed: int) -> MaskedSlices:
        """The slices to train on.  Raises ConfigError for a volume that the mask does not suit."""
        self._check(source, {"": self.mask})
        return MaskedSlices(source, {"": self.mask}, seed, self.fixed_masks, self.augmentation, self.splitting)

    def evaluation(self, source: Source) -> MaskedSlices:
        """The slices to score.  Raises ConfigError for a volume that a mask does not suit."""
        masks: dict[str, Masking | None] = {"": self.mask}
        if any(info.mask is None for info in source.volumes):
            masks = dict(self.scored_masks or by_acceleration(self.mask))
        self._check(source, masks)
        return MaskedSlices(source, masks, seed=None)

    def _check(self, source: Source, masks: Mapping[str, Masking | None]) -> None:
        for info in source.volumes:
            for mask in masks.values():
                if info.mask is not None:
                    continue
                if mask is None:
                    raise ConfigError(
                        f"{info.path}: is fully sampled and has no mask of its own: choose one with mask=random_4x"
                    )
                try:
                    volume_mask(mask, info.kspace_size, info.name)
                except ConfigError as error:
                    raise ConfigError(f"{info.path}: {error}") from error

    def has_points(self) -> bool:
        """Whether a mask is a pattern in both directions, or is made one."""
        masks = [self.mask, *(self.scored_masks or {}).values()]
        return any(map(is_2d, masks)) or (self.splitting is not None and self.splitting.unit == "points")

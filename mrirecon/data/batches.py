"""Forms batches of one k-space shape, shuffled every epoch and dealt to ranks, and collates them."""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from mrirecon.data.augmentation import apply_affine
from mrirecon.data.sources import Draw
from mrirecon.physics.sample import Sample, Slice, batch_of_one, collate, undersample


class ShapeBatches(Sampler[list[Draw]]):
    """Batches of slices of one shape. The order depends on (seed, epoch) alone, so a resumed run continues it exactly.

    Batches are formed first and dealt to ranks afterwards; the last few are repeated where the ranks do not divide
    them, so that every rank takes the same number of steps. Scores drop such repeats by (volume, slice).

    shapes: what the slices of one batch must share, per slice. seed: None keeps the order of the source.
    """

    def __init__(
        self, shapes: Sequence[Hashable], batch_size: int, seed: int | None, num_replicas: int = 1, rank: int = 0
    ) -> None:
        self.shapes = list(shapes)
        self.batch_size = batch_size
        self.seed = seed
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0
        # Lightning calls set_epoch on `batch_sampler.sampler` only.
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the shuffle, and the masks, of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        counts: dict[Hashable, int] = defaultdict(int)
        for shape in self.shapes:
            counts[shape] += 1
        num_batches = sum(-(-count // self.batch_size) for count in counts.values())
        return -(-num_batches // self.num_replicas)

    def __iter__(self) -> Iterator[list[Draw]]:
        batches = self._batches()
        dealt = len(self) * self.num_replicas
        for number in range(self.rank, dealt, self.num_replicas):
            yield [Draw(int(index), self.epoch) for index in batches[number % len(batches)]]

    def _batches(self) -> list[list[int]]:
        rng = None if self.seed is None else np.random.default_rng((self.seed, self.epoch))
        order = range(len(self.shapes)) if rng is None else rng.permutation(len(self.shapes))
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for index in order:
            groups[self.shapes[index]].append(index)
        batches = [
            group[start : start + self.batch_size]
            for group in groups.values()
            for start in range(0, len(group), self.batch_size)
        ]
        return batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]


def collate_samples(slices: Sequence[Slice], needs: Collection[str], is_moved: bool) -> Sample:
    """The batch that a model gets, of slices of one shape; is_moved: by the affine of their augmentation.

    One by one: a batch of k-space would be put together in memory that is shared with the main process, for nothing.
    """
    alone = map(batch_of_one, slices)
    return collate([undersample(apply_affine(one) if is_moved else one, needs).row_alone() for one in alone])

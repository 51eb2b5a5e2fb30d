"""The benchmark of the framework's step: both sides train alike, and both are timed."""

import pytest
import torch

from mrirecon.apps.benchmarks import overhead


@pytest.mark.filterwarnings("ignore:.*log_every_n_steps")
def test_both_sides_take_the_same_steps_and_a_row_comes_of_it() -> None:
    (row,) = overhead.rows("cpu", chans=2, size=32)
    assert row.reference is not None
    assert row.ratio is not None
    assert row.ours > 0
    assert row.reference > 0
    assert row.met == (row.ratio >= 1 / 1.03)


def test_steps_of_which_the_losses_differ_are_refused() -> None:
    turns = overhead.Turns("cpu", every=1)
    turns._compare(torch.ones(1), torch.ones(1))
    with pytest.raises(AssertionError):
        turns._compare(torch.ones(1), torch.full((1,), 1.0001))

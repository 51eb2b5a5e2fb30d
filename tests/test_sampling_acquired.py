"""What a scan acquired: whole columns, or the points of a pattern in both directions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from conftest import Volume

from mrirecon.io.raw import fastmri
from mrirecon.sampling.acquired import acquired, drawn


def test_a_pattern_of_the_scan_s_own_is_kept_within_the_acquired_columns(tmp_path: Path, volume: Volume) -> None:
    pattern = np.zeros((40, 36), bool)
    pattern[10:30, 12:24] = True
    pattern[::4, :12:4] = True
    info = replace(fastmri.inspect(volume(tmp_path / "a.h5")), mask=pattern, acquired=(4, 36))
    mask, center, acceleration = acquired(info)
    np.testing.assert_array_equal(mask[:, 4:], pattern[:, 4:])
    assert not mask[:, :4].any()
    assert center[10:30, 12:24].all()
    assert (center <= mask).all()
    assert drawn(info, None, (0,)).mask.shape == (40, 36)
    assert acceleration == 40 * 32 / mask.sum()

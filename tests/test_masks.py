"""Masks: fastMRI's golden values, budgets that cannot be kept, and the centre."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastmri.data.subsample import MaskFunc
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mrirecon.config.compose import instantiate
from mrirecon.config.options import CONF
from mrirecon.errors import ConfigError
from mrirecon.sampling.masks import (
    FileMask,
    by_acceleration,
    check_budget,
    contiguous_center,
    draw_mask,
    volume_mask,
    volume_seed,
)
from mrirecon.sampling.patterns import center_box

# For file1000000.h5 at 4x with a centre of .08: family, columns, sampled, first 12 digits of the sha256 of "0101..."
GOLDEN = [
    ("random", 368, 88, "80fbeb695053"),
    ("random", 372, 89, "155118b0c6e3"),
    ("random", 320, 76, "31291cdf69a4"),
    ("random", 396, 91, "0bc7744584d3"),
    ("equispaced_fraction", 368, 93, "ba723d332cd0"),
    ("equispaced_fraction", 372, 94, "479778cab0e2"),
    ("equispaced_fraction", 320, 80, "0818c1b1fe3e"),
    ("equispaced_fraction", 396, 99, "181a1c51a382"),
    ("equispaced", 368, 114, "31da949cbffb"),
    ("equispaced", 320, 100, "1a0c679bf77b"),
    ("magic", 368, 114, "70f5b1e8e3f9"),
    ("magic", 320, 99, "554ae7f37ffa"),
    ("magic_fraction", 368, 86, "f89cdbe8a55a"),
    ("magic_fraction", 320, 75, "4febfceaa83f"),
]
ALL = sorted(path.stem for path in (CONF / "mask").glob("*.yaml") if path.stem != "file")
COLUMNS = [name for name in ALL if "2d" not in name]


def mask_func(name: str, **changes: list[float]) -> MaskFunc:
    config = OmegaConf.to_container(OmegaConf.load(CONF / "mask" / f"{name}.yaml"))
    assert isinstance(config, dict)
    return instantiate("mask", {**config, **changes})


@pytest.mark.parametrize(("family", "num_cols", "num_sampled", "digest"), GOLDEN)
def test_masks_equal_fastmri_s_golden_values(family: str, num_cols: int, num_sampled: int, digest: str) -> None:
    mask, _ = draw_mask(mask_func(f"{family}_4x"), (num_cols, num_cols), volume_seed("file1000000.h5"))
    text = "".join("1" if column else "0" for column in mask[0])
    assert (int(mask.sum()), hashlib.sha256(text.encode()).hexdigest()[:12]) == (num_sampled, digest)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize(("num_cols", "num_low"), [(320, 26), (368, 29), (372, 30), (396, 32)])
def test_every_mask_samples_its_centre_and_repeats_with_its_seed(name: str, num_cols: int, num_low: int) -> None:
    func = mask_func(name)
    mask, acs_mask = draw_mask(func, (num_cols, num_cols), (1, 2, 3))
    again, _ = draw_mask(func, (num_cols, num_cols), (1, 2, 3))
    assert np.array_equal(mask, again)
    assert mask[acs_mask].all()
    expected = {round(num_cols * fraction) for fraction in func.center_fractions}
    assert acs_mask.sum() in expected
    if "4x" in name and "8x" not in name:
        assert acs_mask.sum() == num_low


@pytest.mark.parametrize("name", ["random_4x", "random_8x", "equispaced_fraction_4x", "magic_fraction_8x"])
def test_families_that_keep_a_budget_reach_their_acceleration_on_average(name: str) -> None:
    func = mask_func(name)
    lines = [draw_mask(func, (640, 368), (seed,))[0].sum() for seed in range(200)]
    # 200 draws of a spread of about 8 lines; the magic family rounds its spacing, by up to 10 %
    assert np.mean(lines) == pytest.approx(368 / func.accelerations[0], rel=0.12)


def test_both_accelerations_of_a_mixed_mask_are_drawn() -> None:
    func = mask_func("random_4x_8x")
    centres = {int(draw_mask(func, (640, 368), (seed,))[1].sum()) for seed in range(20)}
    assert centres == {29, 15}


@pytest.mark.parametrize("family", ["random", "equispaced", "equispaced_fraction", "magic", "magic_fraction"])
@pytest.mark.parametrize(("fraction", "acceleration"), [(0.25, 4), (0.3, 4), (0.08, 16)])
def test_a_budget_the_centre_uses_up_is_refused(family: str, fraction: float, acceleration: float) -> None:
    func = mask_func(f"{family}_4x", center_fractions=[fraction], accelerations=[acceleration])
    with pytest.raises(ConfigError, match=r"mask\.center_fractions"):
        check_budget(func, (640, 368))


@pytest.mark.parametrize("name", COLUMNS)
def test_masks_are_what_calling_fastmri_s_classes_gives(name: str) -> None:
    func = mask_func(name)
    for seed in ((0, 1, 2, 3), volume_seed("file1000000.h5"), (9,)):
        theirs, num_low = func((1, 368, 2), seed=seed)
        mask, acs_mask = draw_mask(func, (640, 368), seed)
        assert np.array_equal(mask[0], theirs.numpy().ravel() > 0)
        assert acs_mask.sum() == num_low


@given(st.integers(48, 400), st.sampled_from(COLUMNS), st.integers(0, 2**31))
def test_any_width_gives_a_usable_mask(num_cols: int, name: str, seed: int) -> None:
    func = mask_func(name)
    check_budget(func, (num_cols, num_cols))
    mask, acs_mask = draw_mask(func, (num_cols, num_cols), (seed,))
    assert 0 < mask.sum() < num_cols
    assert np.array_equal(contiguous_center(mask) & acs_mask, acs_mask)


@given(st.integers(7, 60), st.sampled_from(COLUMNS), st.text("abc", min_size=1, max_size=4))
def test_a_mask_at_a_small_width_samples_something_or_is_refused(num_cols: int, name: str, volume: str) -> None:
    try:
        mask, _ = volume_mask(mask_func(name), (num_cols, num_cols), volume)
    except ConfigError:
        return
    assert mask.any()


@pytest.mark.parametrize("changes", [{"accelerations": ["a"]}, {"center_fractions": [0.0]}, {"accelerations": [0]}])
def test_what_is_no_budget_is_refused(changes: dict[str, list[float]]) -> None:
    with pytest.raises(ConfigError, match=r"center_fractions"):
        check_budget(mask_func("random_4x", **changes), (640, 368))


def test_a_mask_from_a_file_is_used_as_it_is(tmp_path: Path) -> None:
    given = np.zeros(36)
    given[[0, 5, 17, 18, 19, 30]] = [1, 2, 1, 1, 1, 0.5]
    np.save(tmp_path / "m.npy", given)
    func = FileMask(str(tmp_path / "m.npy"))
    mask, acs_mask = volume_mask(func, (40, 36), "any.h5")
    assert np.array_equal(mask, given[None] != 0)
    assert np.flatnonzero(acs_mask[0]).tolist() == [17, 18, 19]
    with pytest.raises(ConfigError, match="has 36 columns, the k-space has 40x40"):
        volume_mask(func, (40, 40), "any.h5")


@pytest.mark.parametrize("values", [np.zeros(9), np.ones((3, 3, 3)), np.array([np.nan]), np.array(["a"]), None])
def test_a_file_that_is_no_mask_is_refused(tmp_path: Path, values: np.ndarray | None) -> None:
    if values is None:
        (tmp_path / "m.npy").write_text("no array")
    else:
        np.save(tmp_path / "m.npy", values)
    with pytest.raises(ConfigError, match=r"mask\.path=.*m\.npy"):
        FileMask(str(tmp_path / "m.npy"))
    with pytest.raises(ConfigError, match="no such file"):
        FileMask(str(tmp_path / "none.npy"))


def test_contiguous_center_stops_at_the_first_gap() -> None:
    mask = np.array([[1, 0, 1, 1, 1, 0, 1, 1]], dtype=bool)
    assert contiguous_center(mask).tolist() == [[False, False, True, True, True, False, False, False]]
    assert not contiguous_center(np.array([[1, 1, 0, 1]], dtype=bool)).any()


def test_the_centre_of_a_pattern_is_a_box_without_gaps() -> None:
    mask = np.zeros((12, 10), dtype=bool)
    mask[3:9, 2:8] = True
    expected = mask.copy()
    mask[[0, 11, 5], [0, 3, 0]] = True
    assert np.array_equal(contiguous_center(mask), expected)
    mask[4, 3] = False  # on no axis through the middle
    assert contiguous_center(mask)[5:7, 4:6].all()
    assert mask[contiguous_center(mask)].all()
    mask[6, 5] = False
    assert not contiguous_center(mask).any()


@pytest.mark.parametrize("name", [name for name in ALL if name not in COLUMNS])
@pytest.mark.parametrize("size", [(64, 64), (75, 52)])
def test_a_pattern_in_both_directions_keeps_its_budget_and_is_densest_in_the_middle(
    name: str, size: tuple[int, int]
) -> None:
    func = mask_func(name)
    mask, box = volume_mask(func, size, "v.h5")
    again, _ = volume_mask(func, size, "v.h5")
    assert mask.shape == box.shape == size
    assert mask[box].all()
    assert np.array_equal(mask, again)
    assert not np.array_equal(mask, volume_mask(func, size, "w.h5")[0])
    exact = 0.001 if "gaussian" in name else 0.12  # SigPy's own tolerance is 0.1
    assert mask.size / mask.sum() == pytest.approx(func.accelerations[0], abs=func.accelerations[0] * exact + 0.05)
    inner = center_box(size, (size[0] // 2, size[1] // 2))
    assert mask[inner & ~box].mean() > 1.5 * mask[~inner].mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"center_fractions": [0.6]}, "a centre of 38x38"),
        ({"center_fractions": [0.001]}, "a centre of 0x0"),
        ({"accelerations": [0.5]}, "an acceleration of 1 or more"),
        ({"accelerations": [4, 8]}, "of the same length"),
    ],
)
def test_a_pattern_that_cannot_be_is_refused(changes: dict[str, list[float]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_budget(mask_func("gaussian2d_4x", **changes), (64, 64))


@pytest.mark.parametrize("name", ["random_4x", "magic_fraction_4x"])
def test_threads_draw_the_masks_of_their_seeds(name: str) -> None:
    func, seeds = mask_func(name), [(0, number) for number in range(400)]
    expected = [draw_mask(func, (640, 368), seed)[0] for seed in seeds]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: draw_mask(func, (640, 368), seed)[0], seeds))
    assert all(map(np.array_equal, found, expected))


def test_every_acceleration_of_a_family_is_evaluated_as_alone() -> None:
    masks = by_acceleration(mask_func("random_4x_8x"))
    assert list(masks) == ["4x", "8x"]
    for name, func in masks.items():
        alone = volume_mask(mask_func(f"random_{name}"), (640, 368), "file1000000.h5")
        assert all(map(np.array_equal, volume_mask(func, (640, 368), "file1000000.h5"), alone))
    both = by_acceleration(mask_func("random_4x_8x", allow_any_combination=True))
    assert list(both) == ["4x centre 0.08", "8x centre 0.08", "4x centre 0.04", "8x centre 0.04"]
    single = mask_func("random_4x")
    assert by_acceleration(single) == {"": single}

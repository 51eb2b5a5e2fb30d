"""Geometry: where voxels lie, against values worked out by hand, nibabel's DICOM reader, and itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from mrirecon.io.geometry import Geometry, flip_lps_ras, from_directions, order_along

# LPS, as a head-first supine transverse scan has them: readout to the right, phase encoding to the back.
RIGHT, BACK, HEAD = (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def geometry(positions: object, directions: object = (RIGHT, BACK, HEAD), **changes: object) -> Geometry:
    settings = {"size": (192, 144), "field_of_view": (280.0, 210.0), "slice_thickness": 8.0, **changes}
    return from_directions(positions, *directions, **settings)  # type: ignore[arg-type, misc]


def affine_of(found: Geometry) -> np.ndarray:
    assert found.affine is not None
    return found.affine


def rotation(seed: int) -> np.ndarray:
    """Three directions at right angles, left-handed half of the time."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]


def test_a_known_scan_has_the_affine_of_its_scanner() -> None:
    """A two-sphere phantom in ISMRMRD: 1.458 x 1.458 x 8 mm, axes R, P, S, first voxel at (-160.05, 38.43, 0)."""
    affine = affine_of(geometry([20.05, 66.57, 0.0]))
    expected = [[280 / 192, 0, 0, -160.05], [0, -210 / 144, 0, 38.43], [0, 0, 8, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(affine, expected, atol=1e-9)
    assert np.linalg.det(affine[:3, :3]) < 0


@given(st.integers(0, 1 << 30), st.integers(7, 33), st.integers(7, 33), st.integers(1, 5))
def test_positions_and_directions_come_back_from_the_affine(seed: int, y: int, x: int, num_slices: int) -> None:
    rng, directions = np.random.default_rng(seed), rotation(seed)
    start, step = rng.uniform(-200, 200, 3), rng.uniform(1, 9) * rng.choice([-1, 1])
    positions = start + step * np.arange(num_slices)[:, None] * directions[2]
    fov = tuple(rng.uniform(50, 500, 2))
    lps = flip_lps_ras(affine_of(geometry(positions, directions, size=(y, x), field_of_view=fov)))
    centres = lps @ [[y // 2] * num_slices, [x // 2] * num_slices, range(num_slices), [1] * num_slices]
    np.testing.assert_allclose(centres[:3].T, positions, atol=1e-9)
    np.testing.assert_allclose(lps[:3, 0] * y / fov[0], directions[0], atol=1e-12)
    np.testing.assert_allclose(lps[:3, 1] * x / fov[1], directions[1], atol=1e-12)
    thickness = 8.0 if num_slices == 1 else step
    np.testing.assert_allclose(lps[:3, 2] @ directions.T, [0, 0, thickness], atol=1e-9)


@given(st.integers(0, 1 << 30))
def test_flipping_is_its_own_inverse_and_keeps_lengths(seed: int) -> None:
    affine = np.eye(4)
    affine[:3] = np.random.default_rng(seed).normal(size=(3, 4))
    flipped = flip_lps_ras(affine)
    np.testing.assert_array_equal(flip_lps_ras(flipped), affine)
    np.testing.assert_array_equal(np.abs(flipped), np.abs(affine))
    np.testing.assert_array_equal(flipped[:2], -affine[:2])


@pytest.mark.filterwarnings("ignore:The DICOM readers are highly experimental")
def test_the_same_slice_as_dicom_has_the_same_affine() -> None:
    """nibabel computes the affine to LPS from DICOM's position of the first pixel and its directions."""
    from nibabel.nicom.dicomwrappers import wrapper_from_data  # warns when imported

    read, phase, _ = rotation(3)
    found = geometry(
        [5.0, -7.0, 11.0], (read, phase, np.cross(read, phase)), size=(16, 12), field_of_view=(160.0, 90.0)
    )
    lps = flip_lps_ras(affine_of(found))
    dicom = Dataset()
    dicom.Rows, dicom.Columns, dicom.PixelSpacing = 16, 12, [10.0, 7.5]
    dicom.ImageOrientationPatient = [*phase, *read]  # where a row and where a column of pixels runs to
    dicom.ImagePositionPatient = [*lps[:3, 3]]
    dicom.SliceThickness, dicom.PixelData = 8.0, bytes(16 * 12 * 2)
    np.testing.assert_allclose(wrapper_from_data(dicom).affine, lps, atol=1e-6)


def test_interleaved_slices_are_sorted_by_place() -> None:
    """The GE P-file's seven coronal slices: measured 1, 5, 2, 6, 3, 7, 4, 18 mm apart."""
    measured = np.array([0, 4, 1, 5, 2, 6, 3])
    positions = np.array([0.0, 23.9, 0.0]) - measured[:, None] * [0.0, 18.0, 0.0]
    order = order_along(positions, (0, -1, 0))
    np.testing.assert_array_equal(measured[order], range(7))
    sorted_geometry = geometry(
        positions[order], ((1, 0, 0), (0, 0, 1), (0, -1, 0)), slice_thickness=5.0, slice_order=measured.tolist()
    )
    np.testing.assert_allclose(affine_of(sorted_geometry)[:3, 2], [0, 18, 0])
    assert sorted_geometry.slice_order == (0, 4, 1, 5, 2, 6, 3)
    with pytest.raises(ValueError, match="evenly spaced"):
        geometry(positions, ((1, 0, 0), (0, 0, 1), (0, -1, 0)))


@pytest.mark.parametrize(
    ("positions", "directions", "message"),
    [
        ([0, 0, 0], (RIGHT, RIGHT, HEAD), "right angles"),
        ([0, 0, 0], (RIGHT, (0, 2, 0), HEAD), "right angles"),
        ([0, 0, 0], (RIGHT, BACK, (0, 0, np.nan)), "right angles"),
        ([[0, 0, 0], [0, 0, 0]], (RIGHT, BACK, HEAD), "evenly spaced"),
        ([[0, 0, 0], [0, 0, 8], [0, 0, 24]], (RIGHT, BACK, HEAD), "evenly spaced"),
        ([[0, 0, 0], [0, 8, 0]], (RIGHT, BACK, HEAD), "evenly spaced"),
        ([[0, 0, 0], [0, 0, np.nan]], (RIGHT, BACK, HEAD), "evenly spaced"),
        ([np.inf, 0, 0], (RIGHT, BACK, HEAD), "affine"),
    ],
)
def test_what_cannot_be_parallel_slices_is_refused(positions: object, directions: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        geometry(positions, directions)


@pytest.mark.parametrize(
    "changes",
    [
        {"field_of_view": (0.0, 210.0)}, {"field_of_view": (280.0, np.nan)}, {"field_of_view": (280.0,)},
        {"slice_thickness": -1.0}, {"slice_thickness": np.inf}, {"affine": np.eye(3)}, {"affine": np.zeros((4, 4))},
        {"affine": np.full((4, 4), np.nan)}, {"affine": np.ones((4, 4))}, {"slice_order": (0, 0)},
        {"slice_order": (1, 2)},
    ],
    ids=str,
)  # fmt: skip
def test_a_geometry_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Geometry(**{"field_of_view": (280.0, 210.0), **changes})  # type: ignore[arg-type]


def test_a_geometry_cannot_be_changed() -> None:
    affine = np.eye(4)
    found = Geometry((280.0, 210.0), affine=affine)
    affine[0, 0] = 5
    assert affine_of(found)[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        affine_of(found)[0, 0] = 5

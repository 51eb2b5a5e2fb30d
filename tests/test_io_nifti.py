"""NIfTI files as magnitude images: the right way up whatever their storage, and refused clearly where they are not."""

import gzip
import re
import struct
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from mrirecon.errors import InputError
from mrirecon.io.images import nifti

SIZE = (10, 12, 9)  # to the right, to the front, to the crown
VOXEL = (1.0, 1.5, 2.0)


def anatomy() -> np.ndarray:
    """A volume without any symmetry, all values different, RAS."""
    return (np.arange(np.prod(SIZE)).reshape(SIZE) + 1).astype(np.float32)


def write(path: Path, values: np.ndarray | None = None, codes: str = "RAS", kind=nibabel.Nifti1Image) -> Path:
    """The volume stored along other directions than to the right, to the front and to the crown."""
    image = kind(anatomy() if values is None else values, np.diag([*VOXEL, 1.0]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
    )
    nibabel.save(image.as_reoriented(turn), path)
    return path


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SRA"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_axial_slices_have_the_face_on_top_and_the_right_hand_side_left(tmp_path, codes, kind):
    volume = nifti.read(write(tmp_path / "a.nii.gz", codes=codes, kind=kind), "axial")
    assert volume.values.dtype == np.float32
    assert volume.voxel_size == pytest.approx((2.0, 1.5, 1.0))
    assert not volume.notes
    right, front, crown = SIZE[0] - 1, SIZE[1] - 1, 2
    assert np.array_equal(volume.values, anatomy()[::-1, ::-1, :].transpose(2, 1, 0))
    assert volume.values[crown, 0, 0] == anatomy()[right, front, crown]


def test_coronal_and_sagittal_slices_have_the_crown_on_top(tmp_path):
    path = write(tmp_path / "a.nii")
    coronal, sagittal = nifti.read(path, "coronal"), nifti.read(path, "sagittal")
    assert np.array_equal(coronal.values, anatomy()[::-1, ::-1, ::-1].transpose(1, 2, 0))
    assert np.array_equal(sagittal.values, anatomy()[::-1, ::-1, ::-1].transpose(0, 2, 1))
    assert coronal.voxel_size == pytest.approx((1.5, 2.0, 1.0))
    assert sagittal.voxel_size == pytest.approx((1.0, 2.0, 1.5))


@pytest.mark.parametrize(("codes", "plane"), [("RAS", "axial"), ("RSA", "coronal"), ("PSR", "sagittal")])
def test_native_is_the_plane_of_the_stored_slices(tmp_path, codes, plane):
    path = write(tmp_path / "a.nii", codes=codes)
    assert np.array_equal(nifti.read(path, "native").values, nifti.read(path, plane).values)


def test_scaled_integers_are_the_numbers_they_stand_for(tmp_path):
    image = nibabel.Nifti1Image(np.round(anatomy()).astype(np.int16), np.diag([*VOXEL, 1.0]))
    image.header.set_slope_inter(0.5, 3.0)
    nibabel.save(image, tmp_path / "a.nii")
    raw = (tmp_path / "a.nii").read_bytes()
    slope, intercept = struct.unpack_from("<ff", raw, 112)
    stored = np.frombuffer(raw, "<i2", offset=352).reshape(SIZE, order="F")
    expected = (stored * slope + intercept)[::-1, ::-1, :].transpose(2, 1, 0)
    # One rounding of float32.
    np.testing.assert_allclose(nifti.read(tmp_path / "a.nii", "axial").values, expected, rtol=1e-6)


def test_of_several_volumes_the_first_is_used_and_that_is_said(tmp_path):
    path = write(tmp_path / "a.nii.gz", np.stack([anatomy(), anatomy() + 7], axis=-1))
    volume = nifti.read(path, "axial")
    assert np.array_equal(volume.values, nifti.read(write(tmp_path / "b.nii"), "axial").values)
    assert "2 volumes" in volume.notes[0]


def test_slices_across_thick_ones_are_told(tmp_path):
    nibabel.save(nibabel.Nifti1Image(anatomy(), np.diag([1.0, 1.0, 5.0, 1.0])), tmp_path / "a.nii")
    assert not nifti.read(tmp_path / "a.nii", "axial").notes
    assert "slice_axis=native" in nifti.read(tmp_path / "a.nii", "sagittal").notes[0]


def test_small_negative_values_count_as_zero_and_that_is_said(tmp_path):
    values = anatomy()
    values[0, 0, 0] = -5
    volume = nifti.read(write(tmp_path / "a.nii", values), "axial")
    assert volume.values.min() == 0
    assert "-5" in volume.notes[0]


def nan(values: np.ndarray) -> np.ndarray:
    values[3, 3, 3] = np.nan
    return values


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (nan(anatomy()), "1 voxels are NaN or Inf"),
        (anatomy() * 1j, "complex numbers"),
        (np.zeros(SIZE, RGB), "RGB"),
        (anatomy()[:, :, 0], r"\(x, y, z\).*\(10, 12\)"),
        (0 * anatomy(), "all zero"),
        (anatomy() - 500, "from -499"),
        (anatomy()[:5], "at least 7x7"),
        (anatomy().astype(np.float64) * 1e300, "NaN or Inf"),
    ],
    ids=["NaN", "complex", "RGB", "2-D", "zero", "negative", "tiny", "too large"],
)
def test_what_is_no_magnitude_volume_is_refused(tmp_path, values, message):
    path = tmp_path / "bad.nii.gz"
    if values.ndim == 3:
        write(path, values)
    else:
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: expected .*{message}"):
        nifti.read(path, "axial")


def packed(raw: bytes, name: str) -> bytes:
    return gzip.compress(raw) if name.endswith(".gz") else raw


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kept", [0, 3, 100, 347, 353, 800, -1])
def test_a_file_cut_anywhere_is_refused(tmp_path, name, kept):
    path = write(tmp_path / name)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=re.escape(str(path))):
        nifti.read(path, "axial")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_volume_cut_inside_its_compression_is_refused(tmp_path, name):
    """The compressed stream is whole; what it holds is not."""
    raw = write(tmp_path / "whole.nii").read_bytes()
    (tmp_path / name).write_bytes(packed(raw[:-40], name))
    with pytest.raises(InputError, match="damaged or cut short"):
        nifti.read(tmp_path / name, "axial")


@pytest.mark.parametrize(
    ("offset", "kind", "value"),
    [(42, "<3h", (32767, 32767, 32767)), (42, "<3h", (0, 12, 9)), (42, "<3h", (-10, 12, 9)), (108, "<f", (4e9,)),
     (108, "<f", (12.0,)), (108, "<f", (float("nan"),)), (70, "<h", (999,)), (40, "<h", (30000,)),
     (344, "4s", (b"none",)),     (280, "<4f", (float("nan"),) * 4), (280, "<12f", (0.0,) * 12)],
    ids=["huge", "empty", "negative", "offset", "offset in header", "offset nan", "type", "rank", "magic", "affine nan",
         "affine 0"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_forged_header_is_refused_at_once(tmp_path, name, offset, kind, value):
    raw = bytearray(write(tmp_path / "whole.nii").read_bytes())
    struct.pack_into(kind, raw, offset, *value)
    (tmp_path / name).write_bytes(packed(bytes(raw), name))
    started = time.monotonic()
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name))):
        nifti.read(tmp_path / name, "axial")
    assert time.monotonic() - started < 5


def test_a_compressed_file_with_a_flipped_bit_is_refused(tmp_path):
    path = write(tmp_path / "a.nii.gz")
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1  # in the checksum, so that every value can be read
    path.write_bytes(raw)
    with pytest.raises(InputError, match="CRC"):
        nifti.read(path, "axial")


def test_a_volume_larger_than_memory_is_refused_though_its_compression_could_hold_it(tmp_path):
    raw = bytearray(write(tmp_path / "whole.nii").read_bytes())
    struct.pack_into("<3h", raw, 42, 1024, 1024, 1024)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(bytes(raw)) + np.random.default_rng(0).bytes(1 << 22))
    with pytest.raises(InputError, match="at most 536870912 voxels"):
        nifti.read(path, "axial")


def test_a_file_that_unpacks_to_far_more_than_its_volume_is_refused(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(write(tmp_path / "whole.nii").read_bytes() + bytes(1 << 26)))
    with pytest.raises(InputError, match="unpacks to more"):
        nifti.read(path, "axial")


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path / "missing.nii", tmp_path):
        with pytest.raises(InputError, match=re.escape(str(path))):
            nifti.read(path, "axial")


def test_a_real_head_is_the_right_way_up(realdata):
    volume = nifti.read(realdata / "anatomy" / "brain_t1.nii.gz", "axial")
    assert volume.values.shape == (384, 384, 274)
    assert volume.voxel_size == pytest.approx((0.667, 0.667, 0.700), abs=1e-3)
    inside = volume.values > 20
    assert inside[:128].mean() < 0.5 * inside[128:256].mean()  # the neck comes first, the brain after it
    # De-faced: below the brain there is next to nothing in front, and the neck behind.
    assert inside[:60, :128].mean() < 0.2 * inside[:60, 256:].mean()

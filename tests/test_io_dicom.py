"""DICOM series as magnitude images: sorted by position whatever their names, refused clearly where they cannot be."""

import re
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from mrirecon.errors import InputError
from mrirecon.io.images import dicom
from mrirecon.io.images import find as images

AXIAL, CORONAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)
SPACING, STEP = (0.5, 0.75), 3.0  # mm: between rows, between columns; between slices


def anatomy(num_slices: int = 8, size: tuple[int, int] = (10, 12)) -> np.ndarray:
    """All values different.  -> uint16 (slice y x)"""
    return (np.arange(num_slices * size[0] * size[1]).reshape(num_slices, *size) + 1).astype(np.uint16)


def header(series: str = "1.2.3", patient: str = "P1") -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, generate_uid()
    dataset.SeriesInstanceUID, dataset.PatientID, dataset.SeriesDescription = series, patient, "t1 mprage"
    dataset.Modality, dataset.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M", "ND"]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    return dataset


def normal(orientation: tuple[float, ...]) -> np.ndarray:
    return np.cross(orientation[:3], orientation[3:])


def single(values: np.ndarray, number: int, orientation: tuple[float, ...] = AXIAL, **attributes) -> Dataset:
    dataset = header()
    dataset.Rows, dataset.Columns = values.shape
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset.PixelSpacing, dataset.SliceThickness = list(SPACING), 2.5
    dataset.ImageOrientationPatient = list(orientation)
    dataset.ImagePositionPatient = list(number * STEP * normal(orientation) - 5.0)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, values: np.ndarray, orientation: tuple[float, ...] = AXIAL, **attributes) -> list[Path]:
    """File names run against the positions, and the list is neither."""
    prefix = attributes.get("SeriesInstanceUID", "")
    paths = [
        save(single(image, number, orientation, **attributes), folder / f"{prefix}{len(values) - number:03d}.dcm")
        for number, image in enumerate(values)
    ]
    return paths[::2] + paths[1::2]


def enhanced(values: np.ndarray, orientation: tuple[float, ...] = AXIAL) -> Dataset:
    """One file of several frames, stored from the last to the first, with a rescale of their own."""
    dataset = header()
    dataset.SOPClassUID = EnhancedMRImageStorage
    dataset.NumberOfFrames, (dataset.Rows, dataset.Columns) = len(values), values.shape[1:]
    dataset.PixelData = values[::-1].astype("<u2").tobytes()
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(SPACING), 2.5
    plane.ImageOrientationPatient = list(orientation)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = [
        frame_groups(number, orientation) for number in reversed(range(len(values)))
    ]
    return dataset


def frame_groups(number: int, orientation: tuple[float, ...]) -> Dataset:
    groups, position, scale = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = list(number * STEP * normal(orientation) - 5.0)
    scale.RescaleSlope, scale.RescaleIntercept = number + 1, 0
    groups.PlanePositionSequence, groups.PixelValueTransformationSequence = [position], [scale]
    return groups


def test_a_series_is_sorted_by_position(tmp_path):
    volume = dicom.read(write_series(tmp_path, anatomy()), "axial")
    assert np.array_equal(volume.values, anatomy())
    assert volume.values.dtype == np.float32
    assert volume.voxel_size == pytest.approx((STEP, *SPACING))
    assert not volume.notes


@pytest.mark.parametrize(("orientation", "plane"), [(CORONAL, "coronal"), (SAGITTAL, "sagittal")])
def test_each_plane_is_shown_as_the_scanner_shows_it(tmp_path, orientation, plane):
    paths = write_series(tmp_path, anatomy(), orientation)
    volume = dicom.read(paths, plane)
    # Slices count to the back and to the left; the normal of these series points to the back and to the right.
    expected = anatomy() if plane == "coronal" else anatomy()[::-1]
    assert np.array_equal(volume.values, expected)
    assert np.array_equal(dicom.read(paths, "native").values, volume.values)


def test_a_thick_series_cut_across_is_told(tmp_path):
    volume = dicom.read(write_series(tmp_path, anatomy(), AXIAL), "coronal")
    assert volume.values.shape == (10, 8, 12)
    assert "slice_axis=native" in volume.notes[0]


def test_rescaled_values_are_what_they_stand_for(tmp_path):
    paths = write_series(tmp_path, anatomy(), RescaleSlope=0.5, RescaleIntercept=2)
    np.testing.assert_array_equal(dicom.read(paths, "axial").values, anatomy() * 0.5 + 2)


def test_an_enhanced_file_is_a_volume(tmp_path):
    volume = dicom.read([save(enhanced(anatomy()), tmp_path / "a")], "axial")
    np.testing.assert_array_equal(volume.values, anatomy() * np.arange(1, 9)[:, None, None])
    assert volume.voxel_size == pytest.approx((STEP, *SPACING))


def test_an_enhanced_file_with_too_few_groups_is_refused(tmp_path):
    dataset = enhanced(anatomy())
    dataset.PerFrameFunctionalGroupsSequence.pop()
    with pytest.raises(InputError, match="cannot be read"):
        dicom.read([save(dataset, tmp_path / "a")], "axial")


@pytest.mark.parametrize("syntax", [RLELossless, DeflatedExplicitVRLittleEndian])
def test_what_pydicom_can_unpack_is_read(tmp_path, syntax):
    dataset = single(anatomy()[0], 0)
    if syntax == RLELossless:
        dataset.compress(RLELossless)
    dataset.file_meta.TransferSyntaxUID = syntax
    assert np.array_equal(dicom.read([save(dataset, tmp_path / "a")], "axial").values, anatomy()[:1])


def test_a_real_image_is_the_same_in_every_plain_encoding():
    names = ["MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_RLE.dcm"]
    volumes = [dicom.read([Path(get_testdata_file(name))], "native").values for name in names]
    pixels = pydicom.dcmread(get_testdata_file("MR_small.dcm")).pixel_array
    assert all(np.array_equal(volume[0], pixels) for volume in volumes)


def test_gaps_between_slices_are_told(tmp_path):
    paths = [
        save(single(image, number + (number > 5)), tmp_path / f"{number}") for number, image in enumerate(anatomy())
    ]
    assert "missing" in dicom.read(paths, "axial").notes[0]


def refused(paths: list[Path], place: Path, message: str) -> None:
    with pytest.raises(InputError, match=f"{re.escape(str(place))}: expected .*{message}"):
        dicom.read(paths, "axial")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "RGB"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "phase images"),
        ({"ComplexImageComponent": "IMAGINARY"}, "imaginary images"),
        ({"Rows": 60000, "Columns": 60000}, "7200000000 bytes"),
        ({"NumberOfFrames": 2**31 - 1}, "damaged or cut short"),
        ({"Columns": 0}, "as many values"),
        ({"RescaleIntercept": -1000}, "CT image"),
        ({"RescaleSlope": "1e300"}, "NaN or Inf"),
        ({"PixelSpacing": [0, 0]}, "position and a size"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "position and a size"),
        ({"ImageOrientationPatient": [1, 0, 0]}, "cannot be read"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_no_magnitude_image_is_refused(tmp_path, changes, message):
    path = save(single(anatomy()[0], 0, **changes), tmp_path / "a.dcm")
    refused([path], path, message)


@pytest.mark.parametrize("keyword", ["PixelData", "ImagePositionPatient", "PixelSpacing", "Rows", "Columns"])
def test_what_an_image_needs_is_named(tmp_path, keyword):
    dataset = single(anatomy()[0], 0)
    delattr(dataset, keyword)
    path = save(dataset, tmp_path / "a.dcm")
    refused([path], path, "no pixel data" if keyword == "PixelData" else keyword)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (single(anatomy(size=(9, 12))[0], 1), "one size"),
        (single(anatomy()[1], 1, CORONAL), "several directions"),
        (single(anatomy()[1], 0), "1 of 2 lie where another one does"),
        (single(anatomy()[1], 1, PixelSpacing=[1, 1]), "one pixel spacing"),
    ],
    ids=["sizes", "directions", "places", "spacings"],
)
def test_what_does_not_make_one_volume_is_refused(tmp_path, other, message):
    paths = [save(single(anatomy()[0], 0), tmp_path / "0"), save(other, tmp_path / "1")]
    refused(paths, tmp_path, message)


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless.dcm", "MR_truncated.dcm", "rtplan.dcm", "JPEG-lossy.dcm"])
def test_what_pydicom_cannot_unpack_is_refused_with_its_reason(name):
    path = Path(get_testdata_file(name))
    refused([path], path, {"rtplan.dcm": "no pixel data", "MR_truncated.dcm": "8130 vs 8192"}.get(name, "plugins"))


@pytest.mark.parametrize("kept", [140, 200, 500, 900])
def test_a_file_cut_anywhere_is_refused(tmp_path, kept):
    path = save(single(anatomy()[0], 0), tmp_path / "a.dcm")
    assert kept < path.stat().st_size
    path.write_bytes(path.read_bytes()[:kept])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom tells some cuts as warnings too
        refused([path], path, "")


def test_a_large_deflated_file_is_refused_before_it_is_unpacked(tmp_path):
    dataset = single(anatomy()[0], 0)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.PixelData = np.random.default_rng(0).bytes(1 << 21)
    path = save(dataset, tmp_path / "a.dcm")
    refused([path], path, "deflated")
    with pytest.raises(InputError, match="deflated"):
        dicom.describe(path)


def test_images_are_found_by_content_and_grouped_by_series_and_subject(tmp_path):
    write_series(tmp_path / "one", anatomy())
    write_series(tmp_path / "two", anatomy()[:3], SeriesInstanceUID="1.2.4")
    write_series(tmp_path / "two", anatomy()[3:], SeriesInstanceUID="1.2.5", PatientID="P2", SeriesDescription="")
    save(single(anatomy()[0], 0, PatientID="", SeriesInstanceUID="1.2.6"), tmp_path / "three" / "no ending")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.dcm").write_bytes((tmp_path / "one" / "001.dcm").read_bytes())
    report = header()
    del report.SamplesPerPixel
    save(report, tmp_path / "report.dcm")
    paths, num_others = images.list_files(tmp_path)
    assert num_others == 2
    sources = images.find(tmp_path, paths)
    assert [source.name for source in sources] == ["one", "three/no ending", "two/series1", "two/series2"]
    assert [source.subject for source in sources] == ["patient P1", "three/no ending", "patient P1", "patient P2"]
    assert [source.label for source in sources] == ["t1 mprage", "t1 mprage", "t1 mprage", ""]
    assert [len(source.read("axial").values) for source in sources] == [8, 1, 3, 5]


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(InputError, match="none of its 0 files"):
        images.list_files(tmp_path)
    with pytest.raises(InputError, match="nothing is there"):
        images.list_files(tmp_path / "missing")
    report = header()
    path = save(report, tmp_path / "report.dcm")
    with pytest.raises(InputError, match="hold no image"):
        images.find(tmp_path, [path])

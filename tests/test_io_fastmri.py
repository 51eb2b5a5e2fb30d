"""The fastMRI layout: what is written is read back, by us and by fastmri, and real scans are read as they are."""

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from fastmri.data.mri_data import SliceDataset

from mrirecon.errors import ConfigError, InputError
from mrirecon.io import formats
from mrirecon.io.raw import fastmri, fastmri_writer
from mrirecon.io.scan import System, Target

REAL = Path(__file__).parents[2] / "shared" / "realdata"
REAL_SCANS = sorted([*REAL.glob("lowfield/*/*.h5"), *REAL.glob("multicoil/*.h5")])
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real scans are not beside the project")


def volume(seed: int = 0, coils: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """K-space (3, 24, 20) or (3, coils, 24, 20) and a target (3, 16, 15)."""
    rng = np.random.default_rng(seed)
    shape = (3, coils, 24, 20) if coils else (3, 24, 20)
    kspace = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    return kspace, rng.random((3, 16, 15)).astype(np.float32)


def write(path: Path, coils: int = 0, **changes: Any) -> Path:
    kspace, target = volume(coils=coils)
    name = "reconstruction_rss" if coils else "reconstruction_esc"
    settings = {"acquisition": "AXT2", "patient_id": "p1", "recon_size": (16, 15), "targets": {name: target}, **changes}
    fastmri_writer.write_volume(path, settings.pop("kspace", kspace), **settings)
    return path


def set_header(path: Path, encoded: int, center: int, maximum: int) -> None:
    xml = (
        f"<ismrmrdHeader><encoding><encodedSpace><matrixSize><x>24</x><y>{encoded}</y></matrixSize></encodedSpace>"
        f"<encodingLimits><kspace_encoding_step_1><maximum>{maximum}</maximum><center>{center}</center>"
        "</kspace_encoding_step_1></encodingLimits></encoding></ismrmrdHeader>"
    )
    with h5py.File(path, "r+") as file:
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = xml


@pytest.mark.parametrize("coils", [0, 4])
def test_a_written_volume_is_read_back_exactly(tmp_path: Path, coils: int) -> None:
    path = write(tmp_path / "file1000000.h5", coils)
    kspace, target = volume(coils=coils)
    scan = fastmri.read(path)
    np.testing.assert_array_equal(scan.kspace, kspace if coils else kspace[:, None])
    assert scan.target is not None
    np.testing.assert_array_equal(scan.target, target)
    assert (scan.kspace.dtype, scan.target.dtype) == (np.complex64, np.float32)


def test_inspect_tells_all_that_was_written(tmp_path: Path) -> None:
    info = fastmri.inspect(write(tmp_path / "a.h5", 4, extra_attrs={"num_low_frequency": 3}), "multicoil")
    assert (info.name, info.num_slices, info.num_coils, info.kspace_size) == ("a.h5", 3, 4, (24, 20))
    assert (info.target, info.recon_size) == (Target((16, 15), float(volume(coils=4)[1].max())), (16, 15))
    assert (fastmri.target_name(info), info.fastmri_challenge) == ("reconstruction_rss", "multicoil")
    assert (info.acquired, info.mask, info.num_low_frequency) == ((0, 20), None, 3)
    assert (info.acquisition, info.patient, info.notes) == ("AXT2", "p1", ())
    assert (info.geometry, info.system, info.simulated) == (None, System(), False)


def test_a_test_file_has_its_mask_and_the_size_of_its_header(tmp_path: Path) -> None:
    mask = np.arange(20) % 3 == 0
    info = fastmri.inspect(write(tmp_path / "a.h5", targets={}, recon_size=(12, 11), mask=mask))
    assert info.mask is not None
    np.testing.assert_array_equal(info.mask, mask)
    assert (info.target, info.recon_size) == (None, (12, 11))
    assert info.notes == ()
    assert fastmri.read_slice(info, 1)[1] is None
    assert fastmri.read(info.path).target is None


def test_fastmri_reads_what_we_write(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", 4)
    kspace, _, target, attrs, name, i = SliceDataset(tmp_path, "multicoil")[2]
    np.testing.assert_array_equal(kspace, volume(coils=4)[0][2])
    np.testing.assert_array_equal(target, volume(coils=4)[1][2])
    assert (name, i, attrs["padding_left"], attrs["padding_right"]) == ("a.h5", 2, 0, 20)
    assert (attrs["recon_size"], attrs["encoding_size"]) == ((16, 15, 1), (24, 20, 1))


@pytest.mark.parametrize(
    ("encoded", "center", "maximum", "acquired"),
    [(20, 10, 19, (0, 20)), (20, 7, 14, (3, 18)), (20, 12, 19, (0, 18)), (20, 6, 30, (4, 20))],
)
def test_acquired_columns_follow_fastmri(
    tmp_path: Path, encoded: int, center: int, maximum: int, acquired: tuple[int, int]
) -> None:
    set_header(write(tmp_path / "a.h5"), encoded, center, maximum)
    info = fastmri.inspect(tmp_path / "a.h5")
    assert info.acquired == acquired
    assert not any("acquired" in note for note in info.notes)


def test_senseless_encoding_limits_are_noted(tmp_path: Path) -> None:
    set_header(write(tmp_path / "a.h5"), encoded=200, center=0, maximum=10)
    info = fastmri.inspect(tmp_path / "a.h5")
    assert info.acquired == (0, 20)
    assert "100:20" in " ".join(info.notes)


def fov_header(encoded: str, recon: str, before: str = "") -> str:
    return f"<h>{before}<encoding><encodedSpace>{encoded}</encodedSpace><reconSpace>{recon}</reconSpace></encoding></h>"


def space(x: int, y: int, mm: str) -> str:
    return f"<matrixSize><x>{x}</x><y>{y}</y><z>1</z></matrixSize><fieldOfView_mm>{mm}</fieldOfView_mm>"


ENCODED, RECON = "<x>360</x><y> 2.0E2 </y><z>4.5</z>", "<x>160.5</x><y>180</y><z>4.5</z>"


@pytest.mark.parametrize(
    ("encoded", "recon", "field_of_view"),
    [
        # Images are cropped: 16 of 24 rows, 15 of 20 columns.
        (space(24, 20, ENCODED), space(16, 15, RECON), (240, 150)),
        (space(24, 20, ENCODED), "", (240, 150)),
        (space(24, 22, ENCODED), space(16, 15, RECON), (160.5, 180)),
        (space(24, 22, ENCODED), space(16, 16, RECON), None),
        (space(24, 20, "<x>360</x>"), space(16, 15, RECON), (160.5, 180)),
        *((space(24, 20, f"<x>{x}</x><y>200</y>"), "", None) for x in ("0", "-3", "nan", "inf", "1e999", "1e-300")),
        *((space(24, 20, f"<x>{x}</x><y>200</y>"), "", None) for x in ("", "1_0", "0x1", "٣", "9" * 5000)),
    ],
)
def test_the_field_of_view_is_that_of_the_cropped_image(
    tmp_path: Path, encoded: str, recon: str, field_of_view: tuple[float, float] | None
) -> None:
    info = fastmri.inspect(write(tmp_path / "a.h5", header=fov_header(encoded, recon)))
    if field_of_view is None:
        assert info.geometry is None
        return
    assert info.geometry is not None
    assert (info.geometry.field_of_view, info.geometry.slice_thickness) == (field_of_view, 4.5)
    assert (info.geometry.affine, info.geometry.slice_order) == (None, None)


def test_the_scanner_is_named_where_the_header_does(tmp_path: Path) -> None:
    system = "<acquisitionSystemInformation>{}</acquisitionSystemInformation>"
    vendor = system.format("<systemVendor> ACME </systemVendor><systemModel/><institutionName>secret</institutionName>")
    hertz = (
        "<experimentalConditions><H1resonanceFrequency_Hz>2340000</H1resonanceFrequency_Hz></experimentalConditions>"
    )
    tesla = system.format("<systemFieldStrength_T>1.5</systemFieldStrength_T>")
    for before, expected in (
        (vendor + hertz, System("ACME", None, 0.055)),
        (tesla + hertz, System(None, None, 1.5)),
        ("", System()),
    ):
        info = fastmri.inspect(write(tmp_path / "a.h5", header=fov_header("", "", before)))
        assert info.system == expected


def test_a_single_coil_file_with_both_targets_gives_its_own(tmp_path: Path) -> None:
    esc, rss = volume(1)[1], volume(2)[1]
    path = write(tmp_path / "a.h5", targets={"reconstruction_esc": esc, "reconstruction_rss": rss})
    target = fastmri.read(path, "singlecoil").target
    assert target is not None
    np.testing.assert_array_equal(target, esc)


def test_the_other_target_is_never_used_instead(tmp_path: Path) -> None:
    info = fastmri.inspect(write(tmp_path / "a.h5", targets={"reconstruction_rss": volume()[1]}), "singlecoil")
    assert info.target is None
    assert "reconstruction_rss" in " ".join(info.notes)


def test_a_narrow_scan_may_have_a_wider_target(tmp_path: Path) -> None:
    target = np.ones((3, 22, 22), np.float32)
    info = fastmri.inspect(write(tmp_path / "a.h5", targets={"reconstruction_esc": target}))
    assert info.recon_size == (22, 22)


def test_a_missing_maximum_is_noted_and_can_be_computed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        del file.attrs["max"]
        del file.attrs["acquisition"]
    info = fastmri.inspect(path)
    assert (info.target, info.acquisition) == (Target((16, 15), None), "unknown")
    assert ["acquisition" in info.notes[0], "max" in info.notes[1], len(info.notes)] == [True, True, 2]
    assert fastmri.target_maximum(info) == fastmri.check_values(info) == volume()[1].max()


def test_double_precision_is_read_as_single(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = volume()[0].astype(np.complex128)
        file.create_dataset("reconstruction_esc", data=volume()[1].astype(np.float64), compression="gzip", chunks=True)
    scan = fastmri.read(path)
    assert scan.target is not None
    np.testing.assert_array_equal(scan.kspace[:, 0], volume()[0])
    np.testing.assert_array_equal(scan.target, volume()[1])


def test_slices_are_those_of_the_volume(tmp_path: Path) -> None:
    scan = fastmri.read(write(tmp_path / "a.h5", 4))
    assert scan.target is not None
    for i in range(3):
        kspace, target = fastmri.read_slice(pickle.loads(pickle.dumps(scan.info)), i)  # noqa: S301 -- as workers do
        np.testing.assert_array_equal(kspace, scan.kspace[i])
        np.testing.assert_array_equal(target, scan.target[i])


def test_a_description_is_cheap_to_send(tmp_path: Path) -> None:
    info = fastmri.inspect(write(tmp_path / "a.h5", mask=np.ones(20)))
    assert len(pickle.dumps(info)) < 2000


def test_a_reconstruction_is_written_once(tmp_path: Path) -> None:
    path, image = tmp_path / "a.h5", volume()[1]
    fastmri_writer.write_reconstruction(path, image.astype(np.float64), {"acquisition": "AXT2"})
    with h5py.File(path) as file:
        assert (file["reconstruction"].dtype, file.attrs["acquisition"]) == (np.float32, "AXT2")
        np.testing.assert_array_equal(file["reconstruction"][()], image)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"a\.h5.*exists"):
        fastmri_writer.write_reconstruction(path, image * 0, {})
    assert path.read_bytes() == before


def test_written_arrays_are_contiguous_and_plain(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.h5")) as file:
        assert file["kspace"].chunks is None
        assert file["kspace"].compression is None


def test_volumes_are_listed_sorted_and_others_counted(tmp_path: Path) -> None:
    for name in ("b.h5", "a.h5", ".DS_Store", "._a.h5", "notes.txt", ".0123.tmp"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "dir.h5").mkdir()
    volumes, num_ignored = fastmri.list_volumes(tmp_path)
    assert [path.name for path in volumes] == ["a.h5", "b.h5", "dir.h5"]
    assert num_ignored == 4


def test_a_folder_without_volumes_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "singlecoil_train").mkdir()
    with pytest.raises(InputError, match=r"missing.*singlecoil_train"):
        fastmri.list_volumes(tmp_path / "missing" / "deeper")
    with pytest.raises(InputError, match="singlecoil_train"):
        fastmri.list_volumes(tmp_path)


def test_any_format_reads_fastmri_by_content(tmp_path: Path) -> None:
    path = write(tmp_path / "no_ending", 2)
    assert formats.inspect(path).num_coils == 2
    assert formats.read(path).kspace.shape == (3, 2, 24, 20)


@needs_real
def test_there_are_real_scans() -> None:
    assert len(REAL_SCANS) == 18


@needs_real
@pytest.mark.parametrize("path", REAL_SCANS, ids=lambda path: path.stem)
def test_a_real_target_is_the_image_of_its_kspace(path: Path) -> None:
    scan = formats.read(path)
    axes = (-2, -1)
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(scan.kspace, axes), axes=axes, norm="ortho"), axes)
    rss = np.linalg.norm(images, axis=1)
    assert scan.target is not None
    # Single precision in the files, and sums over up to eight coils.
    np.testing.assert_allclose(rss, scan.target, rtol=0, atol=1e-5 * scan.target.max())
    assert scan.info.notes == ()
    assert scan.info.target is not None
    assert scan.info.target.maximum == pytest.approx(fastmri.check_values(scan.info))
    assert scan.info.geometry is not None
    assert (scan.info.geometry.field_of_view, scan.info.geometry.slice_thickness) == ((250, 250), 5)
    assert scan.info.geometry.affine is None
    assert scan.info.system.field_strength == (0.055 if path.stem.startswith("lf") else 2.999)


@needs_real
def test_a_scan_archive_is_refused_with_its_reason() -> None:
    path = REAL / "vendor" / "ge_scanarchive_unsupported.h5"
    for call in (formats.inspect, formats.read):
        with pytest.raises(InputError, match=r"ge_scanarchive_unsupported\.h5.*GE.*software"):
            call(path)

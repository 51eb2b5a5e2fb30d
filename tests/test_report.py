"""The HTML report: what it says, that it needs no network and runs nobody's markup, and how a browser shows it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_runs import made_up_run
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from mrirecon.errors import ConfigError, InputError
from mrirecon.metrics.scores import SCORE_TABLE
from mrirecon.reports.comparison import compare
from mrirecon.reports.html import write_report
from mrirecon.reports.inputs import caption, read_curves, read_gallery
from mrirecon.reports.plots import colour_of, distribution
from mrirecon.reports.text import summary

CONDITIONS = ["", "noise 0.5", "noise 1", "coil 2 missing"]
HOSTILE = '<script>alert("x")</script> $\\frac{ & </svg>'
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def make_gallery(folder: Path, **values: Any) -> Path:
    folder.mkdir()
    Image.fromarray(np.arange(64 * 256, dtype=np.uint32).astype(np.uint8).reshape(64, 256)).save(folder / "a.png")
    about = {"kind": "worst", "name": "file1.h5", "slice_num": 3, "mask": "8x", "condition": "", "acquisition": "AXT1"}
    entry = {"file": "a.png", **about, "acceleration": 7.7, "ssim": 0.7123, "zero_filled_ssim": 0.6, **values}
    (folder / "gallery.json").write_text(json.dumps([entry]))
    return folder


def make_events(folder: Path) -> Path:
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for step in range(3):
            for tag in ("train/loss", "val/ssim", "lr", "grad_norm"):
                writer.add_scalar(tag, 1 / (step + 1), step)
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs with everything a report can show, one of them of a hostile name."""
    folder = tmp_path_factory.mktemp("report")
    gains = {"zero-filled": 0.0, "unet": 0.08, HOSTILE: 0.1}
    runs = {
        name: made_up_run(gain, seed=place, num_scans=14, conditions=CONDITIONS, patients=7, model=name)
        for place, (name, gain) in enumerate(gains.items())
    }
    runs["unet"]["volumes"][0] |= {"ssim": None, "undefined": {"ssim": f"flat {HOSTILE}"}}
    runs["unet"]["volumes"][4]["slices"]["ssim"][2] = None
    gallery = make_gallery(folder / "gallery", name=f"{HOSTILE}.h5")
    return write_report(folder / "out", runs, {HOSTILE: gallery}, {"unet": make_events(folder / "run")})


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report.read_text())


def test_a_report_is_one_file_that_asks_the_network_for_nothing(report: Path, page: Page) -> None:
    assert [path.name for path in report.parent.iterdir()] == ["report.html"]
    html = report.read_text()
    addresses = re.findall(r'(?:src|href|xlink:href)="([^"]*)"', html) + re.findall(r"url\(([^)]*)\)", html)
    assert addresses
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert "@import" not in html
    assert not any(tag in ("script", "link", "iframe", "object") for tag, _ in page.elements)


def test_every_name_in_a_report_is_text_and_no_markup(report: Path, page: Page) -> None:
    assert '<script>alert("x")' not in report.read_text()
    assert page.text.count(HOSTILE) > 10
    assert f"flat {HOSTILE}" in page.text
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)


def test_names_inside_the_plots_are_used_once_and_refer_to_themselves(report: Path, page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    html = report.read_text()
    assert set(re.findall(r'(?:xlink:href|href)="#([^"]*)"', html) + re.findall(r"url\(#([^)]*)\)", html)) <= set(ids)


def test_a_report_has_every_part(page: Page) -> None:
    sections = [section["id"] for section in page.all("section")]
    assert sections == [
        "summary", "scores", "differences", "distributions", "slices", "conditions", "gallery", "curves", "provenance",
    ]  # fmt: skip
    for words in ("Not for clinical use", "maximum of the ground-truth volume", "python scripts/evaluate.py ckpt=",
                  '"chans": 32', "AXT2, 8x", "all, noise 0.5", "1 undefined", "14 volumes of 7 patients"):  # fmt: skip
        assert words in page.text
    # 2 contrasts x 2 accelerations: 3 scores each and a curve over slices; noise and coil; loss, SSIM, rate.
    assert len(page.all("svg")) == 4 * 3 + 4 + 2 + 3


def test_a_report_can_be_read_without_seeing_it(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert "worst" in str(page.all("img")[0]["alt"])
    assert len(page.all("table")) == len(page.all("caption"))
    assert all("scope" in heading for heading in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_numbers_are_those_of_the_comparison_and_the_best_is_bold(tmp_path: Path) -> None:
    runs = {"a": made_up_run(masks=["4x"]), "b": made_up_run(0.1, seed=1, masks=["4x"])}
    html = write_report(tmp_path, runs).read_text()
    comparison = compare(runs)
    assert summary(comparison) in Page(html).text
    for name, is_best in (("a", False), ("b", True)):
        mean = SCORE_TABLE["ssim"].shown(comparison.overall.means["ssim"][name].interval.mean)
        assert (f"<strong>{mean}</strong>" in html) == is_best
        assert mean in html
    for absent in ('id="gallery"', 'id="curves"', 'id="conditions"'):
        assert absent not in html


def test_one_run_is_reported_without_differences(tmp_path: Path) -> None:
    html = write_report(tmp_path, {"only": made_up_run(num_scans=1)}).read_text()
    assert 'id="differences"' not in html
    assert "gives no interval" in html
    assert "<strong>0." not in html


def test_the_same_runs_give_the_same_report(tmp_path: Path) -> None:
    runs = {"a": made_up_run(masks=["4x"], num_scans=1), "b": made_up_run(0.1, masks=["4x"], num_scans=1)}
    assert write_report(tmp_path / "1", runs).read_bytes() == write_report(tmp_path / "2", runs).read_bytes()


def test_scores_without_any_slice_or_value_are_no_failure(tmp_path: Path) -> None:
    run = made_up_run(masks=["4x"])
    for volume in run["volumes"]:
        del volume["slices"]
        volume["ssim"] = None
    html = write_report(tmp_path, {"a": run}).read_text()
    assert 'id="slices"' not in html
    assert "8 undefined" in html


def test_what_cannot_be_compared_leaves_an_earlier_report_alone(tmp_path: Path) -> None:
    path = write_report(tmp_path, {"a": made_up_run(masks=["4x"], num_scans=1)})
    before = path.read_bytes()
    other = made_up_run()
    other["conventions"]["slices"] = "some"
    with pytest.raises(ConfigError, match="conventions differ"):
        write_report(tmp_path, {"a": made_up_run(), "b": other})
    assert path.read_bytes() == before


def test_a_caption_says_what_is_known() -> None:
    assert caption({"file": "a.png"}) == ""
    assert caption({"name": "a.h5", "slice_num": 0, "acceleration": 3.96, "ssim": 0.71239}) == (
        "a.h5, slice 0, 3.96x, SSIM 0.7124"
    )


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "missing.png", "gallery.json", "."])
def test_a_gallery_takes_only_pictures_inside_it(tmp_path: Path, name: str) -> None:
    folder = make_gallery(tmp_path / "gallery", file=name)
    shutil.copy(folder / "a.png", tmp_path / "secret.png")
    with pytest.raises(InputError, match="gallery"):
        read_gallery(folder)


@pytest.mark.parametrize("text", ["{", "{}", '[{"name": "a"}]', "[3]"])
def test_a_gallery_that_is_no_list_of_pictures_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "gallery.json").write_text(text)
    with pytest.raises(InputError, match=r"gallery\.json"):
        read_gallery(tmp_path)


def test_learning_curves_are_those_that_were_logged(tmp_path: Path) -> None:
    curves = read_curves(make_events(tmp_path))
    assert list(curves) == ["train/loss", "val/ssim", "lr"]
    assert curves["lr"][0] == [0, 1, 2]
    assert curves["lr"][1] == pytest.approx([1, 1 / 2, 1 / 3])
    assert read_curves(tmp_path / "none") == {}


@pytest.mark.parametrize(("num_volumes", "num_points"), [(1, 1), (2, 2), (31, 31), (400, 400), (401, 0)])
def test_a_distribution_shows_every_volume_or_of_very_many_their_density(num_volumes: int, num_points: int) -> None:
    values = [*np.random.default_rng(0).normal(size=num_volumes), None]
    svg = distribution({"a": [None] * len(values), "b": values}, "SSIM", "x")
    assert len(re.findall(f"<use [^>]*fill: {colour_of(1)}", svg)) == num_points
    assert (f"fill: {colour_of(1)}; fill-opacity: 0.35" in svg) == (num_points == 0)


def in_browser(tmp_path: Path, page: Path, width: int) -> dict[str, int]:
    """What a browser's window of that width measures of a page."""
    script = (
        "<script>addEventListener('load', () => { const d = document.documentElement; d.dataset.found = JSON.stringify("
        "{width: innerWidth, scroll: d.scrollWidth, images: document.images.length,"
        " loaded: [...document.images].filter(i => i.complete && i.naturalWidth > 0).length,"
        " plots: [...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width > 200).length,"
        " boxes: [...document.querySelectorAll('.scroll')].filter(b => b.scrollWidth > b.clientWidth).length});"
        " parent.postMessage(d.dataset.found, '*') })</script>"
    )
    (tmp_path / "copy.html").write_text(page.read_text().replace("</head>", f"{script}</head>"))
    # A window has a least width of about 500 pixels, a frame inside it has none.
    (tmp_path / "frame.html").write_text(
        "<script>addEventListener('message', e => { document.body.dataset.found = e.data })</script>"
        f'<body><iframe src="copy.html" style="width:{width}px;height:900px;border:0"></iframe>'
    )
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000", "--virtual-time-budget=25000",
         "--dump-dom", (tmp_path / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    body = next(attributes for tag, attributes in Page(done.stdout).elements if tag == "body")
    return json.loads(str(body["data-found"]))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: how the report looks was not measured")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_all_pictures_and_nothing_overflows(tmp_path: Path, report: Path, width: int) -> None:
    found = in_browser(tmp_path, report, width)
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["images"] == found["loaded"] == 1
    assert found["plots"] == 4 * 3 + 4 + 2 + 3
    if width == 390:
        assert found["boxes"] > 0  # wide tables scroll in their own box, or they would not fit


def test_the_page_says_which_conditions_were_left_out(tmp_path: Path) -> None:
    runs = {"plain": made_up_run(num_scans=3), "robust": made_up_run(0.1, num_scans=3, conditions=CONDITIONS)}
    page = Page(write_report(tmp_path, runs).read_text())
    assert "Not in all runs, and so left out: noise 0.5, noise 1, coil 2 missing." in page.text
    assert "Robustness" not in page.text
    whole = Page(write_report(tmp_path, {"robust": runs["robust"]}).read_text())
    assert "left out" not in whole.text
    assert "Robustness" in whole.text

"""What TensorBoard shows of a multirun: asked over HTTP, and looked at in a browser."""

import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata
from torch.utils.tensorboard import SummaryWriter

from mrirecon.training.callbacks.dashboard import CHARTS, end_session, start_session

ROOT = Path(__file__).resolve().parents[1]
RUNS = ("0_sgd/tensorboard", "1_adam/tensorboard")
TYPED = [
    "-m", "optimizer=sgd,adam", "optimizer.lr=0.01", "scheduler=onecycle", "model.chans=4", "model.num_pool_layers=2",
    "trainer=cpu", "trainer.max_epochs=3", "trainer.log_every_n_steps=2", "data.num_workers=0", "data.batch_size=2",
    "data.writer.num_train=4", "data.writer.num_val=2", "data.writer.num_test=1", "data.writer.num_slices=2",
    "data.writer.num_coils=2", "data.writer.matrix_sizes=[[64,64]]", "hydra.sweep.dir=sweep",
]  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two short runs, of SGD and Adam."""
    cwd = tmp_path_factory.mktemp("work")
    command = [sys.executable, str(ROOT / "scripts/train.py"), *TYPED]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd / "sweep"


@pytest.fixture(scope="module")
def board(sweep: Path) -> Iterator[str]:
    """The address of a TensorBoard that has read both runs."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(sweep), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        try:
            found = next((m for line in process.stderr if (m := re.search(r"http://\S+:(\d+)/", line))), None)
            assert found is not None, "TensorBoard did not start"
            threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
            url = f"http://127.0.0.1:{found[1]}/"
            _wait_until_read(url)
            yield url
        finally:
            process.terminate()


def _wait_until_read(url: str) -> None:
    """The last thing that a run writes is how it ended; every run is read in its order."""
    end = time.monotonic() + 60
    while [group["sessions"][0].get("status") for group in session_groups(url)] != ["STATUS_SUCCESS"] * 2:
        assert time.monotonic() < end, get(url, "data/runs")
        time.sleep(0.2)


def get(url: str, path: str, body: dict[str, Any] | None = None, **query: str) -> Any:
    """What TensorBoard's own pages ask for."""
    address = f"{url}{path}?{urllib.parse.urlencode(query)}" if query else f"{url}{path}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        content = answer.read()
        return json.loads(content) if "json" in answer.headers["Content-Type"] else content


def session_groups(url: str, **column: Any) -> list[dict[str, Any]]:
    body = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [{"metric": {"group": "", "tag": "final/ssim"}, "includeInResult": True, **column}],
        "startIndex": 0,
        "sliceSize": 10,
    }
    return get(url, "data/plugin/hparams/session_groups", body).get("sessionGroups", [])


def scalars(url: str, run: str, tag: str) -> list[list[float]]:
    """[time, step, value] of each point."""
    return get(url, "data/plugin/scalars/scalars", run=run, tag=tag)


def metrics(sweep: Path, run: str) -> dict[str, Any]:
    return json.loads((sweep / Path(run).parent / "metrics.json").read_text())


# --- what is there -------------------------------------------------------------------------------------------------


def test_the_runs_of_a_multirun_have_short_names(board: str) -> None:
    assert get(board, "data/runs") == list(RUNS)


def test_no_chart_of_the_layout_is_empty(board: str) -> None:
    layout = get(board, "data/plugin/custom_scalars/layout")
    shown = {
        category["title"]: {chart["title"]: chart["multiline"]["tag"] for chart in category["chart"]}
        for category in layout["category"]
    }
    assert shown == CHARTS
    for run in RUNS:
        for tag in (tag for charts in CHARTS.values() for tags in charts.values() for tag in tags):
            found = get(board, "data/plugin/custom_scalars/scalars", run=run, tag=tag)
            assert found["regex_valid"]
            assert len(found["tag_to_events"]) == 1, f"{tag} of {run}: {list(found['payload'])}"
            points = next(iter(found["tag_to_events"].values()))
            assert len(points) >= 2, tag
            assert np.isfinite([value for _, _, value in points]).all(), tag


def test_the_scores_of_zero_filled_are_a_line_through_the_whole_run(board: str, sweep: Path) -> None:
    for run in RUNS:
        for score in ("ssim", "psnr", "nmse"):
            points = scalars(board, run, f"zero_filled/{score}")
            expected = metrics(sweep, run)["zero_filled"][score]
            assert [value for _, _, value in points] == pytest.approx([expected] * 4, rel=1e-6)  # events are float32
            assert [step for _, step, _ in points] == [0, 4, 8, 12]


def test_the_update_ratio_of_plain_gradient_descent_is_that_of_the_textbook(board: str) -> None:
    """The step of SGD is the learning rate times the gradient; its norm is that of a difference of float32 weights."""
    values = {
        tag: np.array([value for _, _, value in scalars(board, RUNS[0], tag)])
        for tag in ("lr", "grad_norm", "weight_norm", "update_ratio")
    }
    assert len(values["update_ratio"]) == 6
    np.testing.assert_allclose(
        values["update_ratio"] * values["weight_norm"], values["lr"] * values["grad_norm"], rtol=1e-2
    )


def test_the_wait_for_data_is_a_share_and_memory_is_that_of_a_process_with_torch(board: str) -> None:
    for run in RUNS:
        assert all(0 < value < 1 for _, _, value in scalars(board, run, "speed/data_wait"))
        assert all(0.1 < value < 1000 for _, _, value in scalars(board, run, "speed/memory_gb"))


def test_hyperparameters_of_all_runs_are_columns_and_numbers_are_numbers(board: str) -> None:
    body = {"experimentName": "", "includeMetrics": True}
    experiment = get(board, "data/plugin/hparams/experiment", body)
    columns = {column["name"]: column for column in experiment["hparamInfos"]}
    assert {"optimizer.betas", "optimizer.dampening"} <= set(columns), "one optimizer's knobs only"
    assert [name for name in columns if columns[name].get("differs")] == ["optimizer"]
    numbers = {"optimizer.lr", "model.chans", "trainer.max_epochs", "data.batch_size", "seed"}
    assert {columns[name]["type"] for name in numbers} == {"DATA_TYPE_FLOAT64"}
    # The page shows the first five.
    assert {"final/ssim", "final/psnr", "final/nmse"} <= {info["name"]["tag"] for info in experiment["metricInfos"][:5]}


@pytest.mark.parametrize(("order", "reverse"), [("ORDER_ASC", False), ("ORDER_DESC", True)])
def test_runs_are_sorted_by_their_final_scores(board: str, sweep: Path, order: str, reverse: bool) -> None:
    groups = session_groups(board, order=order)
    found = [
        column["value"] for group in groups for column in group["metricValues"] if column["name"]["tag"] == "final/ssim"
    ]
    expected = sorted((metrics(sweep, run)["ssim"] for run in RUNS), reverse=reverse)
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_text_has_command_data_versions_and_config(board: str) -> None:
    for run in RUNS:
        about = get(board, "data/plugin/text/text", run=run, tag="about/text_summary")[0]["text"]
        words = ("scripts/train.py -m optimizer=sgd,adam", "4 volumes, 8 slices, sha256", "torch", "<li>", "data, val")
        assert all(word in about for word in words), about
        assert re.search(r"sha256 <code>[0-9a-f]{64}</code>", about)
        config = get(board, "data/plugin/text/text", run=run, tag="config/text_summary")[0]["text"]
        assert "num_pool_layers: 2" in config


def test_pictures_keep_their_window_and_are_captioned(board: str) -> None:
    tags = get(board, "data/plugin/images/tags")[RUNS[0]]
    assert len(tags) == 2
    assert all(re.fullmatch(r"val/phantom_val_\S+\.h5 slice 1, \w+, \d\.\d\dx", tag) for tag in tags)
    shown = get(board, "data/plugin/images/images", run=RUNS[0], tag=next(iter(tags)), sample="0")
    assert [image["step"] for image in shown] == [4, 8, 12]
    pictures = []
    for image in shown:
        with Image.open(io.BytesIO(get(board, f"data/plugin/images/individualImage?{image['query']}"))) as picture:
            pictures.append(np.asarray(picture.convert("L")))
    h, w = pictures[0].shape
    top_left, top_right, bottom_left = (slice(h // 2), slice(w // 2)), (slice(h // 2), slice(w // 2, w)), (
        slice(h // 2, h), slice(w // 2),
    )  # fmt: skip
    for corner in (top_left, bottom_left):  # zero-filled and target
        assert all(np.array_equal(picture[corner], pictures[0][corner]) for picture in pictures)
        assert pictures[0][corner].std() > 10
    assert not np.array_equal(pictures[0][top_right], pictures[-1][top_right]), "the reconstruction does not change"


# --- how it looks --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no chromium on this machine to look at TensorBoard with")
    with Browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


PAGES = {
    "timeseries": ["final /ssim", "update_ratio", "zero_filled 3 cards"],
    "scalars": ["tag: final/ssim", "update_ratio", "zero_filled 3"],
    "custom_scalars": [title for charts in CHARTS.values() for title in charts],
    "images": ["phantom_val_0000", "slice 1", "step 12"],
    "hparams": ["optimizer.lr", "Adam", "SGD", "final/ssim", "TABLE VIEW"],
    "text": ["sha256", "scripts/train.py -m optimizer=sgd,adam", "num_pool_layers: 2"],
}


@pytest.mark.parametrize("tab", PAGES)
def test_a_page_shows_the_runs(board: str, browser: Browser, tmp_path: Path, tab: str) -> None:
    browser.open(f"{board}#{tab}")
    browser.wait_for("1_adam", *PAGES[tab])
    end = time.monotonic() + 30
    while _is_empty(browser, tmp_path / "page.png"):  # lines and pictures are drawn after the words
        assert time.monotonic() < end, f"{tab}: the page is empty"
        time.sleep(0.3)


def _is_empty(browser: Browser, path: Path) -> bool:
    """Whether the lower right part of a page is of hardly more than one colour."""
    browser.picture(path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))[150:, 300:].reshape(-1, 3)
    return len(np.unique(pixels, axis=0)) < 20


# --- nobody else can see it ----------------------------------------------------------------------------------------


def test_tensorboard_listens_on_loopback_only(board: str) -> None:
    port = f"{urllib.parse.urlsplit(board).port:04X}"
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    listening = {row[1].partition(":")[0] for row in rows if row[1].endswith(f":{port}") and row[3] == "0A"}
    assert listening
    assert listening <= {"0100007F", "00000000000000000000000001000000"}


def test_nothing_here_tells_tensorboard_to_listen_beyond_loopback() -> None:
    folders = [ROOT / name for name in ("docs", "scripts", "conf", "mrirecon")]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in {".md", ".py", ".yaml", ".sh"}]
    files += [*ROOT.glob("*.md"), ROOT / "Makefile"]
    assert len(files) > 50
    wrong = [path for path in files if re.search(r"--bind_all|--host[= ]+(0\.0\.0\.0|::)", path.read_text())]
    assert wrong == []


# --- how a run ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("succeeded", "status"), [(True, "STATUS_SUCCESS"), (False, "STATUS_FAILURE")])
def test_a_session_has_its_knobs_in_their_types_and_how_it_ended(tmp_path: Path, succeeded: bool, status: str) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        start_session(writer, {"lr": 10.0, "epochs": 9, "amsgrad": True, "betas": "[0.9, 0.99]"})
        end_session(writer, succeeded)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    content = {tag: m.plugin_data.content for tag, m in events.summary_metadata.items()}
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    kinds = {name: value.WhichOneof("kind") for name, value in start.hparams.items()}
    assert kinds == {
        "lr": "number_value", "epochs": "number_value", "amsgrad": "bool_value", "betas": "string_value"
    }  # fmt: skip
    end = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])
    assert end.status == api_pb2.Status.Value(status)
    assert end.end_time_secs >= start.start_time_secs > 0

"""The three commands as a user types them: what they write, what they say, how they end."""

import atexit
import functools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import Volume
from fastmri import evaluate as reference
from fastmri.data import transforms
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[1]
PHANTOM = [
    "data.writer.num_train=6", "data.writer.num_val=2", "data.writer.num_test=2", "data.writer.num_slices=3",
    "data.writer.num_coils=2", "data.writer.matrix_sizes=[[64,64],[72,80]]",
]  # fmt: skip


def _end(process: subprocess.Popen[str]) -> None:
    with process:  # closes its input, at which it ends
        pass


@functools.cache
def zygote() -> subprocess.Popen[str]:
    server = Path(__file__).with_name("zygote.py")
    process = subprocess.Popen([sys.executable, str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(_end, process)
    return process


def run(cwd: Path, script: str, *overrides: str, file_size: int | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command where there is no terminal, begun in a fork: see zygote.py."""
    return run_argv(cwd, [str(ROOT / "scripts" / f"{script}.py"), *overrides], file_size)


def run_argv(cwd: Path, argv: list[str], file_size: int | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a Python file with arguments, begun in a fork."""
    server = zygote()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / name) for name in ("stdout", "stderr")}
        print(
            json.dumps({"argv": argv, "cwd": str(cwd), **files, "file_size": file_size}), file=server.stdin, flush=True
        )
        answer = server.stdout.readline()
        if not answer:  # the tests that follow get another
            zygote.cache_clear()
            pytest.fail(f"zygote.py was ended, with {server.wait()}")
        code = int(answer)
        stdout, stderr = (Path(path).read_text() for path in files.values())
    return subprocess.CompletedProcess(argv, code, stdout, stderr)


def run_fresh(cwd: Path, script: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *overrides],
        cwd=cwd, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One message, no traceback, the exit code."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert all(word in errors[0] for word in words), errors[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a phantom set and a short training run in outputs/train/run."""
    cwd = tmp_path_factory.mktemp("work")
    done = run_fresh(
        cwd, "train", "optimizer=adam", "model.chans=8", "model.num_pool_layers=3", "trainer.max_epochs=25",
        "optimizer.lr=0.003", "data.num_workers=1", "data.batch_size=2", "hydra.run.dir=outputs/train/run",
        "trainer.log_every_n_steps=3", *PHANTOM,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (cwd / "stdout").write_text(done.stdout)
    return cwd


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def best(cwd: Path) -> str:
    return f"ckpt={cwd / 'outputs/train/run/checkpoints/best.ckpt'}"


def test_training_beats_zero_filled(trained: Path) -> None:
    scores = metrics(trained / "outputs/train/run")
    assert scores["ssim"] > scores["zero_filled"]["ssim"] + 0.05
    assert scores["psnr"] > scores["zero_filled"]["psnr"] + 1
    assert scores["nmse"] < scores["zero_filled"]["nmse"]


def test_a_run_leaves_its_record(trained: Path) -> None:
    folder = trained / "outputs/train/run"
    assert {".hydra", "checkpoints", "metrics.json", "train.log", "tensorboard"} <= {p.name for p in folder.iterdir()}
    for name in ("best", "last"):
        checkpoint = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["config"]["model"]["chans"] == 8
    shown = (trained / "stdout").read_text()
    assert all(
        word in shown
        for word in ("zero-filled", "this run", "slices/s", "scripts/evaluate.py", "scripts/reconstruct.py")
    )


def test_tensorboard_has_every_scalar_the_pictures_the_config_and_the_hyperparameters(trained: Path) -> None:
    events = EventAccumulator(str(trained / "outputs/train/run/tensorboard"), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    wanted = {"train/loss", "val/loss", "val/ssim", "val/psnr", "val/nmse", "lr", "grad_norm", "slices/s", "final/ssim"}
    assert wanted <= set(tags["scalars"]), tags
    assert len(events.Scalars("val/ssim")) == 25
    assert all(np.isfinite(e.value) for name in wanted for e in events.Scalars(name))
    assert len(tags["images"]) == 2
    assert len(events.Images(tags["images"][0])) == 25
    assert any("config" in tag for tag in tags["tensors"])
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_evaluating_the_best_checkpoint_repeats_the_run_s_scores(trained: Path) -> None:
    done = run_fresh(trained, "evaluate", best(trained), "output=eval")
    assert done.returncode == 0, done.stderr
    ours, theirs = metrics(trained / "eval"), metrics(trained / "outputs/train/run")
    assert {k: ours[k] for k in ("ssim", "psnr", "nmse", "volumes")} == {
        k: theirs[k] for k in ("ssim", "psnr", "nmse", "volumes")
    }


def test_a_checkpoint_says_what_it_scored_and_how(trained: Path) -> None:
    scores = torch.load(trained / "outputs/train/run/checkpoints/best.ckpt", weights_only=True)["scores"]
    run_scores = metrics(trained / "outputs/train/run")
    assert scores["conventions"] == run_scores["conventions"]
    assert scores["ssim"] == pytest.approx(run_scores["ssim"], rel=1e-5)  # other batches: float32 sums of convolutions


def test_evaluate_shows_where_a_model_fails(trained: Path) -> None:
    """Several masks, conditions, other anatomy: a grid, in the table and in metrics.json, and pictures."""
    other = ["robustness=true", "robustness_root=data/phantom", "conditions.noise=[0.1]", "gallery=1"]
    done = run(trained, "evaluate", best(trained), "mask=[random_4x,random_8x]", *other, "output=where")
    assert done.returncode == 0, done.stderr
    found, zero_filled = metrics(trained / "where"), json.loads((trained / "where/zero_filled.json").read_text())
    conditions = ["", "noise 0.1", "coil 0 missing", "centre shifted 5", "other anatomy"]
    grid = [cell for cell in found["grid"] if cell["acquisition"] == "all"]
    assert [(cell["condition"], cell["mask"]) for cell in grid] == [
        (condition, mask) for condition in conditions for mask in ("random_4x", "random_8x")
    ]
    assert all(word in done.stdout for word in ("random_8x", "zero-filled", "best.ckpt", *conditions))
    assert (found["made_by"]["model"], zero_filled["made_by"]["model"]) == ("unet", "zero_filled")
    assert found["made_by"]["config"]["model"]["chans"] == 8
    assert found["conventions"] == zero_filled["conventions"]
    assert found["made_by"]["data_sha256"] == zero_filled["made_by"]["data_sha256"]
    alike = [(row["mask_sha256"], row["name"], row["condition"]) for row in found["volumes"]]
    assert alike == [(row["mask_sha256"], row["name"], row["condition"]) for row in zero_filled["volumes"]]
    cells = {(cell["condition"], cell["mask"]): cell["ssim"] for cell in grid}
    assert cells["", "random_4x"] == metrics(trained / "outputs/train/run")["ssim"]
    assert cells["other anatomy", "random_4x"] == cells["", "random_4x"]  # here the same files
    assert cells["noise 0.1", "random_4x"] < cells["", "random_4x"]
    gallery = json.loads((trained / "where/gallery/gallery.json").read_text())
    assert [(entry["kind"], entry["condition"]) for entry in gallery] == [
        ("worst", ""), ("median", ""), *(("worst", condition) for condition in conditions[1:])
    ]  # fmt: skip
    assert all((trained / "where/gallery" / entry["file"]).is_file() for entry in gallery)


def test_evaluate_takes_the_test_split_another_mask_and_the_baseline(trained: Path) -> None:
    assert run(trained, "evaluate", best(trained), "split=test", "output=e1").returncode == 0
    assert {v["name"][:12] for v in metrics(trained / "e1")["volumes"]} == {"phantom_test"}
    assert run(trained, "evaluate", best(trained), "mask=random_8x", "output=e2").returncode == 0
    assert "8x" in metrics(trained / "e2")["conventions"]["mask"]
    assert run(trained, "evaluate", "model=zero_filled", "output=e3", *PHANTOM).returncode == 0
    assert metrics(trained / "e3")["ssim"] == metrics(trained / "outputs/train/run")["zero_filled"]["ssim"]


def test_a_prepared_and_a_resident_set_give_the_scores_of_the_scans(trained: Path) -> None:
    done = run(trained, "prepare_data", "data.root=data/phantom", "output=store", "num_workers=0")
    assert done.returncode == 0, done.stderr
    assert "20 volumes" in done.stdout
    assert "data.prepared=store" in done.stdout
    done = run(trained, "prepare_data", "data.root=data/phantom", "output=store", "num_workers=0")
    assert "0 written, 20 were there" in done.stdout
    expected = metrics(trained / "outputs/train/run")
    for place, overrides in {"p": ["data.prepared=store"], "r": ["data.prepared=store", "data.resident=true"]}.items():
        done = run(trained, "evaluate", best(trained), *overrides, f"output={place}")
        assert done.returncode == 0, done.stderr
        found = metrics(trained / place)
        assert [found[score] for score in ("ssim", "psnr")] == pytest.approx(
            [expected[score] for score in ("ssim", "psnr")], rel=1e-4
        )
    done = run(trained, "evaluate", best(trained), "data.prepared=store", "mask=gaussian2d_4x", "output=refused")
    assert done.returncode == 2
    assert "both directions" in done.stderr


@pytest.mark.parametrize(
    ("overrides", "code", "words"),
    [
        (["output=s"], 2, "data.root"),
        (["data.root=data/phantom"], 2, "output"),
        (["data.root=data/phantom", "output=data/phantom"], 2, "is the data itself"),
        (["data.root=data/phantom", "output=s", "precision=double"], 2, "single, half"),
        (["data.root=nowhere", "output=s"], 3, "nowhere"),
    ],
)
def test_prepare_data_refuses_what_cannot_be(trained: Path, overrides: list[str], code: int, words: str) -> None:
    done = run(trained, "prepare_data", *overrides)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert words in done.stderr


def test_a_mask_from_a_file_is_named_in_the_scores(trained: Path, volume: Volume, tmp_path: Path) -> None:
    volume(tmp_path / "set/singlecoil_val/v.h5", size=(64, 64))
    np.save(tmp_path / "m.npy", np.arange(64) % 4 == 0)
    typed = ["model=zero_filled", "data=fastmri_singlecoil", f"data.root={tmp_path / 'set'}", "data.num_workers=0"]
    done = run(
        trained, "evaluate", *typed, "mask=file", f"mask.path={tmp_path / 'm.npy'}", f"output={tmp_path / 'out'}"
    )
    assert done.returncode == 0, done.stderr
    assert "16 of 64 columns" in metrics(tmp_path / "out")["conventions"]["mask"]
    assert metrics(tmp_path / "out")["volumes"][0]["acceleration"] == 4


def test_reconstructions_have_the_scores_evaluate_gives(trained: Path) -> None:
    done = run(
        trained, "reconstruct", best(trained), "input=data/phantom/multicoil_val", "output=rec", "mask=random_4x"
    )
    assert done.returncode == 0, done.stderr
    for row in metrics(trained / "outputs/train/run")["volumes"]:
        with (
            h5py.File(trained / "rec" / row["name"]) as f,
            h5py.File(trained / "data/phantom/multicoil_val" / row["name"]) as g,
        ):
            pred, target = f["reconstruction"][()], g["reconstruction_rss"][()]
        assert (pred.shape, pred.dtype) == (target.shape, np.float32)
        pred = transforms.center_crop(pred, (target.shape[-1], target.shape[-1]))
        assert float(reference.ssim(target, pred)[0]) == pytest.approx(row["ssim"], abs=1e-6)
        assert float(reference.nmse(target, pred)) == pytest.approx(row["nmse"], rel=1e-5)
        with Image.open(trained / "rec" / f"{Path(row['name']).stem}.png") as picture:
            assert min(picture.size) > 200
            assert np.asarray(picture).std() > 10
    again = run(
        trained, "reconstruct", best(trained), "input=data/phantom/multicoil_val", "output=rec", "mask=random_4x"
    )
    assert again.returncode == 0
    assert "already there" in again.stdout


def test_an_undersampled_scan_brings_its_own_mask(trained: Path) -> None:
    done = run(
        trained, "reconstruct", best(trained), "input=data/phantom/multicoil_test", "output=rec2", "mask=random_8x"
    )
    assert done.returncode == 0
    with h5py.File(next((trained / "data/phantom/multicoil_test").glob("*.h5"))) as f:
        assert f", {int(f['mask'][()].sum())} of {f['mask'].size} columns" in done.stdout


def test_one_bad_scan_does_not_stop_the_others(trained: Path) -> None:
    folder = trained / "some bad"
    folder.mkdir()
    good = sorted((trained / "data/phantom/multicoil_val").glob("*.h5"))[0]
    shutil.copy(good, folder / "good.h5")
    (folder / "bad.h5").write_bytes(good.read_bytes()[:5000])
    done = run(trained, "reconstruct", best(trained), f"input={folder}", "output=rec3")
    assert done.returncode == 4
    assert "bad.h5" in done.stderr
    assert [p.name for p in (trained / "rec3").glob("*.h5")] == ["good.h5"]


def test_training_continues_from_a_checkpoint_with_its_settings(trained: Path) -> None:
    last = f"ckpt={trained / 'outputs/train/run/checkpoints/last.ckpt'}"
    typed = ["model=unet", "model.chans=8", "model.num_pool_layers=3", "optimizer.lr=0.003", "scheduler=constant"]
    data = ["data.num_workers=0", "data.batch_size=2", *PHANTOM]
    first = run(trained, "train", *typed, *data, "trainer.max_epochs=2", "hydra.run.dir=outputs/train/first")
    assert first.returncode == 0, first.stderr
    half = f"ckpt={trained / 'outputs/train/first/checkpoints/last.ckpt'}"
    done = run(trained, "train", half, "trainer.max_epochs=3", "hydra.run.dir=outputs/train/more")
    assert done.returncode == 0, done.stderr
    assert "epoch 3/3" in done.stdout
    assert "epoch 2/3" not in done.stdout
    assert_refused(run(trained, "train", last, "optimizer.lr=0.01"), 2, "optimizer.lr=0.003", "optimizer.lr=0.01")
    assert_refused(run(trained, "train", last), 2, "trainer.max_epochs=25", "25 epochs already")


def test_data_is_checked_with_a_verdict_per_file_and_a_summary(tmp_path: Path, volume: Volume) -> None:
    root = tmp_path / "a set"
    for number in range(3):
        volume(root / "singlecoil_train" / f"t{number}.h5", seed=number)
    typed = [f"data.root={root}", "full=true", "output=out"]
    done = run(tmp_path, "check_data", *typed)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("singlecoil_train", "40x36 (3)", "TEST (3)", "index.json"))
    assert set(json.loads((root / "index.json").read_text())) == {"format", "version", "files"}
    (root / "singlecoil_train" / "t0.h5").write_bytes(b"bad")
    with h5py.File(root / "singlecoil_train" / "t1.h5", "a") as f:
        f["kspace"][1, 2, 3] = np.nan
    (root / "index.json").unlink()
    root.chmod(0o555)
    done = run(tmp_path, "check_data", *typed)
    assert done.returncode == 3
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "t0.h5: expected an HDF5 file" in errors[0]
    assert "t1.h5: slice 1 of `kspace`" in errors[1]
    assert (tmp_path / "out" / "index.json").exists()
    assert_refused(run(tmp_path, "check_data", "data.root=nowhere"), 3, "nowhere")
    assert_refused(run(tmp_path, "check_data", f"data.root={root}", "data.challenge=both"), 2, "data.challenge=both")


def test_a_continued_run_keeps_its_best_checkpoint_until_it_is_beaten(trained: Path) -> None:
    typed = [
        "model.chans=8",
        "model.num_pool_layers=3",
        "optimizer.lr=0.003",
        "scheduler=constant",
        "data.num_workers=0",
    ]
    assert run(trained, "train", *typed, *PHANTOM, "trainer.max_epochs=8", "hydra.run.dir=outputs/a").returncode == 0
    # An epoch at a learning rate of nearly nothing, of weights that were made worse, beats nothing.
    last = trained / "outputs/a/checkpoints/last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    for name, value in checkpoint["state_dict"].items():
        if value.is_floating_point():
            checkpoint["state_dict"][name] = value * 0.5
    torch.save(checkpoint, last)
    done = run(trained, "train", f"ckpt={last}", "trainer.max_epochs=9", "hydra.run.dir=outputs/b")
    assert done.returncode == 0, done.stderr
    first, second = metrics(trained / "outputs/a"), metrics(trained / "outputs/b")
    assert second["ssim"] == first["ssim"]
    assert second["made_by"]["sha256"] == first["made_by"]["sha256"]


def test_two_ranks_train_and_score_as_one(trained: Path) -> None:
    """Two processes on the CPU: batches that do not divide, pictures wherever they were dealt, the same scores."""
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    small = ["model.chans=4", "model.num_pool_layers=2", "trainer.max_epochs=1", "data.num_workers=0", *PHANTOM]
    done = run_fresh(trained, "train", *ddp, *small, "hydra.run.dir=outputs/ddp")
    assert done.returncode == 0, done.stderr
    ckpt = f"ckpt={trained / 'outputs/ddp/checkpoints/best.ckpt'}"
    assert run(trained, "evaluate", ckpt, "output=one").returncode == 0
    one, two = metrics(trained / "one"), metrics(trained / "outputs/ddp")
    assert [v["name"] for v in one["volumes"]] == [v["name"] for v in two["volumes"]]
    for score in ("ssim", "psnr", "nmse"):
        assert one[score] == pytest.approx(two[score], rel=1e-6)  # other batches: float32 sums of convolutions
    events = EventAccumulator(str(trained / "outputs/ddp/tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert len(events.Tags()["images"]) == 2


def test_an_undersampled_scan_without_a_mask_is_seen(trained: Path, tmp_path: Path, volume: Volume) -> None:
    path = volume(tmp_path / "scan.h5", size=(64, 64))
    with h5py.File(path, "a") as f:
        f["kspace"][..., ::3] = 0
    done = run(trained, "reconstruct", "model=zero_filled", f"input={path}", f"output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "22 of its 64 columns are zero" in done.stderr
    assert "42 of 64 columns" in done.stdout


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "typed", "code", "words"),
    [
        ("train", ["optimizer=adm"], 2, ["optimizer=adm", "did you mean adam"]),
        ("train", ["model.chanz=3"], 2, ["model.chanz", "model.chans"]),
        ("train", ["trainer.max_epochs=ten"], 2, ["trainer.max_epochs", "a whole number"]),
        ("train", ["data=fastmri_singlecoil"], 2, ["data.root"]),
        ("train", ["model=zero_filled", *PHANTOM], 2, ["nothing to train"]),
        ("train", ["model.norm=grup"], 2, ["model", "instance"]),
        ("train", ["model._target_=os.system"], 2, ["os.system", "refused"]),
        ("train", ["data=fastmri_singlecoil", "data.root=nowhere"], 3, ["nowhere"]),
        ("train", ["trainer=gpu", *PHANTOM], 2, ["trainer"]),
        ("train", ["mask=null", *PHANTOM], 2, ["mask=random_4x"]),
        ("train", ["model=null"], 2, ["model"]),
        ("train", ["seed=-1"], 2, ["seed"]),
        ("train", ["optimizer.lr=-1"], 2, ["optimizer"]),
        ("train", ["optimizer.betas=[a,b]"], 2, ["optimizer"]),
        ("train", ["+optimizer.foo=1"], 2, ["optimizer", "foo"]),
        ("train", ["scheduler.anneal_strategy=foo"], 2, ["scheduler"]),
        ("train", ["trainer.precision=64-true"], 2, ["trainer.precision", "bf16-mixed"]),
        ("train", ["mask.accelerations=[a]", *PHANTOM], 2, ["mask"]),
        ("train", ["data=fastmri_singlecoil", "data.root=~/x"], 2, ["quote"]),
        ("train", ["hydra.run.dir=/proc/x"], 2, ["hydra.run.dir"]),
        ("train", ["split=test", "data=fastmri_singlecoil", "data.root=NOTEST"], 3, ["singlecoil_test"]),
        ("evaluate", ["model=zero_filled", "output=/proc/x"], 2, ["output"]),
        ("evaluate", ["ckpt=BEST", "model=zero_filled"], 2, ["no weights"]),
        ("evaluate", ["model=null"], 2, ["ckpt"]),
        ("evaluate", ["model=unet"], 2, ["ckpt", "trained first"]),
        ("reconstruct", ["model=zero_filled", "input=x", "batch_size=0"], 2, ["batch_size"]),
        ("evaluate", ["model=zero_filled", "mask=[random_4x,random_9x]"], 2, ["random_9x", "did you mean random_8x"]),
        ("evaluate", ["model=zero_filled", "mask=[random_4x]", "mask.accelerations=[3]"], 2, ["mask.accelerations"]),
        ("evaluate", ["model=zero_filled", "scores=[sim]", "gallery=0"], 2, ["scores", "ms_ssim"]),
        ("evaluate", ["model=zero_filled", "scores=[psnr]"], 2, ["gallery=4", "gallery=0"]),
        (
            "evaluate",
            ["model=zero_filled", "robustness=true", "conditions.noise=[x]", *PHANTOM],
            2,
            ["conditions.noise"],
        ),
        ("evaluate", ["model=zero_filled", "robustness_root=nowhere", *PHANTOM], 3, ["nowhere"]),
        ("train", ["mask=[random_4x,random_8x]"], 2, ["train takes no list"]),
        ("evaluate", ["ckpt=no.ckpt"], 2, ["no.ckpt"]),
        ("evaluate", [], 2, ["ckpt"]),
        ("reconstruct", ["input=x"], 2, ["ckpt"]),
        ("reconstruct", ["model=zero_filled"], 2, ["input"]),
        ("reconstruct", ["model=zero_filled", "input=x"], 3, ["input=x"]),
    ],
)
def test_a_mistake_is_one_message_and_an_exit_code(
    trained: Path, folder: Path, script: str, typed: list[str], code: int, words: list[str]
) -> None:
    typed = [best(trained) if text == "ckpt=BEST" else text.replace("NOTEST", str(folder)) for text in typed]
    if typed[:1] == ["trainer=gpu"] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert_refused(run(trained, script, *typed), code, *words)


def test_a_bad_value_found_by_a_worker_is_one_message_too(trained: Path, tmp_path: Path, volume: Volume) -> None:
    for split in ("train", "val"):
        volume(tmp_path / f"singlecoil_{split}" / f"{split}.h5")
    with h5py.File(tmp_path / "singlecoil_train" / "train.h5", "a") as f:
        f["kspace"][1, 2, 3] = np.nan
    typed = [
        "data=fastmri_singlecoil",
        f"data.root={tmp_path}",
        "data.check=headers",
        "model.num_pool_layers=2",
        "model.chans=4",
    ]
    assert_refused(run(trained, "train", *typed), 3, "train.h5", "slice 1")


def test_a_diverging_run_stops_and_leaves_finite_weights(trained: Path) -> None:
    typed = ["optimizer=sgd", "optimizer.lr=1e6", "model.norm=none", "model.chans=4", "scheduler=constant"]
    rest = ["trainer.max_epochs=3", "data.num_workers=0", "hydra.run.dir=outputs/train/wild"]
    done = run(trained, "train", *typed, *rest, *PHANTOM)
    assert_refused(done, 1, "diverged", "optimizer.lr", ".h5 slice")
    for path in (trained / "outputs/train/wild").rglob("*.ckpt"):
        weights = torch.load(path, weights_only=True)["state_dict"].values()
        assert all(torch.isfinite(value).all() for value in weights)


def test_ctrl_c_ends_with_its_code_and_no_traceback(trained: Path) -> None:
    typed = ["model.chans=4", "trainer.max_epochs=500", "data.num_workers=1", "hydra.run.dir=outputs/train/stopped"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/train.py"), *typed, *PHANTOM],
        cwd=trained, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background ignores it
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.readline()  # the second epoch was validated, so the first one is kept
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert (trained / "outputs/train/stopped/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize("damage", ["truncated", "other", "nan", "pickle"])
def test_a_damaged_checkpoint_is_refused(trained: Path, tmp_path: Path, damage: str) -> None:
    source = trained / "outputs/train/run/checkpoints/best.ckpt"
    path, typed = tmp_path / "c.ckpt", []
    checkpoint = torch.load(source, weights_only=True)
    if damage == "truncated":
        path.write_bytes(source.read_bytes()[:-2000])
    elif damage == "nan":
        next(iter(checkpoint["state_dict"].values()))[0] = float("nan")
        torch.save(checkpoint, path)
    elif damage == "pickle":
        torch.save({**checkpoint, "config": subprocess.Popen}, path)
    else:
        shutil.copy(source, path)
        typed = ["model.chans=16"]
    assert_refused(run(trained, "evaluate", f"ckpt={path}", *typed), 3, "c.ckpt")

"""The search: its words and space, trials that processes share, go on and come back, and what a user types."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf
from optuna.trial import FixedTrial, Trial, TrialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_commands import ROOT, assert_refused, metrics, run

from mrirecon.apps.tuning import run as search_run
from mrirecon.apps.tuning.experiment import Experiment, experiment_yaml
from mrirecon.apps.tuning.grammar import parse_dimension, spell_space
from mrirecon.apps.tuning.report import importances
from mrirecon.apps.tuning.space import Compose, brings_schedule, open_space
from mrirecon.apps.tuning.storage import REASON, Search, first_difference, is_result, make_pruner
from mrirecon.apps.tuning.trial import check_trial, slim
from mrirecon.config.grammar import number_text, split_commas, typed_value
from mrirecon.config.options import CONF, take_config_dir
from mrirecon.errors import ConfigError, InputError

SMALL = [
    "data=fastmri_singlecoil", "data.num_workers=0", "model.chans=2", "model.num_pool_layers=1", "trainer=cpu",
    "trainer.max_epochs=2",
]  # fmt: skip


def test_dimensions_become_a_list_and_what_hydra_knows_stays() -> None:
    typed = ["optimizer.lr=log(1e-4,1)", "seed=1", "a=choice('x,y',2)", "-m", "x=[log(1)]", "y=int(3)"]
    assert spell_space(typed) == [
        "seed=1", "-m", "x=[log(1)]", "y=int(3)", "space=['optimizer.lr=log(1e-4,1)','a=choice(\\'x,y\\',2)']"
    ]  # fmt: skip
    assert spell_space(["seed=1"]) == ["seed=1"]


def test_words_are_read() -> None:
    lr = parse_dimension("optimizer.lr=log(1e-4, 1e-1)")
    assert lr.number_range is not None
    assert (str(lr), lr.edges()) == ("optimizer.lr=log(1e-4,1e-1)", ("0.0001", "0.1"))
    chans = parse_dimension("model.chans=range(8,32,8)").number_range
    assert chans is not None
    assert chans.is_whole
    assert [number for number in range(0, 41) if chans.contains(number)] == [8, 16, 24, 32]
    decay = parse_dimension("wd=choice(0,log(1e-6,1e-2))")
    assert decay.options == ("0", "log(1e-6,1e-2)")
    assert decay.edges() == ("0", "1e-06", "0.01")
    assert parse_dimension("betas=choice([0.9,0.99],[0.5,0.9])").options == ("[0.9,0.99]", "[0.5,0.9]")
    assert split_commas("a,'b,c',f(1,2)") == ["a", "'b,c'", "f(1,2)"]
    typed = ("1e-3", "true", "[1,2]", "adam", "null")
    assert [typed_value("x", text) for text in typed] == [0.001, True, [1, 2], "adam", None]
    assert [number_text(number) for number in (3, 0.123456, 1e-5)] == ["3", "0.1235", "1e-05"]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("lr=normal(0,1)", "expected KEY="),
        ("lr=0.1", "expected KEY="),
        ("lr=log(1e-4)", "expected log"),
        ("lr=log(1e-4,1,6)", "expected log"),
        ("lr=log(0,1)", "above 0"),
        ("lr=log(1,0.1)", "low < high"),
        ("lr=range(0,inf)", "finite"),
        ("lr=range(0,x)", "no number"),
        ("lr=range(0,1,0.3)", "step"),
        ("a=choice(x)", "two or more"),
        ("a=choice(x,x)", "different"),
        ("a=choice(x,)", "two or more"),
        ("a=choice(log(1,2),log(3,4))", "at most one"),
        ("a=choice(1,choice(2,3))", "expected log"),
    ],
)
def test_words_that_make_no_sense_are_refused(typed: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_dimension(typed)


@pytest.fixture
def compose() -> Iterator[Compose]:
    """train.py's config, as the command composes and checks it."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield search_run._compose


@pytest.fixture
def quick() -> Iterator[Compose]:
    """The same without a look at the types, for what is known to be sound."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield search_run._composed


def test_a_point_of_the_space_is_what_one_would_type(quick: Compose) -> None:
    texts = ["optimizer.lr=log(1e-4,1)", "optimizer.weight_decay=choice(0,log(1e-6,1e-2))", "model.chans=range(4,32)"]
    space = open_space(texts, True, ["optimizer=adamw"], quick)
    assert space.default == {
        "optimizer.lr": 0.001, "optimizer.weight_decay": "log(1e-6,1e-2)",
        "optimizer.weight_decay in log(1e-6,1e-2)": 0.01, "model.chans": 16,
    }  # fmt: skip
    trial = FixedTrial({"optimizer.lr": 0.0123456, "optimizer.weight_decay": "0", "model.chans": 5})
    assert space.draw(trial) == ["optimizer.lr=0.01235", "optimizer.weight_decay=0", "model.chans=5"]
    assert open_space(["optimizer.lr=log(1e-2,1)"], True, [], quick).default is None  # Adam's is 0.001


def test_a_schedule_is_drawn_for_optimizers_that_do_not_bring_one(quick: Compose) -> None:
    assert brings_schedule("schedulefree_adamw")
    assert not brings_schedule("adam")
    texts = ["scheduler=choice(constant,cosine)", "optimizer=choice(adam,schedulefree_adamw)"]
    space = open_space(texts, True, [], quick)
    assert space.draw(FixedTrial({"optimizer": "adam", "scheduler": "cosine"})) == [
        "optimizer=adam",
        "scheduler=cosine",
    ]
    assert space.draw(FixedTrial({"optimizer": "schedulefree_adamw"})) == ["optimizer=schedulefree_adamw"]


def test_an_optimizer_of_one_s_own_may_bring_a_schedule(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer/plain.yaml").write_text((CONF / "optimizer/adam.yaml").read_text())
    (tmp_path / "optimizer/free.yaml").write_text((CONF / "optimizer/schedulefree_adamw.yaml").read_text())
    take_config_dir([f"--config-dir={tmp_path}"])
    try:
        assert (brings_schedule("free"), brings_schedule("plain")) == (True, False)
    finally:
        take_config_dir([])


def test_what_means_nothing_is_left_out_of_the_space_that_nobody_typed(quick: Compose) -> None:
    texts = [
        "optimizer.lr=log(1e-4,1)",
        "optimizer.weight_decay=choice(0,log(1e-6,1e-2))",
        "scheduler=choice(step,cosine)",
    ]
    assert [d.key for d in open_space(texts, False, ["optimizer=lbfgs"], quick).dimensions] == ["optimizer.lr"]
    left = open_space(texts, False, ["optimizer.lr=0.1", "scheduler=cosine"], quick)
    assert [d.key for d in left.dimensions] == ["optimizer.weight_decay"]
    with pytest.raises(ConfigError, match="nothing is left"):
        open_space(texts[:1], False, ["optimizer.lr=0.1"], quick)


@pytest.mark.parametrize(
    ("typed", "fixed", "words"),
    [
        (["optimizer.lrr=log(1,2)"], [], "did you mean optimizer.lr"),
        (["optimizer.lr=log(1,2)"], ["optimizer.lr=1"], "set as well"),
        (["optimizer.lr=log(1,2)", "optimizer.lr=log(2,3)"], [], "searched twice"),
        (["scheduler=choice(cosine,constan)"], [], "did you mean constant"),
        (["scheduler=log(1,2)"], [], "expected choice"),
        (["scheduler=choice(cosine,step)"], ["optimizer=schedulefree_sgd"], "brings its own schedule"),
        (["mask=choice(random_4x,random_8x)"], [], "same in all trials"),
        (["seed=range(0,9)"], [], "same in all trials"),
        (["trainer.max_epochs=range(1,9)"], [], "same in all trials"),
        (["data.root=choice(a,b)"], [], "same in all trials"),
        (["model.chans=log(2,8.5)"], [], "whole numbers"),
        (["model.norm=choice(none,group)", "model=choice(unet,zero_filled)"], [], "model.norm"),
        (["model.drop_prob=choice(0.1,true)"], [], "expected a number"),
        (["optimizer=range(1,2)"], [], "expected choice"),
        (["optimizer=choice(lbfg,gd)"], [], "did you mean lbfgs"),
        (["scheduler=choice(step,cosine)", "optimizer=choice(lbfgs,gd)"], [], "lbfgs, gd brings its own schedule"),
        (["model=choice(unet,zero)", "scheduler.final_factor=range(0,1)"], [], "no such"),
    ],
)
def test_a_dimension_that_cannot_be_searched_is_refused(
    compose: Compose, typed: list[str], fixed: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        open_space(typed, True, fixed, compose)


def make_search(folder: Path, pruner: str = "none", identity: Any = None, seed: int = 0, heartbeat: int = 20) -> Search:
    made = make_pruner(pruner, 2, 1)
    return Search(folder, "maximize", identity or {"space": ["x"]}, {"x": 0.5}, made, 3, seed, heartbeat)


def parabola(trial: Trial) -> float:
    return -((trial.suggest_float("x", 0, 1) - 0.7) ** 2)


def drawn(search: Search) -> list[float]:
    return [trial.params["x"] for trial in search.trials()]


def finish(search: Search, objective: Callable[[Trial], float], num_trials: int) -> Search:
    while search.run_one(objective, num_trials) is not None:
        pass
    return search


def test_the_search_finds_the_peak_begins_with_the_default_and_goes_on_as_if_never_ended(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("whole", "parts", "other")]
    for folder in folders:
        folder.mkdir()
    whole = finish(make_search(folders[0]), parabola, 9)
    assert drawn(whole)[0] == 0.5
    best = whole.best()
    assert best is not None
    assert abs(best.params["x"] - 0.7) < 0.1  # a tenth of the range: a search that learned nothing needs more luck
    finish(make_search(folders[1]), parabola, 5)
    assert drawn(finish(make_search(folders[1]), parabola, 9)) == drawn(whole)
    assert drawn(finish(make_search(folders[2], seed=1), parabola, 2))[1] != drawn(whole)[1]


def test_a_search_of_other_settings_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    make_search(tmp_path, identity={"data": {"val": "a"}, "space": ["x"]})
    with pytest.raises(ConfigError, match="data val was a, now it is b"):
        make_search(tmp_path, identity={"data": {"val": "b"}, "space": ["x"]})
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == "b was None, now it is 2"
    other = tmp_path / "other"
    other.mkdir()
    (other / "trials.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match=r"trials\.db"):
        make_search(other)


def test_an_interrupted_trial_is_tried_again_and_a_failed_one_is_not(tmp_path: Path) -> None:
    search = make_search(tmp_path)

    for error in (KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            search.run_one(lambda trial, error=error: _raise(trial, error), 3)  # type: ignore[misc]
    assert search.num_begun() == 0
    again = search.run_one(parabola, 3)
    assert again is not None
    assert again.params == {"x": 0.5}
    assert [trial.state for trial in search.trials()] == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]

    def refused(trial: Trial) -> float:
        trial.set_user_attr(REASON, "cannot be")
        raise ConfigError("cannot be")

    with pytest.raises(ConfigError):
        search.run_one(refused, 3)
    assert search.num_begun() == 2
    assert sum(map(is_result, search.trials())) == 2
    assert all(trial.state != TrialState.WAITING for trial in search.trials())


def _raise(trial: Trial, error: type[BaseException]) -> float:
    trial.suggest_float("x", 0, 1)
    raise error


PROCESS = """
import sys, time
from pathlib import Path
from test_tuning_process import search, objective
made = search(Path(sys.argv[1]))
while made.run_one(objective(float(sys.argv[2])), int(sys.argv[3])) is not None:
    pass
print("ended")
"""
HELPER = """
import time
from mrirecon.apps.tuning.storage import Search, make_pruner
def search(folder):
    return Search(folder, "maximize", {"space": ["x"]}, {"x": 0.5}, make_pruner("none", 2, 1), 3, 0, 1)
def objective(seconds):
    def parabola(trial):
        x = trial.suggest_float("x", 0, 1)
        print("drawn", x, flush=True)
        time.sleep(seconds)
        return -(x - 0.7) ** 2
    return parabola
"""


def process(folder: Path, seconds: float, num_trials: int) -> subprocess.Popen[str]:
    (folder / "test_tuning_process.py").write_text(HELPER)
    paths = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(folder), str(seconds), str(num_trials)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


def test_two_processes_begun_at_once_share_the_trials(tmp_path: Path) -> None:
    processes = [process(tmp_path, 0.05, 8) for _ in range(2)]
    told = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    search = make_search(tmp_path)
    assert [trial.state for trial in search.trials()] == [TrialState.COMPLETE] * 8
    assert len(set(drawn(search))) == 8  # two processes with one seed would draw the same
    assert sum(text.count("drawn") for text in told) == 8


def test_the_trial_of_a_killed_process_is_tried_again_with_what_it_had_drawn(tmp_path: Path) -> None:
    killed = process(tmp_path, 60, 2)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "drawn 0.5\n"
    time.sleep(0.5)  # the first sign of life is given as the trial begins
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    search = make_search(tmp_path, heartbeat=1)
    assert search.num_begun() == 1
    deadline = time.monotonic() + 30
    while search.num_running() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert search.num_begun() == 0
    finish(search, parabola, 2)
    assert [t.state for t in search.trials()] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert drawn(search)[1] == 0.5


def slow_or_good(trial: Trial) -> float:
    import optuna

    good = trial.number < 3
    for epoch in range(1, 6):
        trial.report(epoch * (1.0 if good else 0.01), epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return float(trial.suggest_float("x", 0, 1))


@pytest.mark.parametrize(("name", "steps"), [("median", 2), ("none", 5)])
def test_a_pruner_ends_trials_after_their_warm_up(tmp_path: Path, name: str, steps: int) -> None:
    search = finish(make_search(tmp_path, pruner=name), slow_or_good, 4)
    last = search.trials()[3]
    assert len(last.intermediate_values) == steps
    assert (last.state == TrialState.PRUNED) == (name == "median")


def test_a_pruner_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="median, hyperband, none"):
        make_pruner("mean", 1, 1)
    with pytest.raises(ConfigError, match="num_warmup=-1"):
        make_pruner("median", 1, -1)


def test_what_matters_is_told_of_enough_trials(tmp_path: Path) -> None:
    def objective(trial: Trial) -> float:
        branch = trial.suggest_categorical("b", ["u", "v"])
        noise = trial.suggest_float("noise", 0, 1) if branch == "u" else 0.0
        return parabola(trial) + 1e-9 * noise

    search = finish(make_search(tmp_path), objective, 9)
    assert importances(search) == {}
    shares = importances(finish(search, objective, 14))
    assert set(shares) == {"x", "b", "noise"}
    assert max(shares, key=lambda name: shares[name]) == "x"


def test_an_experiment_says_what_was_typed_and_found(compose: Compose) -> None:
    overrides = ["experiment=fastmri_unet_knee_singlecoil", "data.root=D", "~mask", "optimizer=prodigy",
                 "optimizer.betas=[0.5,0.9]", "+callbacks.images.extra=1"]  # fmt: skip
    text = experiment_yaml(overrides, compose(overrides).cfg)
    assert text.splitlines() == [
        "defaults:", "- fastmri_unet_knee_singlecoil", "- _self_", "- override /mask: null",
        "- override /optimizer: prodigy", "data:", "  root: D", "optimizer:", "  betas:", "  - 0.5", "  - 0.9",
        "callbacks:", "  images:", "    extra: 1",
    ]  # fmt: skip


def test_a_file_of_someone_else_is_not_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text("seed: 3\n")
    with pytest.raises(ConfigError, match="not of this search"):
        Experiment(str(folder), "mine").claim("abc")
    with pytest.raises(ConfigError, match="called experiment"):
        Experiment(str(tmp_path), "best")
    with pytest.raises(ConfigError, match="letters"):
        Experiment(str(folder), "../best")


def typed(folder: Path, cwd: Path, *more: str) -> list[str]:
    return [*SMALL, f"data.root={folder}", f"output={cwd / 'search'}", f"experiment_dir={cwd / 'experiment'}", *more]


def test_a_search_with_an_infinite_setting_can_be_written_down(folder: Path, tmp_path: Path) -> None:
    space = ["optimizer=prodigy", "optimizer.weight_decay=choice(0,0.01)"]  # Prodigy's growth rate has no bound
    done = run(tmp_path, "tune", *typed(folder, tmp_path, *space, "num_trials=1"))
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "search" / "tune.json").read_text())["config"]
    assert config["optimizer.growth_rate"] == "inf"


def test_a_search_goes_on_keeps_diverged_trials_and_its_best_trains_to_the_same_score(
    folder: Path, tmp_path: Path
) -> None:
    space = ["optimizer=sgd", "optimizer.lr=choice(0.1,1e30)", "scheduler=choice(constant,onecycle)", "sampler_seed=1"]
    first = run(tmp_path, "tune", *typed(folder, tmp_path, *space, "num_trials=1"))
    assert first.returncode == 0, first.stderr
    assert "trial 0 (1/1)" in first.stdout
    done = run(tmp_path, "tune", *typed(folder, tmp_path, *space, "num_trials=3"))
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines() if "  best " in line] == [
        "trial 1 (2/3)", "trial 2 (3/3)"
    ]  # fmt: skip
    found = json.loads((tmp_path / "search" / "tune.json").read_text())
    trials = found["trials"]
    assert trials[0]["overrides"] == ["optimizer.lr=0.1", "scheduler=onecycle"]  # the default of optimizer=sgd
    diverged = [trial for trial in trials if "optimizer.lr=1e30" in trial["overrides"]]
    assert 0 < len(diverged) < 3
    assert all(t["state"] == "pruned" and t["reason"].startswith("diverged: ") for t in diverged)
    assert "val/ssim diverged" in done.stdout

    best = trials[found["best"]]
    assert best["scores"]["ssim"] == max(trial["scores"]["ssim"] for trial in trials if trial["scores"])
    events = EventAccumulator(str(tmp_path / "search" / "trials" / "0" / "tensorboard")).Reload()
    assert {"val/ssim", "final/ssim"} <= set(events.Tags()["scalars"])
    assert not list((tmp_path / "search").rglob("*.ckpt"))

    trained = run(tmp_path, "train", "--config-dir", str(tmp_path), "experiment=tuned", "hydra.run.dir=run")
    assert trained.returncode == 0, trained.stderr
    # Slice by slice in evaluation, in batches in training: kernels, and so the last bits, may differ.
    assert metrics(tmp_path / "run")["ssim"] == pytest.approx(best["scores"]["ssim"], abs=1e-5)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["optimizer.lr=log(1e-4,1e-1,6)"], ["optimizer.lr", "range(low,high)"]),
    ],
)
def test_what_a_search_cannot_do_is_refused(
    folder: Path, tmp_path: Path, more: Sequence[str], words: list[str]
) -> None:
    assert_refused(run(tmp_path, "tune", *typed(folder, tmp_path, *more)), 2, *words)
    assert not (tmp_path / "search" / "trials.db").exists()


def test_a_search_is_known_by_its_settings_its_space_and_its_data(quick: Compose) -> None:
    def identity(space: list[str], *overrides: str, data: str = "a") -> dict[str, Any]:
        cfg = slim(quick(overrides).cfg, ["best", "last"], ".")
        opened = open_space(space, True, overrides, quick)
        return search_run._identity(OmegaConf.create({"metric": "ssim"}), cfg, opened, {"val": data})

    lr, wider = ["optimizer.lr=log(1e-4,1e-1)"], ["optimizer.lr=log(1e-4,1)"]
    first = identity(lr, "logger=tensorboard", "data.num_workers=1")
    assert first_difference(first, identity(lr, "data.root=elsewhere", "data.num_workers=3")) == ""
    assert first_difference(first, identity(lr, "loss=mse")).startswith("config loss._target_ was")
    assert (
        first_difference(first, identity(lr, "trainer.max_epochs=9")) == "config trainer.max_epochs was 5, now it is 9"
    )
    assert first_difference(first, identity(wider)).startswith("space was ['optimizer.lr=log(1e-4,1e-1)']")
    assert first_difference(first, identity(lr, data="b")) == "data val was a, now it is b"


def test_what_is_train_py_s_is_told_apart_from_what_is_the_search_s() -> None:
    assert search_run._typed(["optimizer=adam", "num_trials=3", "~mask", "space=['a=choice(1,2)']"]) == (
        ["optimizer=adam", "~mask"], True
    )  # fmt: skip
    with pytest.raises(ConfigError, match="twice"):
        search_run._typed(["space=['a=choice(1,2)']", "space=['b=choice(1,2)']"])


@pytest.mark.parametrize(
    ("metric", "overrides", "words"),
    [
        ("mse", [], "metric=mse"),
        ("ssim", ["trainer.devices=2"], "trainer.devices=2"),
        ("ssim", ["trainer=ddp"], "trainer.devices=auto"),
        ("ssim", ["trainer.devices=[0,1]"], "trainer.devices"),
        ("ssim", ["ckpt=a.ckpt"], "ckpt=a.ckpt"),
    ],
)
def test_what_no_trial_can_have_is_refused(compose: Compose, metric: str, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_trial(compose(overrides).cfg, metric)
    check_trial(compose(["trainer.devices=[0]"]).cfg, "nmse")


def test_a_trial_is_a_training_run_without_some_callbacks(quick: Compose) -> None:
    cfg = quick(["callbacks/averaging=ema"]).cfg
    trial = slim(cfg, ["best", "last", "images", "progress"], "here")
    assert [*trial.callbacks] == ["dashboard", "zero_filled", "update_ratio", "throughput", "averaging"]
    assert not trial.trainer.enable_checkpointing
    assert not trial.trainer.enable_progress_bar
    assert slim(cfg, ["images"], "here").trainer.enable_checkpointing
    assert {key: trial[key] for key in trial if key not in ("callbacks", "trainer", "run_dir", "logger")} == {
        key: cfg[key] for key in trial if key not in ("callbacks", "trainer", "run_dir", "logger")
    }
    with pytest.raises(ConfigError, match="bestt"):
        slim(cfg, ["bestt"], "here")

"""Studies: what is planned, what is run again, what is said about it, and how the page looks."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from test_commands import run
from test_configs import compose
from test_report import CHROMIUM, Page, in_browser

from mrirecon.apps.study import progress
from mrirecon.apps.study.findings import FINDERS, findings
from mrirecon.apps.study.intervals import setting_difference, setting_interval
from mrirecon.apps.study.page import write_page
from mrirecon.apps.study.parse import presets, read_study
from mrirecon.apps.study.plan import Cell, Part, Study, grids, more_seeds
from mrirecon.apps.study.results import PartResults, Run, best_settings, read_part, to_reach
from mrirecon.errors import ConfigError, InputError
from mrirecon.system.atomic import alone_in, output_folder

SMALL = [
    "data=phantom_small", "data.writer.num_train=2", "data.writer.num_val=2", "data.writer.num_test=0",
    "data.writer.num_slices=2", "data.writer.matrix_sizes=[[32,32]]", "model.chans=4", "model.num_pool_layers=2",
    "data.batch_size=2",
]  # fmt: skip


def cells_of(*typed: str, default_lr: Mapping[str, float] | None = None) -> list[Cell]:
    (part,) = read_study(typed).parts
    return [cell for grid in grids(part, default_lr or {}) for cell in grid.cells()]


# --- what is planned ---


def test_lists_are_varied_and_the_rest_is_the_same_everywhere() -> None:
    study = read_study(["optimizer=[sgd,adam]", "lr=log(1e-4,1e-2,3)", "seeds=2", "budget=7", "model.chans=8"])
    (part,) = study.parts
    assert part.axes == {"optimizer": ["sgd", "adam"], "lr": [0.0001, 0.001, 0.01]}
    assert (part.settings, part.seeds, part.lr_seeds, part.budget) == (("model.chans=8",), 2, 2, 7)
    assert study.output == Path("outputs/study/custom")


def test_every_combination_is_a_cell_and_seeds_come_last() -> None:
    cells = cells_of("optimizer=[sgd,adam]", "model.norm=[none,group]", "lr=[0.1,1]", "seeds=2")
    assert len(cells) == len({cell.folder for cell in cells}) == 2 * 2 * 2 * 2
    values = {"optimizer": "sgd", "model.norm": "none", "lr": 0.1}
    assert cells[0] == Cell("study", values, 0, "study/optimizer=sgd,model.norm=none,lr=0.1,seed=0")
    assert [cell.seed for cell in cells] == [0] * 8 + [1] * 8


def test_a_list_is_no_axis_where_the_key_has_a_list_for_its_value() -> None:
    (part,) = read_study(["optimizer=adam", "optimizer.betas=[0.5,0.9]", "lr=[0.1,1]"]).parts
    assert part.axes == {"lr": [0.1, 1]}
    assert part.settings == ("optimizer=adam", "optimizer.betas=[0.5, 0.9]")


def test_learning_rates_can_be_multiples_of_each_optimizers_own() -> None:
    cells = cells_of("optimizer=[sgd,adam]", "lr_factor=[0.3,3]", "seeds=1", default_lr={"sgd": 0.1, "adam": 0.001})
    assert [tuple(cell.axes.values()) for cell in cells] == [
        ("sgd", 0.03), ("sgd", 0.3), ("adam", 0.0003), ("adam", 0.003),
    ]  # fmt: skip


def test_further_seeds_are_run_of_the_best_learning_rate_alone() -> None:
    (part,) = read_study(["optimizer=[sgd]", "lr=[0.1,1]", "seeds=3", "lr_seeds=1"]).parts
    assert [cell.seed for grid in grids(part, {}) for cell in grid.cells()] == [0, 0]
    more = [cell for grid in more_seeds(part, [{"optimizer": "sgd", "lr": 1}]) for cell in grid.cells()]
    assert [(cell.axes["lr"], cell.seed) for cell in more] == [(1, 1), (1, 2)]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["seeds=2"], "something to vary"),
        (["optimizer=[sgd,adm]"], "did you mean adam"),
        (["optimizer=[sgd]", "seeds=0"], "seeds=0: expected a whole number"),
        (["optimizer=[sgd]", "lr=log(1,0.1,3)"], "0 < first < last"),
        (["optimizer=[sgd]", "lr=log(a,b,3)"], "expected log\\(FIRST,LAST,HOW MANY\\)"),
        (["optimizer=[sgd]", "lr=-1"], "positive numbers"),
        (["optimizer=[sgd]", "lr=1", "lr_factor=1"], "give one"),
        (["optimizer=[sgd,sgd]"], "each value once"),
        (["data.root=[a/b,c/d]"], "names or numbers"),
        (["study=lectur"], "did you mean lecture"),
        (["study=lecture", "loss=[l1,mse]"], "no part of this preset varies it"),
        (["optimizer=[sgd]", "reach=2"], "between 0 and 1"),
        (["optimizer"], "expected key=value"),
        (["optimizer=[sgd]", "lr=[true]"], "positive numbers"),
        (["optimizer=[sgd]", "seed=3"], "give seeds=N"),
        (["optimizer=[sgd]", "trainer.max_epochs=3"], "give budget=N"),
        (["optimizer=[sgd]", "ckpt=x"], "starts anew"),
        (["study=lecture", "model.norm=group"], "what the part step_size of this preset is about"),
        (["study=lecture", "optimizer=adam"], "what the part .* of this preset is about"),
        (["optimizer=[sgd"], "cannot be read"),
    ],
)
def test_what_cannot_be_planned_is_refused(typed: Sequence[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_study(typed)


@pytest.mark.parametrize("name", presets())
def test_every_preset_composes_and_asks_what_can_be_answered(name: str) -> None:
    study = read_study([f"study={name}"])
    for part in study.parts:
        assert part.question in FINDERS
        for grid in grids(part, dict.fromkeys(map(str, part.axes.get("optimizer", ())), 0.1)):
            cfg = compose(*grid.first())
            assert cfg.trainer.max_epochs == part.budget
            assert cfg.seed == 0


def test_what_is_typed_beside_a_preset_holds_for_all_of_it() -> None:
    study = read_study(["study=lecture", "seeds=5", "model.chans=2", "lr=[0.1,1]", "model.norm=[none,group]"])
    assert {part.seeds for part in study.parts} == {5}
    assert all("model.chans=2" in part.settings and "model.chans=8" not in part.settings for part in study.parts)
    parts = {part.name: part for part in study.parts}
    assert parts["normalization"].axes == {"model.norm": ["none", "group"], "lr": [0.1, 1]}
    assert parts["normalization"].question == ""  # it was about other norms
    assert parts["momentum"].question == "momentum"


# --- what is run ---


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("study")
    typed = ["optimizer=[sgd,adam]", "model.norm=[none]", "lr=[0.01,1e6]", "seeds=2", "budget=2", *SMALL, "output=out"]
    return folder, run(folder, "study", *typed, "hydra.job_logging.root.level=ERROR")


def cell_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "out" / "study" / name / "cell.json").read_text())


def test_a_study_ends_well_though_trainings_diverge(studied: tuple[Path, Any]) -> None:
    folder, done = studied
    assert done.returncode == 0, done.stderr
    assert cell_of(folder, "optimizer=sgd,model.norm=none,lr=0.01,seed=0")["status"] == "finished"
    diverged = cell_of(folder, "optimizer=sgd,model.norm=none,lr=1000000.0,seed=1")
    assert diverged["status"] == "diverged"
    assert "ower optimizer.lr" in diverged["reason"]
    assert "8/8  study/" in done.stdout
    assert re.search(
        r"1/8  study/optimizer=sgd,model\.norm=none,lr=0\.01,seed=0: SSIM -?0\.\d+, about \d+", done.stdout
    )
    assert "trainings diverged; they count as results" in done.stdout
    assert (folder / "out/study.html").exists()


def test_trainings_of_one_seed_begin_alike(studied: tuple[Path, Any]) -> None:
    folder, _ = studied
    cells = {name: cell_of(folder, f"optimizer={name},model.norm=none,lr=0.01,seed=0") for name in ("sgd", "adam")}
    first = {name: content["losses"][0] for name, content in cells.items()}
    assert first["sgd"] == first["adam"]
    assert cell_of(folder, "optimizer=sgd,model.norm=none,lr=0.01,seed=1")["losses"][0] != first["sgd"]


def test_a_training_keeps_what_it_went_through(studied: tuple[Path, Any]) -> None:
    content = cell_of(studied[0], "optimizer=adam,model.norm=none,lr=0.01,seed=0")
    assert len(content["losses"]) == content["num_steps"] == 2 * 2
    assert [v["num_slices"] for v in content["validations"]] == [4, 8]
    assert [v["step"] for v in content["validations"]] == [2, 4]
    assert content["zero_filled"]["ssim"] > 0
    assert np.mean([v["ssim"] for v in content["volumes"]]) == pytest.approx(content["validations"][-1]["ssim"])
    assert content["state_bytes"] == pytest.approx(2 * content["weights_bytes"], rel=0.05)  # two moments, and counters
    assert content["seconds_per_step"] > 0


def test_finished_trainings_are_not_run_again_and_lost_ones_come_out_the_same(studied: tuple[Path, Any]) -> None:
    folder, _ = studied
    files = sorted((folder / "out").glob("study/*/cell.json"))
    before = {path: path.stat().st_mtime_ns for path in files}
    lost = folder / "out/study/optimizer=adam,model.norm=none,lr=0.01,seed=1/cell.json"
    kept = json.loads(lost.read_text())
    lost.unlink()
    typed = ["optimizer=[sgd,adam]", "model.norm=[none]", "lr=[0.01,1e6]", "seeds=2", "budget=2", *SMALL, "output=out"]
    done = run(folder, "study", *typed)
    assert done.returncode == 0, done.stderr
    assert "8 trainings in out, 7 of them finished" in done.stdout
    assert [path for path in files if path.stat().st_mtime_ns != before[path]] == [lost]
    assert json.loads(lost.read_text())["losses"] == kept["losses"]


def test_a_folder_with_a_study_of_other_settings_is_left_alone(studied: tuple[Path, Any]) -> None:
    folder, _ = studied
    path = folder / "out/study/optimizer=sgd,model.norm=none,lr=0.01,seed=0/cell.json"
    before = path.read_bytes()
    done = run(folder, "study", "optimizer=[sgd]", "model.norm=[none]", "lr=[0.01]", "budget=3", *SMALL, "output=out")
    assert done.returncode == 2
    assert "was made with trainer.max_epochs=2, now it is 3: give another output=DIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert path.read_bytes() == before


def test_models_that_need_no_training_are_scored_beside_the_others(tmp_path: Path) -> None:
    part = Part("p", "P", "baselines", "", tuple(SMALL), {"optimizer": ["adam"]}, 1, 1, 1, {"model": ["zero_filled"]})
    baseline, trained = grids(part, {})
    assert [c.folder for c in (*baseline.cells(), *trained.cells())] == [
        "p/model=zero_filled,seed=0", "p/optimizer=adam,seed=0",
    ]  # fmt: skip
    assert "model.chans=4" in trained.settings
    assert not any(override.startswith("model.") for override in baseline.overrides(tmp_path))


def test_a_model_on_an_axis_keeps_its_settings_and_its_seeds() -> None:
    (part,) = read_study(["model=[unet,zero_filled]", "model.chans=4", "seeds=2", "lr_seeds=1"]).parts
    assert grids(part, {})[0].settings == ["model.chans=4"]
    assert [cell.seed for grid in more_seeds(part, [{"model": "unet"}]) for cell in grid.cells()] == [1]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["optimizer=[sgd]", "trainer.precisionn=4"], "trainer.precisionn: there is no such key"),
        (["optimizer=adamm", "optimizer.betas=[0.5,0.9]", "lr=[0.1]"], "did you mean adam"),
        (["lr_factor=[1,2]", "model.nosuch=3"], "model.nosuch: there is no such key"),
        (["optimizer=[sgd]", "trainer.devices=2"], "takes one device"),
    ],
)
def test_what_cannot_be_composed_is_refused_before_anything_is_kept(
    tmp_path: Path, typed: Sequence[str], message: str
) -> None:
    done = run(tmp_path, "study", *typed, "output=out")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out/*.json"))


def test_flags_and_nothing_are_values_like_others_and_what_is_refused_leaves_the_rest(tmp_path: Path) -> None:
    typed = ["model.num_pool_layers=[2,6]", "trainer.gradient_clip_val=[null,1.0]", "data.fixed_masks=[true]"]
    small = [setting for setting in SMALL if "num_pool_layers" not in setting]
    done = run(tmp_path, "study", *typed, "seeds=1", "budget=1", *small, "output=it's")
    assert done.returncode == 4, done.stderr  # six poolings leave nothing of 32 pixels
    assert "2 trainings are missing" in done.stdout
    assert "error: study/model.num_pool_layers=6" in done.stderr
    assert "gradient_clip_val none + fixed_masks true" in (tmp_path / "it's/study.html").read_text()


def test_a_study_is_run_by_one_process_at_a_time(tmp_path: Path) -> None:
    with alone_in(output_folder(tmp_path / "out")):
        done = run(tmp_path, "study", "optimizer=[sgd]", *SMALL, "output=out")
    assert done.returncode == 2
    assert "another run is writing there" in done.stderr


def test_hparams_know_which_trainings_diverged(studied: tuple[Path, Any]) -> None:
    for lr, status in (("0.01", 1), ("1000000.0", 2)):  # STATUS_SUCCESS, STATUS_FAILURE
        folder = studied[0] / f"out/study/optimizer=adam,model.norm=none,lr={lr},seed=0/tensorboard"
        found = EventAccumulator(str(folder)).Reload().SummaryMetadata("_hparams_/session_end_info")
        content = plugin_data_pb2.HParamsPluginData.FromString(found.plugin_data.content)
        assert content.session_end_info.status == status


def test_help_lists_the_presets(tmp_path: Path) -> None:
    done = run(tmp_path, "study", "--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("lecture", "optimizers", "normalization", "step_size", "seeds: 3"))


# --- what is said ---


def made_up(
    axes: Mapping[str, Any],
    seed: int = 0,
    losses: Sequence[float | None] = (1.0, 0.5),
    ssims: Sequence[float] = (0.6, 0.8),
    volumes: Sequence[float] | None = None,
    status: str = "finished",
    zero_filled: float = 0.5,
) -> Run:
    steps = len(losses) // len(ssims)
    content = {
        "status": status, "reason": "because" if status == "diverged" else "", "losses": [*losses],
        "num_steps": len(losses), "num_slices": 4 * len(losses),
        "validations": [
            {"step": steps * i, "passes": i, "num_slices": 4 * steps * i, "ssim": s, "psnr": 20, "nmse": 1}
            for i, s in enumerate(ssims, start=1)
        ],
        "volumes": [
            {"name": f"v{i}", "patient": None, "mask": "", "ssim": s, "psnr": 20 + s, "nmse": 1 - s}
            for i, s in enumerate(volumes or [ssims[-1] - 0.01, ssims[-1] + 0.01])
        ],
        "zero_filled": {"ssim": zero_filled}, "weights_bytes": 100, "state_bytes": 200,
        "seconds_per_step": 0.1, "peak_bytes": None, "config": {}, "versions": {"torch": "2"}, "device": "CPU",
        "conventions": {},
    }  # fmt: skip
    name = "_".join(map(str, axes.values()))
    return Run(Cell("part", dict(axes), seed, f"part/{name}_seed{seed}"), content)


def results_of(tmp_path: Path, runs: Sequence[Run], question: str = "", reach: float | None = None) -> PartResults:
    for each in runs:
        path = tmp_path / each.cell.folder / "cell.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(each.content))
    part = Part("part", "A part", question, "", (), {}, 1, 1, 2, {})
    return read_part(tmp_path, part, [each.cell for each in runs], reach)


def quadratic(lr: float, num_steps: int = 40) -> list[float]:
    """Losses of gradient descent on x^2 / 2 + y^2 / 20 from (1, 1): it diverges from lr 2 on."""
    return [((1 - lr) ** (2 * k) + 0.1 * (1 - 0.1 * lr) ** (2 * k)) / 2 for k in range(num_steps)]


def test_step_sizes_are_told_apart_on_a_function_whose_limits_are_known(tmp_path: Path) -> None:
    rates = [0.001, 0.003, 0.5, 1.0, 2.1, 3.0]
    runs = [made_up({"lr": lr}, losses=quadratic(lr)) for lr in rates]
    # A valley with noise of its own: it falls and rises in turns.
    runs.append(made_up({"lr": 1.9}, losses=[0.6 + 0.3 * (-1) ** k * 0.9**k - 0.005 * k for k in range(40)]))
    sentence, *_ = findings(results_of(tmp_path, runs, "step_size"))
    assert "crawls at lr 0.001 to 0.003 (it falls by 7 to " in sentence
    assert "converges at lr 0.5 to 1 (it falls by 100 %)" in sentence
    assert re.search(r"oscillates at lr 1\.9 \(it rises in \d\d % of the steps\)", sentence)
    assert "diverges at lr 2.1 to 3 (above where it began at the end)" in sentence


def test_the_usable_range_ends_where_a_straight_line_crosses_the_threshold(tmp_path: Path) -> None:
    scores = {0.001: 0.4, 0.01: 0.8, 0.1: 0.8, 1.0: None}
    runs = [
        made_up({"model.norm": "group", "lr": lr}, ssims=[s or 0.1], status="finished" if s else "diverged")
        for lr, s in scores.items()
    ]
    (family,) = results_of(tmp_path, runs).families
    # half of the decade up from .4 to .8, one whole decade, half of the way to where it diverged
    assert family.usable_decades(0.6) == (pytest.approx(2.0), False)
    assert family.usable_decades(0.3)[1]
    assert family.usable_decades(0.9) == (0.0, False)


def test_normalizations_are_ordered_by_the_range_they_allow(tmp_path: Path) -> None:
    runs = [
        made_up({"model.norm": norm, "lr": lr}, ssims=[0.9 if lr in good else 0.45])
        for norm, good in (("none", (0.01,)), ("group", (0.01, 0.1, 1.0)))
        for lr in (0.001, 0.01, 0.1, 1.0, 10.0)
    ]
    first, second = findings(results_of(tmp_path, runs, "normalization"))
    assert "above zero-filled (0.5000)" in first
    assert "half of the best gain (0.7000)" in first
    # from .45 to .9 and back within a decade each: .5 is crossed after 1/9 of it, .7 after 5/9
    assert second == "By norm: group 3.8 (2.9), none 1.8 (0.9)."


def test_the_best_is_named_with_what_cannot_be_told_from_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(0, 0.05, 12)
    runs = []
    for name, gain, noise in (("adam", 0.05, 0.0), ("nadam", 0.05, 0.02), ("sgd", 0.0, 0.0)):
        for seed in range(3):
            values = 0.7 + gain + level + rng.normal(0, noise, 12)
            runs.append(made_up({"optimizer": name}, seed, ssims=[float(values.mean())], volumes=values.tolist()))
    ranked = results_of(tmp_path, runs).ranked
    assert [family.label for family in ranked][-1] == "sgd"
    text = " ".join(findings(results_of(tmp_path, runs)))
    assert "Not to be told from it at this budget: " in text
    assert "Behind it by more than seeds and volumes explain: sgd" in text
    assert "(zero-filled 0.5000)" in text


def test_an_interval_covers_seeds_and_volumes_drawn_each_for_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = 0.7 + rng.normal(0, 0.02, (3, 1)) + rng.normal(0, 0.05, (1, 10))
    runs = [
        made_up({"optimizer": "a"}, seed, ssims=[float(row.mean())], volumes=row.tolist())
        for seed, row in enumerate(values)
    ]
    setting = results_of(tmp_path, runs).families[0].settings[0]
    found = setting_interval(setting)
    draws = np.random.default_rng(1)
    means = [values[draws.integers(0, 3, 3)][:, draws.integers(0, 10, 10)].mean() for _ in range(20000)]
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.002)  # both are drawn
    assert setting_difference(setting, setting) == (0.0, 0.0, 0.0, 10, "percentile")


def test_a_model_without_seeds_stands_beside_every_seed_and_others_are_paired_by_theirs(tmp_path: Path) -> None:
    runs = [made_up({"optimizer": "adam"}, seed, ssims=[s]) for seed, s in enumerate((0.9, 0.7, 0.7))]
    runs += [made_up({"optimizer": "sgd"}, seed, ssims=[s]) for seed, s in ((0, 0.8), (2, 0.5))]
    runs += [made_up({"model": "tv"}, losses=[], ssims=[0.72])]
    adam, sgd, tv = (family.settings[0] for family in results_of(tmp_path, runs).families)
    found = setting_difference(adam, tv), setting_difference(adam, sgd)
    assert [each.mean if each else None for each in found] == pytest.approx([0.7667 - 0.72, 0.15], abs=1e-4)
    assert best_settings(results_of(tmp_path, runs)) == [{"optimizer": "adam"}, {"optimizer": "sgd"}]


def test_a_best_rate_at_the_edge_of_the_grid_is_said(tmp_path: Path) -> None:
    scores = {"a": (0.6, 0.7, 0.8), "b": (0.6, 0.8, 0.7), "c": (0.8, 0.7, 0.6)}
    runs = [
        made_up({"optimizer": name, "lr": lr}, ssims=[ssim])
        for name, ssims in scores.items() for lr, ssim in zip((0.1, 1.0, 10.0), ssims, strict=True)
    ]  # fmt: skip
    assert findings(results_of(tmp_path, runs))[-1] == (
        "At the edge of the learning rates tried, so that better ones may lie beyond: a and c."
    )


def test_different_zero_filled_images_have_no_common_line(tmp_path: Path) -> None:
    runs = [made_up({"mask": m}, ssims=[0.8], zero_filled=z) for m, z in (("random_4x", 0.5), ("random_8x", 0.2))]
    results = results_of(tmp_path, runs)
    assert (results.zero_filled, results.usable, results.reach) == (None, None, None)
    assert "SSIM 0.8000 [0.7900, 0.8100] (zero-filled 0.5000)" in findings(results)[0]


def test_one_seed_does_not_speak_for_seeds_and_a_loss_to_zero_filled_is_said(tmp_path: Path) -> None:
    volumes = np.linspace(0.3, 0.45, 8)
    gains = {"a": 0.0, "b": -0.1}
    runs = [made_up({"optimizer": n}, ssims=[0.4 + g], volumes=(volumes + g).tolist()) for n, g in gains.items()]
    first, second = findings(results_of(tmp_path, runs))
    assert "(zero-filled 0.5000 and is not reached)" in first
    assert "by more than volumes explain, with one seed: b" in second


def test_what_has_no_score_is_told_apart(tmp_path: Path) -> None:
    undefined = made_up({"optimizer": "a"})
    undefined.content["validations"][-1]["ssim"] = None
    assert findings(results_of(tmp_path / "1", [undefined])) == [
        "No setting ended with a score in every seed.", "1 trainings ended with an undefined SSIM.",
    ]  # fmt: skip
    early = made_up({"lr": 10.0}, losses=[1.0, 0.001, None], status="diverged")
    grown = made_up({"lr": 5.0}, losses=[1.0, 2.0, 3.0])
    fine = made_up({"lr": 0.1}, losses=[1.0, 0.5, 0.4])
    sentence, *_ = findings(results_of(tmp_path / "2", [early, grown, fine], "step_size"))
    assert "diverges at lr 5 to 10 (no longer finite after 2 steps or above where it began at the end)" in sentence


def test_a_part_without_any_result_still_has_a_page(tmp_path: Path) -> None:
    runs = [
        made_up({"optimizer": o, "model.norm": n, "lr": 0.1}, losses=[None], status="diverged")
        for o in ("a", "b") for n in ("c", "d")
    ]  # fmt: skip
    for each in runs:
        each.content.update(zero_filled={}, validations=[])
    part = results_of(tmp_path, runs, "step_size").part
    study = Study("X", "", tmp_path, None, (part,), ())
    page, text = write_page(study, [each.cell for each in runs], "python scripts/study.py")
    assert "4 of 4 trainings diverged" in text
    assert "at any learning rate: a + c, a + d, b + c, b + d" in page.read_text()


def test_settings_scored_on_other_volumes_have_no_difference(tmp_path: Path) -> None:
    runs = [made_up({"optimizer": "a"}, volumes=[0.7, 0.8]), made_up({"optimizer": "b"}, volumes=[0.7, 0.8, 0.9])]
    results = results_of(tmp_path, runs)
    one, other = (family.settings[0] for family in results.families)
    assert setting_difference(one, other) is None
    assert "Validated on other volumes, and so not compared with it: " in findings(results)[1]


def test_steps_are_counted_until_an_ssim_is_reached() -> None:
    training = made_up({}, losses=[1.0] * 8, ssims=[0.5, 0.6, 0.7, 0.65])
    assert to_reach(training, 0.65, "step") == 6
    assert to_reach(training, 0.65, "num_slices") == 24
    assert to_reach(training, 0.71, "passes") is None


def test_the_best_of_few_seeds_does_not_stand_before_the_best_of_all(tmp_path: Path) -> None:
    runs = [
        made_up({"lr": 0.1}, 0, ssims=[0.81]),
        made_up({"lr": 1.0}, 0, ssims=[0.82]),
        made_up({"lr": 1.0}, 1, ssims=[0.7]),
    ]
    results = results_of(tmp_path, runs)
    assert best_settings(results) == [{"lr": 1.0}]
    assert results.families[0].best is not None
    assert results.families[0].best.score == pytest.approx(0.76)


def test_a_seed_that_diverged_leaves_a_setting_without_a_score(tmp_path: Path) -> None:
    runs = [made_up({"lr": 0.1}, 0), made_up({"lr": 0.1}, 1, status="diverged")]
    results = results_of(tmp_path, runs)
    assert results.families[0].best is None
    assert findings(results) == [
        "No setting ended with a score in every seed.", "1 of 2 trainings diverged; they count as results.",
    ]  # fmt: skip


def test_minibatches_are_compared_by_the_slices_looked_at(tmp_path: Path) -> None:
    runs = [
        made_up({"optimizer": "gd"}, losses=[1.0] * 16, ssims=[0.3, 0.4, 0.5, 0.6]),
        made_up({"optimizer": "sgd"}, losses=[1.0] * 16, ssims=[0.6, 0.7, 0.75, 0.8]),
    ]
    first, second = findings(results_of(tmp_path, runs, "batch"))
    assert "sgd: SSIM 0.8000 after 16 steps; gd: SSIM 0.6000" in first
    assert second == "sgd was at the last one's 0.6000 after 16 of 64 slices: 4 times less computation."


def test_momentum_is_compared_at_one_step_size_and_at_the_best(tmp_path: Path) -> None:
    scores = {(0.0, 0.01): 0.55, (0.0, 0.1): 0.8, (0.9, 0.01): 0.82, (0.9, 0.1): None}
    runs = [
        made_up({"optimizer.momentum": beta, "lr": lr}, ssims=[s or 0.1], status="finished" if s else "diverged")
        for (beta, lr), s in scores.items()
    ]
    table, speed, *_ = findings(results_of(tmp_path, runs, "momentum"))
    assert "beta 0.9: best at lr 0.01, lr / (1 - beta) = 0.1, SSIM 0.8200" in table
    assert speed == (
        "beta 0.9: at the small step 0.01 SSIM 0.8200 against 0.5500 without; "
        "at 0.1, the best step without, it diverges against 0.8000."
    )


def test_a_broken_result_is_named(tmp_path: Path) -> None:
    runs = [made_up({"lr": 0.1})]
    results_of(tmp_path, runs)
    (tmp_path / runs[0].cell.folder / "cell.json").write_text('{"status": "fini')
    part = Part("part", "", "", "", (), {}, 1, 1, 1, {})
    with pytest.raises(InputError, match="is not JSON"):
        read_part(tmp_path, part, [runs[0].cell], None)
    with pytest.raises(InputError, match="no training of this part is finished"):
        read_part(tmp_path, part, [Cell("part", {}, 0, "part/none")], None)


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (89, "89 s"), (200, "3 min"), (7900, "2 h 12 min")])
def test_a_duration_is_told_in_the_unit_one_thinks_in(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


# --- how it looks ---


@pytest.fixture(scope="module")
def page(studied: tuple[Path, Any]) -> Path:
    return studied[0] / "out/study.html"


def test_the_page_asks_the_network_for_nothing_and_says_what_was_found(page: Path) -> None:
    html = page.read_text()
    elements = Page(html)
    sources = [value for tag in ("img", "script", "link") for each in elements.all(tag) for value in each.values()]
    assert not sources
    text = elements.text
    assert "Best: " in text
    assert "diverged" in text
    assert "python" in text
    assert "mathdefault" not in html


def test_the_page_has_a_description_for_every_figure(page: Path) -> None:
    figures = Page(page.read_text()).all("svg")
    assert len(figures) == 2
    assert all(figure["aria-label"] for figure in figures)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: how the page looks was not measured")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_all_figures_and_nothing_overflows(tmp_path: Path, page: Path, width: int) -> None:
    found = in_browser(tmp_path, page, width)
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["plots"] == 2


def test_nothing_is_infinite_in_what_is_kept(studied: tuple[Path, Any]) -> None:
    losses = cell_of(studied[0], "optimizer=sgd,model.norm=none,lr=1000000.0,seed=0")["losses"]
    assert all(loss is None or math.isfinite(loss) for loss in losses)

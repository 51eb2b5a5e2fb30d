"""Choosing lambda: the search finds the best weight, and the command says it, as a user types it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from conftest import Volume
from test_commands import run

from mrirecon.errors import ConfigError, InputError
from mrirecon.evaluation.lambda_search import best_weight, check_search, print_trials, search, summary
from mrirecon.models.image_domain import ZeroFilled
from mrirecon.models.iterative import CgSense

MODEL = CgSense(0.01, 1, 24, 6)
RANGE: dict[str, Any] = {"score": "ssim", "low": 1e-4, "high": 1.0, "num_grid": 5, "num_refinements": 6}


def report(ssim: float | None, nmse: float = 0.1) -> dict[str, Any]:
    return {"ssim": ssim, "psnr": 20.0, "nmse": nmse, "conventions": {"slices": "all"}, "made_by": {"split": "val"}}


@pytest.mark.parametrize("best", [3e-4, 0.007, 0.2])
@pytest.mark.parametrize("score", ["ssim", "nmse"])
def test_the_search_finds_the_peak_of_a_smooth_score(best: float, score: str) -> None:
    def evaluate(weight: float) -> dict[str, Any]:
        distance = (math.log(weight) - math.log(best)) ** 2
        return report(0.9 - 0.001 * distance, 0.1 + 0.001 * distance)

    trials = search(evaluate, **{**RANGE, "score": score})
    # Two grid steps of a factor 10 shrink by 0.618 each of six times, to a factor 1.3 in all.
    assert abs(math.log(best_weight(trials, score) / best)) < math.log(1.3)
    assert len(trials) <= 5 + 7  # no weight is scored twice


def test_a_peak_at_the_edge_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    trials = search(lambda weight: report(1 - weight), **RANGE)
    assert best_weight(trials, "ssim") == 1e-4
    assert summary(trials, "ssim")["at_edge_of_range"]
    print_trials("t", trials, "ssim")
    assert "widen search.low" in capsys.readouterr().out


def test_of_equal_scores_the_smallest_weight_is_chosen() -> None:
    assert best_weight({0.1: report(0.5), 0.01: report(0.5)}, "ssim") == 0.01


def test_a_set_without_any_defined_score_is_refused() -> None:
    with pytest.raises(InputError, match="undefined"):
        search(lambda weight: report(None), **RANGE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "mse"}, r"search\.score='mse'"),
        ({"low": 0.0}, r"search\.low=0"),
        ({"low": 2.0}, r"search\.low=2"),
        ({"num_grid": 1}, r"search\.num_grid=1"),
        ({"num_refinements": -1}, r"search\.num_refinements=-1"),
    ],
)
def test_a_search_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_search(MODEL, **{**RANGE, **changes})


def test_a_model_without_a_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="no reg_weight"):
        check_search(ZeroFilled(), **RANGE)


def test_the_command_scores_each_lambda_as_evaluate_does_and_says_what_to_type(tmp_path: Path, volume: Volume) -> None:
    for number in range(2):
        volume(tmp_path / "set" / "multicoil_val" / f"v{number}.h5", num_coils=3, size=(40, 36), seed=number)
    common = [
        "model=cg_sense",
        "data=fastmri_multicoil",
        f"data.root={tmp_path / 'set'}",
        "data.num_workers=0",
        "trainer=cpu",
    ]
    chosen = run(
        tmp_path, "choose_lambda", *common, "search.num_grid=3", "search.num_refinements=1", f"output={tmp_path / 'a'}"
    )
    assert chosen.returncode == 0, chosen.stderr
    found = json.loads((tmp_path / "a" / "choose_lambda.json").read_text())
    assert found["override"] in chosen.stdout
    assert {"ssim", "psnr", "nmse", "reg_weight"} == found["trials"][0].keys()
    scored = run(tmp_path, "evaluate", *common, found["override"], f"output={tmp_path / 'b'}")
    assert scored.returncode == 0, scored.stderr
    best = next(trial for trial in found["trials"] if trial["reg_weight"] == found["reg_weight"])
    assert json.loads((tmp_path / "b" / "metrics.json").read_text())["ssim"] == best["ssim"]
    assert best["ssim"] == max(trial["ssim"] for trial in found["trials"])

"""Comparing evaluations: intervals that cover, differences that are found, refusals that say why."""

import json
import math
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_runs import made_up_run, write_run
from scipy import stats

from mrirecon.errors import ConfigError, InputError
from mrirecon.metrics.scores import SCORE_TABLE
from mrirecon.reports import statistics
from mrirecon.reports.comparison import Difference, compare
from mrirecon.reports.runs import check_comparable, check_run, describe, read_run, volume_key
from mrirecon.reports.statistics import mean_interval, signed_rank
from mrirecon.reports.text import best_runs, p_text, print_comparison, summary, verdict

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "compare.py"
Run = dict[str, Any]


def test_ninety_five_percent_intervals_hold_the_true_mean_about_that_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 999)  # for the time it takes
    rng = np.random.default_rng(0)
    num_trials, held = 400, 0
    for _ in range(num_trials):
        interval = mean_interval(list(rng.exponential(size=40)), range(40))
        assert interval.method == "BCa"
        held += interval.low <= 1 <= interval.high
    # 400 trials of probability .95 have a deviation of .011; BCa on 40 skewed values covers one or two percent less.
    assert 0.90 < held / num_trials < 0.985


def test_volumes_of_one_patient_are_drawn_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 999)
    rng = np.random.default_rng(0)
    num_trials, held_by_patient, held_by_volume = 200, 0, 0
    for _ in range(num_trials):
        values = np.repeat(rng.normal(size=30), 4) + 0.1 * rng.normal(size=120)
        by_patient, by_volume = (mean_interval(list(values), units) for units in (np.repeat(range(30), 4), range(120)))
        assert by_patient.num_units == 30
        assert by_patient.mean == pytest.approx(by_volume.mean)
        held_by_patient += by_patient.contains_zero
        held_by_volume += by_volume.contains_zero
    # Deviation .015; four alike counted as four make the interval half as wide, which holds zero in two of three.
    assert held_by_patient / num_trials > 0.88
    assert held_by_volume / num_trials < 0.80


def test_a_volume_keeps_its_weight_among_patients_of_many_and_of_few() -> None:
    assert mean_interval([1, 1, 1, 5], ["a", "a", "a", "b"]).mean == 2
    assert mean_interval([1, 2, 3], ["a"] * 3)[:4] == (2, None, None, 1)


def test_an_interval_where_bca_has_none_is_said_to_be_another() -> None:
    assert mean_interval([0.5], ["a"])[1:] == (None, None, 1, "none")
    assert mean_interval([0.5, 0.5], "ab") == (0.5, 0.5, 0.5, 2, "constant")
    assert mean_interval([0.5], ["a"]).contains_zero  # it cannot be told from anything
    values = [0.0] * 60 + [1.0]
    assert mean_interval(values, range(61)).method in ("BCa", "percentile")


def test_percentiles_are_taken_where_bca_gives_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    real = stats.bootstrap

    def without_bca(*args: Any, method: str, **kwargs: Any) -> Any:
        found = real(*args, method="percentile", **kwargs)
        if method == "BCa":
            found.confidence_interval = type(found.confidence_interval)(math.nan, math.nan)
        return found

    monkeypatch.setattr(stats, "bootstrap", without_bca)
    interval = mean_interval([1.0, 2.0, 4.0], "abc")
    assert interval.method == "percentile"
    assert interval.low < interval.mean < interval.high


def test_the_same_values_give_the_same_interval() -> None:
    values = list(np.random.default_rng(3).normal(size=12))
    assert mean_interval(values, range(12)) == mean_interval(values, range(12))
    assert mean_interval(values, range(12)) != mean_interval(values, range(12), seed=1)


def test_the_signed_rank_test_is_scipys() -> None:
    for seed in range(5):
        values = list(np.random.default_rng(seed).normal(0.3, 1, 6 + 5 * seed))
        assert signed_rank(values, range(len(values))).p_value == stats.wilcoxon(values).pvalue
    assert signed_rank([1, 2, 3, 4, 5, 6], range(6)).p_value == 2 / 2**6
    means = [1.0, 2, 3, 4, 5, 6.5]
    alike = signed_rank([m + d for m in means for d in (-0.25, 0.25)], np.repeat(range(6), 2))
    assert alike == signed_rank(means, range(6))


def test_the_signed_rank_test_says_why_there_is_none() -> None:
    assert signed_rank([0.0] * 9, range(9)) == (None, "all differences are zero")
    found = signed_rank([1.0, 0, 0, 2, 3, 4, 5], range(7))
    assert found.p_value is None
    assert found.reason == "too few pairs (5 differ)"


def difference(runs: dict[str, Run], score: str = "ssim") -> Difference:
    return compare(runs).overall.differences[score][0]


def test_a_known_shift_is_found_though_volumes_differ_more_than_it() -> None:
    runs = {"a": made_up_run(0.0, seed=1, num_scans=12), "b": made_up_run(0.01, seed=2, num_scans=12)}
    ssim, nmse = difference(runs), difference(runs, "nmse")
    assert ssim.interval.low < 0.01 < ssim.interval.high
    assert not ssim.interval.contains_zero
    assert (ssim.better, nmse.better) == ("b", "b")  # more SSIM, less NMSE
    assert nmse.interval.mean < 0
    assert verdict(ssim) == "b is better"
    assert ssim.test.p_value < 0.01
    mean = compare(runs).overall.means["ssim"]["a"].interval
    assert mean.low < runs["b"]["ssim"] < mean.high  # unpaired, the two could not be told apart


def test_a_difference_of_nothing_but_noise_is_called_so() -> None:
    runs = {"a": made_up_run(seed=1), "b": made_up_run(seed=2)}
    assert verdict(difference(runs)) == "within noise"
    same = difference({"a": made_up_run(), "b": made_up_run()})
    assert (verdict(same), same.better, p_text(same)) == ("equal", None, "all differences are zero")


def test_few_volumes_are_never_enough_to_be_sure() -> None:
    runs = {"a": made_up_run(num_scans=3), "b": made_up_run(0.2, seed=1, num_scans=3)}
    found = difference(runs)
    assert not found.interval.contains_zero
    assert "3 are too few" in verdict(found)
    assert "too few pairs" in p_text(found)
    assert "rough" in summary(compare(runs))
    one = {name: made_up_run(gain, num_scans=1) for name, gain in (("a", 0.0), ("b", 0.2))}
    assert "this one only" in verdict(difference(one))
    assert "no interval: do not conclude" in summary(compare(one))


def test_two_accelerations_of_a_scan_are_one_unit_and_so_are_two_scans_of_a_patient() -> None:
    comparison = compare({"a": made_up_run(num_scans=8), "b": made_up_run(0.1, num_scans=8)})
    assert comparison.overall.num_scans == comparison.overall.num_units == 8
    assert comparison.overall.means["ssim"]["a"].num_volumes == 16
    patients = compare({"a": made_up_run(num_scans=8, patients=4)}).overall
    assert (patients.num_scans, patients.num_units) == (8, 4)
    assert patients.means["ssim"]["a"].interval.num_units == 4


def test_scans_of_one_patient_are_drawn_one_by_one_and_that_is_said() -> None:
    comparison = compare({name: made_up_run(shift, num_scans=8, patients=1) for name, shift in (("a", 0), ("b", 0.1))})
    group = comparison.overall
    assert (group.num_units, group.is_one_patient) == (8, True)
    assert group.means["ssim"]["a"].interval.low is not None
    assert "8 volumes of 1 patient" in summary(comparison)
    assert "nothing of other patients" in summary(comparison)


def test_groups_are_contrasts_and_accelerations_then_accelerations_then_all() -> None:
    run = made_up_run()
    comparison = compare({"a": run})
    titles = [group.title for group in comparison.groups]
    assert titles == ["AXT1, 4x", "AXT1, 8x", "AXT2, 4x", "AXT2, 8x", "all, 4x", "all, 8x", "all"]
    assert comparison.overall.means["ssim"]["a"].interval.mean == pytest.approx(run["ssim"])
    assert comparison.groups[0].effective == pytest.approx(3.9)
    one_mask = compare({"a": made_up_run(masks=[""])})
    assert [group.title for group in one_mask.groups] == ["AXT1, 8x", "AXT2, 8x", "all, 8x"]  # nominal
    assert [group.title for group in compare({"a": made_up_run(masks=["4x"], num_scans=1)}).groups] == ["AXT1, 4x"]


def test_conditions_are_groups_of_their_own_and_not_in_the_means() -> None:
    run = made_up_run(conditions=["", "noise 0.5", "noise 1"])
    comparison = compare({"a": run})
    assert [group.condition for group in comparison.conditions] == ["", "noise 0.5", "noise 1"]
    means = [group.means["ssim"]["a"].interval.mean for group in comparison.conditions]
    assert means == sorted(means, reverse=True)
    assert comparison.overall.means["ssim"]["a"].interval.mean == pytest.approx(means[0])


def test_undefined_scores_are_dropped_with_their_partners_and_counted() -> None:
    one, other = made_up_run(masks=["4x"]), made_up_run(0.1, masks=["4x"])
    one["volumes"][2]["ssim"] = other["volumes"][5]["ssim"] = None
    comparison = compare({"a": one, "b": other})
    found = comparison.overall.differences["ssim"][0]
    assert (found.num_pairs, found.num_dropped) == (6, 2)
    assert found.interval.mean == pytest.approx(0.1)
    assert comparison.overall.means["ssim"]["a"][1:] == (7, 1)
    assert "2 scores are undefined" in summary(comparison)
    for volume in one["volumes"]:
        volume["ssim"] = None
    assert "not comparable" in verdict(difference({"a": one, "b": other}))
    assert "undefined" in summary(compare({"a": one}))


def test_the_best_is_the_most_of_ssim_and_the_least_of_nmse() -> None:
    group = compare({"a": made_up_run(), "b": made_up_run(0.1)}).overall
    assert best_runs(group, "ssim") == best_runs(group, "nmse") == {"b"}
    assert best_runs(compare({"a": made_up_run(), "b": made_up_run()}).overall, "ssim") == set()


def test_scores_that_only_one_run_has_are_named_and_not_compared() -> None:
    one, other = made_up_run(), made_up_run(0.1)
    for volume in one["volumes"]:
        volume["mae"] = 1.0
    comparison = compare({"a": one, "b": other})
    assert (comparison.scores, comparison.not_in_all) == (("ssim", "psnr", "nmse"), ("mae",))


def changed(**parts: Any) -> Run:
    run = made_up_run(0.1)
    for part, change in parts.items():
        run[part] = change(run[part]) if callable(change) else change
    return run


def without_last_scan(volumes: list[Run]) -> list[Run]:
    return [volume for volume in volumes if volume["name"] != "file7.h5"]


def first_volume(**values: Any) -> Callable[[list[Run]], list[Run]]:
    return lambda volumes: [volumes[0] | values, *volumes[1:]]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (changed(conventions=lambda c: c | {"slices": "only 3 of 9"}), ("`slices`", "'all'", "'only 3 of 9'")),
        (changed(conventions=lambda c: c | {"new": "x"}), ("`new`", "not stated", "'x'")),
        (changed(volumes=without_last_scan), ("file7.h5, mask 4x", "only in the first")),
        (changed(volumes=first_volume(data_range=9.0)), ("file0.h5, mask 4x", "data_range is 1.5 and 9.0")),
        (changed(volumes=first_volume(condition="noise 1")), ("file0.h5, mask 4x is only in the first",)),
        (changed(volumes=first_volume(mask_sha256="f" * 64)), ("file0.h5, mask 4x", "mask_sha256", "f" * 12)),
        (changed(made_by=lambda m: m | {"data_sha256": "ef" * 32}), ("data_sha256", "cd" * 32, "ef" * 32)),
    ],
)
def test_runs_that_differ_in_more_than_the_model_are_refused_by_name(other: Run, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as refused:
        check_comparable({"one": made_up_run(), "two": other})
    assert all(word in str(refused.value) for word in ("one and two", *words)), refused.value


def test_conditions_that_not_all_have_are_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    plain, robust = made_up_run(num_scans=4), made_up_run(0.1, num_scans=4, conditions=["", "noise 1", "noise 2"])
    noisy = made_up_run(0.2, num_scans=4, conditions=["noise 1", ""])
    comparison = compare({"plain": plain, "robust": robust, "noisy": noisy})
    assert comparison.left_out == ("noise 1", "noise 2")
    assert comparison.conditions == ()
    undisturbed = compare({name: made_up_run(gain, num_scans=4) for name, gain in (("plain", 0), ("noisy", 0.2))})
    assert [group.keys for group in comparison.groups] == [group.keys for group in undisturbed.groups]
    print_comparison(comparison)
    assert "Not in all runs, and so left out: noise 1, noise 2." in capsys.readouterr().out
    both = compare({"robust": robust, "noisy": noisy})
    assert [group.condition for group in both.conditions] == ["", "noise 1"]
    assert both.left_out == ("noise 2",)
    assert compare({"robust": robust, "again": robust}).left_out == ()


def test_runs_without_a_condition_in_common_are_refused() -> None:
    runs = {"plain": made_up_run(), "noisy": made_up_run(conditions=["noise 1", "noise 2"])}
    with pytest.raises(ConfigError, match="plain has undisturbed; noisy has noise 1, noise 2"):
        compare(runs)


def test_other_data_have_a_fingerprint_of_their_own_which_older_files_lack() -> None:
    def run(**made_by: Any) -> Run:
        made = made_up_run(conditions=["", "other anatomy"])
        return made | {"made_by": made["made_by"] | made_by}

    brain, knee = ({"other_data_sha256": {"other anatomy": name}} for name in ("brain", "knee"))
    assert compare({"one": run(**brain), "two": run(**brain), "plain": made_up_run()}).left_out == ("other anatomy",)
    with pytest.raises(ConfigError, match="other_data_sha256 of other anatomy is brain and knee"):
        compare({"one": run(**brain), "two": run(**knee)})
    assert compare({"one": run(**brain), "two": run(**knee), "plain": made_up_run()}).left_out == ("other anatomy",)
    assert compare({"new": run(**brain), "old": run()}).left_out == ()
    with pytest.raises(ConfigError, match="evaluate both on the same volumes, with this version"):
        compare({"new": run(**brain), "old": run(data_sha256="of both sets")})
    with pytest.raises(InputError, match="other_data_sha256"):
        compare({"one": run(other_data_sha256="x")})


def test_the_third_of_three_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="two and three cannot be compared"):
        check_comparable({"one": made_up_run(), "two": made_up_run(), "three": changed(conventions={"slices": "all"})})


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (changed(volumes=[]), "no list of volumes"),
        (changed(conventions=None), "`conventions` is missing"),
        (changed(made_by=lambda m: {"data": "x"}), "made_by.data_sha256"),
        (changed(volumes=lambda v: [3]), r"volumes\[0\]"),
        (changed(volumes=first_volume(acceleration="4x")), r"volumes\[0\].acceleration"),
        (changed(volumes=first_volume(mask_sha256=None)), "mask_sha256"),
        (changed(volumes=lambda v: [*v, v[0]]), "twice"),
    ],
)
def test_what_is_no_evaluation_is_refused(bad: Run, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_run(bad, "x")


def test_a_run_is_read_from_its_folder_or_its_file(tmp_path: Path) -> None:
    run = made_up_run()
    folder = write_run(tmp_path / "a", run)
    assert read_run(folder) == read_run(folder / "metrics.json") == run
    for text in ("{", "[1]", '{"volumes": [{"ssim": NaN}]}', "[" * 100_000):
        (folder / "metrics.json").write_text(text)
        with pytest.raises(InputError, match=r"metrics\.json"):
            read_run(folder)
    with pytest.raises(ConfigError, match="expected the folder of an evaluation"):
        read_run(tmp_path / "none")


def test_words_name_a_volume() -> None:
    key = volume_key({"name": "a.h5", "folder": "b", "mask": "8x", "condition": "noise 1"})
    assert describe(key) == "b/a.h5, mask 8x, noise 1"


def test_everything_is_printed_with_the_numbers_that_were_computed(capsys: pytest.CaptureFixture[str]) -> None:
    comparison = compare({"zero-filled": made_up_run(), "u[net]": made_up_run(0.1, seed=5), "c": made_up_run(0.1)})
    print_comparison(comparison)
    shown = capsys.readouterr().out
    found = comparison.overall.differences["ssim"][0]
    mean = SCORE_TABLE["ssim"].shown(found.interval.mean, signed=True)
    for text in ("AXT1, 4x", "u[net] - zero-filled", "u[net] is better", mean):
        assert text in shown
    assert summary(comparison) in shown
    assert len([line for line in shown.splitlines() if "c - u[net]" in line]) == 21  # 7 groups, 3 scores


def test_the_command_compares_and_writes_a_report(tmp_path: Path) -> None:
    for name, gain in (("a", 0.0), ("b", 0.1)):
        write_run(tmp_path / name / "run", made_up_run(gain, seed=1, num_scans=8, masks=["4x"]))
    command = [sys.executable, str(SCRIPT), "a/run", "b/run/metrics.json", "--output", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "b/run is better" in done.stdout
    assert "<title>" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("a", "b"), 2, "conventions differ"),
        (("a", "bad.json"), 3, "bad.json"),
        (("a",), 2, "two runs"),
        ((), 2, "--help"),
        (("a", "a/metrics.json"), 2, "twice"),
        (("a", "none"), 2, "none"),
        (("a", "c", "--output", "bad.json"), 2, "--output bad.json"),
    ],
)
def test_the_command_refuses_in_one_line_with_its_exit_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    write_run(tmp_path / "a", made_up_run(masks=["4x"]))
    write_run(tmp_path / "b", changed(conventions={"slices": "some"}))
    write_run(tmp_path / "c", made_up_run(0.1, masks=["4x"]))
    (tmp_path / "bad.json").write_text(json.dumps({"volumes": []}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == code
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert words in shown

"""The lessons of docs/course: each runs at its tiny size, and what it says it found is so."""

import math
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import matplotlib
import pytest

COURSE = Path(__file__).resolve().parents[1] / "docs" / "course"
LESSONS = sorted(path.stem for path in COURSE.glob("[0-9]_*.py"))


class Lesson(Protocol):
    def __call__(self, number: int) -> dict[str, Any]: ...


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("figures")


@pytest.fixture(scope="module")
def lesson(figures: Path) -> Iterator[Lesson]:
    """What a lesson's variables are after its last cell; each runs once."""
    done: dict[int, dict[str, Any]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_SIZE", "tiny")
        patch.setenv("COURSE_FIGURES", str(figures))
        patch.syspath_prepend(str(COURSE))
        matplotlib.use("agg")

        def run(number: int) -> dict[str, Any]:
            if number not in done:
                [path] = COURSE.glob(f"{number}_*.py")
                done[number] = runpy.run_path(str(path))
            return done[number]

        yield run
    sys.modules.pop("lesson", None)


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_writes_the_figures_that_are_committed(lesson: Lesson, figures: Path, name: str) -> None:
    lesson(int(name[0]))
    written = {path.name for path in figures.glob(f"{name[0]}_*.png")}
    assert written == {path.name for path in (COURSE / "figures").glob(f"{name[0]}_*.png")}
    assert written


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_is_a_notebook_of_cells_with_questions_and_stands_in_the_table(name: str) -> None:
    text = (COURSE / f"{name}.py").read_text()
    assert text.count("\n# %%\n") >= 3
    assert f"# # {name[0]}. " in text
    assert "# ## Questions" in text.rsplit("# %% [markdown]", 1)[1]
    assert f"{name}.py" in (COURSE / "README.md").read_text()


def test_an_unknown_size_is_refused(lesson: Lesson, monkeypatch: pytest.MonkeyPatch) -> None:
    lesson(1)
    monkeypatch.setenv("COURSE_SIZE", "huge")
    with pytest.raises(ValueError, match="COURSE_SIZE=huge: expected lecture or tiny"):
        sys.modules["lesson"].choose(1, 2)


def test_gradient_descent_diverges_beyond_two_over_the_largest_eigenvalue(lesson: Lesson) -> None:
    found = lesson(1)
    # The halving stops at intervals of 1e-4.
    assert found["measured_bound"] == pytest.approx(found["bound"], abs=2e-4)
    # Near the limit the growth of a step is lost in float32, and the other eigenvalues still shrink.
    assert found["image_measured_bound"] == pytest.approx(found["image_bound"], abs=5e-3)
    assert found["measured_rate"] == pytest.approx(found["rate"], abs=5e-4)


@pytest.mark.parametrize("curves", ["curves", "image_curves"])
def test_a_small_step_crawls_a_good_one_converges_a_large_one_diverges(lesson: Lesson, curves: str) -> None:
    last = {name: float(curve[-1]) for name, curve in lesson(1)[curves].items()}
    assert last["converges"] < 0.2 * last["crawls"] < last["crawls"] < 1 < last["diverges"]
    assert last["converges"] < last["oscillates"] < 1


def test_optimizers_written_out_are_those_of_torch_and_both_momenta_agree(lesson: Lesson) -> None:
    differences = lesson(2)["differences"]
    assert set(differences) == {"momentum", "rmsprop", "adam", "heavy ball"}
    # Points are of size 1, in double precision, after 100 steps.
    assert max(differences.values()) < 1e-13


def test_momentum_is_fastest_near_the_beta_of_theory_and_widens_the_limit(lesson: Lesson) -> None:
    found = lesson(2)
    assert abs(found["best_beta"] - found["theory_beta"]) < 0.06  # the betas tried are 0.05 apart there
    assert found["needed"][0.0] > 5 * found["needed"][found["best_beta"]]
    assert found["needed"][0.99] > 5 * found["needed"][found["best_beta"]]
    for beta, limit in found["limits"].items():
        assert limit == pytest.approx(2 * (1 + beta), abs=0.005)  # halved to 0.002


def test_adam_settles_where_rmsprop_keeps_stepping(lesson: Lesson) -> None:
    found = lesson(2)
    assert found["first"] == pytest.approx(
        {"rmsprop": 10.0, "adam": 1.0}, rel=1e-5
    )  # eps is 1e-8 of a gradient of 0.01
    assert found["floors"]["adam", 0.0] < 1e-6
    assert found["floors"]["rmsprop", 0.0] > 0.1 * found["STEP"]
    assert min(found["floors"]["adam", 0.01], found["floors"]["rmsprop", 0.01]) > found["STEP"]


def test_norms_have_the_axes_of_their_definition_and_only_batch_norm_sees_the_batch(lesson: Lesson) -> None:
    found = lesson(3)
    assert set(found["differences"]) == {"batch", "instance", "group", "layer", "none"}
    # Values of size 1 in float32, from sums over up to a thousand elements.
    assert max(found["differences"].values()) < 5e-6
    dependences = dict(found["dependences"])
    assert dependences.pop("batch") > 0.01
    assert max(dependences.values()) < 5e-6
    assert found["alone"] < 5e-6  # in evaluation, batch norm does not either
    assert found["gaps"][-1] < 0.1 * found["gaps"][0]


def test_behind_a_norm_the_scale_of_weights_only_divides_the_gradient(lesson: Lesson) -> None:
    found = lesson(3)
    assert found["loss_1"] == pytest.approx(found["loss_10"], rel=1e-5)  # float32
    assert found["gradient_ratio"] == pytest.approx(10, rel=1e-4)
    assert abs(found["cosine"]) < 1e-4


def test_a_norm_makes_a_step_size_usable_that_is_not_without(lesson: Lesson) -> None:
    found = lesson(3)
    assert found["usable"][found["widest"]] > found["usable"]["none"]
    assert found["results"]["none"][-1] > 2 * min(finals[-1] for finals in found["results"].values())


def test_convolution_by_hand_is_torch_and_its_transpose_the_transposed_one(lesson: Lesson) -> None:
    found = lesson(4)
    assert found["num_cases"] >= 54
    assert found["worst"] < 1e-12  # double precision
    assert found["forward_dot"] == pytest.approx(found["transposed_dot"], rel=1e-12)


def test_the_convolution_theorem_holds_for_odd_and_even_sizes_and_a_mask_has_a_psf(lesson: Lesson) -> None:
    found = lesson(4)
    assert set(found["theorem_errors"]) == {(12, 16), (11, 15)}
    assert max(*found["theorem_errors"].values(), *found["length_errors"].values(), found["flatness"]) < 1e-12
    assert max(found["psf_errors"].values()) < 1e-10
    assert found["sidelobes"]["every third"] == pytest.approx(1, abs=1e-9)
    assert found["sidelobes"]["random, centre"] < found["sidelobes"]["equispaced, centre"] < 1


def test_gradcheck_passes_the_custom_gradient_and_catches_the_wrong_one(lesson: Lesson) -> None:
    found = lesson(5)
    assert found["passes"]
    assert found["passes_twice"]
    assert found["wrong_is_caught"]
    assert found["agreement"] < 1e-13


def test_the_jacobian_of_the_forward_model_is_what_its_adjoint_says(lesson: Lesson) -> None:
    found = lesson(5)
    assert found["jacobian_difference"] < 1e-13
    assert found["rank"] == int(found["columns_mask"].sum()) * found["H"]
    values = found["singular_values"]
    assert float((values - values.round()).abs().max()) < 1e-12
    assert found["dot_difference"] < 1e-12 < 1e-3 < found["wrong_difference"]


def test_a_black_pixel_has_a_gradient_and_the_trust_in_data_is_learned(lesson: Lesson) -> None:
    found = lesson(5)
    assert math.isnan(float(found["naive_gradient"].sum()))
    assert float(found["dark"].grad.abs().sum()) == 0
    assert found["learned_nu"] == pytest.approx(found["best_nu"], rel=0.05)  # the grid's points are 4.7 % apart
    assert found["errors"].min() < 0.95 * min(found["errors"][0], found["errors"][-1])


def test_compressed_sensing_and_the_unet_are_above_zero_filled(lesson: Lesson) -> None:
    scores = lesson(6)["scores"]
    for name in ("total variation", "U-Net"):
        assert scores[name].ssim > scores["zero-filled"].ssim + 0.03
        assert scores[name].psnr > scores["zero-filled"].psnr
        assert scores[name].nmse < scores["zero-filled"].nmse


def test_heads_to_learn_from_and_to_be_judged_by_are_others(lesson: Lesson) -> None:
    for number in (6, 7):
        found = lesson(number)
        assert not set(found["train"].volume.tolist()) & set(found["test"].volume.tolist())


def test_log_softmax_is_finite_where_softmax_is_not(lesson: Lesson) -> None:
    found = lesson(7)
    finite = {name: bool(values.isfinite().all()) for name, values in found["stability"].items()}
    assert finite == {"log of naive softmax": False, "log of shifted softmax": False, "log-softmax": True}
    assert max(found["loss_difference"], found["gradient_difference"]) < 1e-12


def test_the_classifier_beats_chance_on_unseen_heads_beyond_its_interval(lesson: Lesson) -> None:
    found = lesson(7)
    assert found["interval"][0] > found["chance"]
    assert int(found["confusion"].sum()) == len(found["truth"])
    assert float(found["confusion"].trace()) / len(found["truth"]) == pytest.approx(found["accuracy"])

"""The lessons of docs/course: each runs at its tiny size, and what it says it found is so."""

import math
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

matplotlib = pytest.importorskip("matplotlib", reason="the lessons draw: pip install matplotlib")

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
    assert found["first"] == pytest.approx({"rmsprop": 10.0, "adam": 1.0}, rel=1e-5)  # eps is 1e-8 of a gradient of 0.01
    assert found["floors"]["adam", 0.0] < 1e-6
    assert found["floors"]["rmsprop", 0.0] > 0.1 * found["STEP"]
    assert min(found["floors"]["adam", 0.01], found["floors"]["rmsprop", 0.01]) > found["STEP"]

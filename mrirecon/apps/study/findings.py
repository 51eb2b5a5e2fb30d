"""Findings of a part of a study, as sentences with numbers."""

from collections.abc import Callable, Sequence
from statistics import fmean, pstdev

import numpy as np

from mrirecon.apps.study.intervals import setting_difference, setting_interval
from mrirecon.apps.study.regimes import step_size
from mrirecon.apps.study.results import Family, PartResults, Setting, label_of, to_reach
from mrirecon.metrics.scores import SCORE_TABLE
from mrirecon.reports.statistics import ConfidenceInterval

_SSIM = SCORE_TABLE["ssim"]
_MOST_NAMES = 6  # in a sentence
_LEAST_TAIL = 3  # validations in the last quarter needed to state their variation


def findings(results: PartResults) -> list[str]:
    """Answers to the part's question, then general remarks."""
    answers = FINDERS[results.part.question](results) if results.ranked else []
    num_diverged = sum(run.is_diverged for run in results.runs)
    num_undefined = sum(not run.is_diverged and not run.is_sound for run in results.runs)
    if not results.ranked:
        answers.append("No setting ended with a score in every seed.")
    edge = [family.label for family in results.ranked if family.is_at_edge]
    if edge:
        answers.append(f"At the edge of the learning rates tried, so that better ones may lie beyond: {_list(edge)}.")
    if num_diverged:
        answers.append(f"{num_diverged} of {len(results.runs)} trainings diverged; they count as results.")
    if num_undefined:
        answers.append(f"{num_undefined} trainings ended with an undefined SSIM.")
    if results.num_missing:
        answers.append(f"{results.num_missing} trainings are missing: they were refused, or are not run yet.")
    return answers


def ranking(results: PartResults) -> list[str]:
    """The best family, those not distinguishable from it, and those behind it."""
    ranked = results.ranked
    first = _best(ranked[0])
    words = f"Best: {ranked[0].label}{_at_lr(first)}, SSIM {_with_interval(setting_interval(first))}"
    if first.zero_filled is not None:
        worse_than = " and is not reached" if (first.score or 0.0) <= first.zero_filled else ""
        words += f" (zero-filled {_ssim(first.zero_filled)}{worse_than})"
    groups: dict[str, list[str]] = {"equal": [], "behind": [], "unpaired": []}
    for family in ranked[1:]:
        groups[_compared(first, _best(family))].append(family.label)
    found = [f"{words}."]
    if groups["equal"]:
        found.append(f"Not to be told from it at this budget: {_list(groups['equal'])}.")
    if groups["behind"]:
        last = ranked[-1]
        several = any(len(_best(family).seeds) > 1 for family in ranked)
        found.append(
            f"Behind it by more than {'seeds and volumes explain' if several else 'volumes explain, with one seed'}: "
            f"{_list(groups['behind'])}; last is {last.label} with {_ssim(_best(last).score)}."
        )
    if groups["unpaired"]:
        found.append(f"Validated on other volumes, and so not compared with it: {_list(groups['unpaired'])}.")
    return found


def _compared(first: Setting, other: Setting) -> str:
    gap = setting_difference(first, other)
    if gap is None:
        return "unpaired"
    return "behind" if gap.low is not None and gap.low > 0 else "equal"


def batch(results: PartResults) -> list[str]:
    """Compares full batch with minibatch after the same number of slices."""
    ranked = results.ranked
    if len(ranked) < 2:
        return ranking(results)
    words = [
        f"{family.label}{_at_lr(_best(family))}: SSIM {_ssim(_best(family).score)} after "
        f"{_best(family).runs[0].content['num_steps']} steps"
        for family in ranked
    ]
    first, last = ranked[0], ranked[-1]
    found = [f"After {results.part.budget} passes over the same slices: {'; '.join(words)}."]
    target = _best(last).score
    assert target is not None
    slices = to_reach(_best(first).runs[0], target, "num_slices")
    whole = _best(last).runs[0].content["num_slices"]
    if slices and slices < whole:
        found.append(
            f"{first.label} was at the last one's {_ssim(target)} after {slices:.0f} of {whole} slices: "
            f"{whole / slices:.0f} times less computation."
        )
    return found


def momentum(results: PartResults) -> list[str]:
    """Effect of momentum's beta on the best step size and on speed."""
    found = []
    rows = [(_beta(family), family, _best(family)) for family in results.families if family.best is not None]
    for beta, _, setting in rows:
        rate = setting.lr
        effective = f", lr / (1 - beta) = {rate / (1 - beta):.2g}" if rate is not None and beta < 1 else ""
        found.append(f"beta {beta:g}: best at lr {rate:g}{effective}, SSIM {_ssim(setting.score)}")
    plain = next((setting for beta, _, setting in rows if beta == 0), None)
    text = ["; ".join(found) + "."] if found else []
    text += [_sped_up(results, family, plain) for beta, family, _ in rows if beta > 0 and plain is not None]
    return [sentence for sentence in text if sentence]


def _beta(family: Family) -> float:
    value = next((value for key, value in family.axes.items() if key.endswith("momentum")), None)
    return float(value) if isinstance(value, int | float) else 0.0


def _sped_up(results: PartResults, family: Family, plain: Setting) -> str:
    """Compares momentum with plain descent at equal learning rates."""
    same = next((s for s in family.settings if s.lr == plain.lr), None)
    low = next((s for s in family.settings if s.score is not None), None)
    without = next((s for f in results.families if _beta(f) == 0 for s in f.settings if low and s.lr == low.lr), None)
    parts = []
    if low and without and without.score is not None:
        parts.append(f"at the small step {low.lr:g} SSIM {_ssim(low.score)} against {_ssim(without.score)} without")
    if same is not None:
        state = "diverges" if same.score is None else f"is at {_ssim(same.score)}"
        parts.append(f"at {plain.lr:g}, the best step without, it {state} against {_ssim(plain.score)}")
    return f"beta {_beta(family):g}: {'; '.join(parts)}." if parts else ""


def normalization(results: PartResults) -> list[str]:
    """Width of the range of usable step sizes per norm."""
    if results.usable is None or results.zero_filled is None:
        return ["No training was better than zero-filled, so no step size works at this budget."]
    levels = results.zero_filled, results.usable
    found = [
        f"Decades of step sizes with an SSIM above zero-filled ({_ssim(levels[0])}), in brackets with half of the best "
        f"gain ({_ssim(levels[1])})."
    ]
    for others, families in _by(results, "norm").items():
        widths = {norm: [family.usable_decades(level) for level in levels] for norm, family in families.items()}
        texts = [
            f"{norm} {_decades(*wide)} ({_decades(*good)})"
            for norm, (wide, good) in sorted(widths.items(), key=lambda item: -item[1][0][0])
        ]
        found.append(f"{others or 'By norm'}: {', '.join(texts)}.")
    return found


def _decades(width: float, is_open: bool) -> str:
    return f"{'at least ' if is_open and width else ''}{width:.1f}"


def _by(results: PartResults, name: str) -> dict[str, dict[str, Family]]:
    """Families by label of all axes but one, then by the value of that one."""
    found: dict[str, dict[str, Family]] = {}
    for family in results.families:
        chosen = next((str(value) for key, value in family.axes.items() if key.rpartition(".")[2] == name), "all")
        rest = {key: value for key, value in family.axes.items() if key.rpartition(".")[2] != name}
        found.setdefault(label_of(rest), {})[chosen] = family
    return found


def near_optimum(results: PartResults) -> list[str]:
    """Variation of SSIM and loss at the end of runs with a constant learning rate."""
    found = []
    for family in results.ranked:
        setting = _best(family)
        tails = [_tail(run.curve("ssim")[1]) for run in setting.runs]
        noise = [_tail_noise(run.content["losses"]) for run in setting.runs]
        if min(map(len, tails)) < _LEAST_TAIL:
            return ranking(results)
        found.append(
            f"{family.label}{_at_lr(setting)}: SSIM {_ssim(setting.score)} at the end; in the last quarter its "
            f"validation SSIM varies by {_SSIM.shown(fmean(map(pstdev, tails)))} (standard deviation) and the loss "
            f"by {100 * fmean(noise):.1f} % from step to step."
        )
    return [*found, *ranking(results)]


def _tail(values: Sequence[float]) -> Sequence[float]:
    return values[-(len(values) // 4) :] if len(values) > 3 else []


def _tail_noise(losses: Sequence[float | None]) -> float:
    """Mean absolute change of the loss between steps over the mean loss, in the last quarter."""
    tail = _tail([loss for loss in losses if loss is not None])
    return float(np.mean(np.abs(np.diff(tail))) / np.mean(tail)) if len(tail) > 1 else 0.0


def against_baselines(results: PartResults) -> list[str]:
    """Compares the best family with each of the others, such as baselines without training."""
    ranked = results.ranked
    first = ranked[0]
    found = []
    for family in ranked[1:]:
        gap = setting_difference(_best(first), _best(family))
        if gap is None:
            return ranking(results)
        found.append(
            f"{first.label}{_at_lr(_best(first))} {_ssim(_best(first).score)} against "
            f"{family.label}{_at_lr(_best(family))} {_ssim(_best(family).score)}: "
            f"{_with_interval(gap, signed=True)} in SSIM."
        )
    return found or ranking(results)


FINDERS: dict[str, Callable[[PartResults], list[str]]] = {
    "": ranking,
    "step_size": step_size,
    "batch": batch,
    "momentum": momentum,
    "normalization": normalization,
    "near_optimum": near_optimum,
    "baselines": against_baselines,
}


def _best(family: Family) -> Setting:
    assert family.best is not None
    return family.best


def _at_lr(setting: Setting) -> str:
    return f" at {setting.chosen}" if setting.chosen else ""


def _with_interval(found: ConfidenceInterval, signed: bool = False) -> str:
    """A mean SSIM, or a difference of two, with its interval where it has one.  -> "0.7531 [0.7410, 0.7652]" """
    mean, low, high = (_SSIM.shown(value, signed=signed) for value in (found.mean, found.low, found.high))
    return mean if found.low is None else f"{mean} [{low}, {high}]"


def _ssim(value: float | None) -> str:
    return _SSIM.shown(value, undefined="undefined")


def _list(names: Sequence[str]) -> str:
    """Names joined as `a, b and c`; a long list ends with `N more`."""
    num_more = len(names) - _MOST_NAMES + 1
    shown = [*names] if num_more < 2 else [*names[: _MOST_NAMES - 1], f"{num_more} more"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))

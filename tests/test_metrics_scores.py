"""The table of scores is complete, and the only place that says how a score is named, shown and compared."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from mrirecon.metrics.scores import ALL_SCORES, MAIN_SCORES, SCORE_TABLE
from mrirecon.metrics.volume import VolumeScores

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for path in sorted((ROOT / "mrirecon").rglob("*.py")) if path.name != "scores.py" or "apps" in path.parts]
P_VALUE = ("reports/text.py", ".4f")  # a p-value is no score
SPEC = re.compile(r"[+]?\.\d[efg]")


def test_every_score_that_is_computed_is_in_the_table_and_improves_in_its_direction() -> None:
    torch.manual_seed(0)
    target = torch.rand(1, 200, 200)
    noise = torch.randn(1, 200, 200)
    found = []
    for level in (0.01, 0.2):
        scores = VolumeScores(ALL_SCORES)
        scores.update(target + level * noise, target, target.max()[None], torch.zeros(1), torch.zeros(1))
        found.append(scores.compute())
    for name, score in SCORE_TABLE.items():
        assert name == score.name
        assert score.sign * found[0][name] > score.sign * found[1][name]
        assert (score.sign == 1) == score.higher_is_better == (score.direction == "maximize")
    assert set(MAIN_SCORES) <= set(ALL_SCORES) == set(SCORE_TABLE)


def test_every_score_has_a_label_of_its_own_formats_and_a_convention() -> None:
    assert len({score.label for score in SCORE_TABLE.values()}) == len(SCORE_TABLE)
    for score in SCORE_TABLE.values():
        assert score.label == score.name.upper().replace("_", "-")
        assert SPEC.fullmatch(score.format_spec)
        assert SPEC.fullmatch(score.short_spec)
        assert "mean over volumes" in score.convention or "then over volumes" in score.convention


def test_a_score_is_shown_with_its_digits_and_its_unit() -> None:
    ssim, psnr = SCORE_TABLE["ssim"], SCORE_TABLE["psnr"]
    assert (ssim.heading, psnr.heading) == ("SSIM", "PSNR dB")
    assert (ssim.shown(0.75314), psnr.shown(1.2, signed=True), ssim.shown_short(0.75314)) == (
        "0.7531",
        "+1.20",
        "0.753",
    )
    assert (ssim.shown(None), ssim.shown(None, undefined="undefined")) == ("-", "undefined")


def test_evaluate_computes_all_scores_by_default() -> None:
    assert yaml.safe_load((ROOT / "conf" / "evaluate.yaml").read_text())["scores"] == list(ALL_SCORES)


def test_the_definitions_that_are_looked_for_are_found() -> None:
    source = '{"ssim": ".4f"}; {"psnr": -1}; {"nmse": "minimize"}; ("ssim", "psnr", "nmse"); f"{x:.4f}"; f"{x:{y}}"'
    assert len(list(definitions(ast.parse(source)))) == 5


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "mrirecon")))
def test_no_other_file_defines_a_format_or_a_direction_or_a_list_of_scores(path: Path) -> None:
    place = path.relative_to(ROOT / "mrirecon").as_posix()
    found = [text for text in definitions(ast.parse(path.read_text())) if (place, text) != P_VALUE]
    assert not found, f"{place}: {found}: take it from metrics/scores.py"


def test_no_template_formats_a_score() -> None:
    for path in (ROOT / "mrirecon").rglob("*.jinja"):
        assert not re.search(r"%[+]?\.\d[fg]|PSNR|NMSE", path.read_text()), path


def definitions(tree: ast.AST) -> Iterator[str]:
    """Formats of three or four digits, dicts from scores to formats, labels or directions, and lists of the scores."""
    for node in ast.walk(tree):
        match node:
            case ast.FormattedValue(format_spec=ast.JoinedStr(values=[ast.Constant(value=str(spec))])):
                if re.fullmatch(r"[+]?\.[34]f", spec):
                    yield spec
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and key.value in ALL_SCORES and is_plain(value):
                        yield ast.unparse(node)
                        break
            case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
                names = {item.value for item in items if isinstance(item, ast.Constant)}
                if set(MAIN_SCORES) <= names:
                    yield ast.unparse(node)


def is_plain(node: ast.expr) -> bool:
    """Whether it is a format, a label or a direction, written out."""
    return isinstance(node, ast.Constant | ast.UnaryOp) or (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Score"
    )

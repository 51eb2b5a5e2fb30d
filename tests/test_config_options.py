"""Several options of a group: spelt as one types them, a typo answered with the nearest names."""

import pytest

from mrirecon.config.options import chosen_options, spell_lists
from mrirecon.errors import ConfigError


def test_a_list_for_a_group_becomes_the_key_of_its_lists() -> None:
    typed = ["ckpt=a", "mask=[random_4x,random_8x]", "data.root=[A,B]", "--cfg=job"]
    assert spell_lists(typed, "evaluate") == ["ckpt=a", "masks=[random_4x,random_8x]", "data.root=[A,B]", "--cfg=job"]
    again = spell_lists(typed, "evaluate")
    assert spell_lists(again, "evaluate") == again  # other ranks are given what the first has rewritten
    assert spell_lists(["masks=null", "mask=random_4x"], "evaluate") == ["masks=null", "mask=random_4x"]


@pytest.mark.parametrize(
    ("command", "typed", "words"),
    [
        ("train", ["mask=[random_4x,random_8x]"], "train takes no list"),
        ("evaluate", ["data=[phantom,simulated]"], "expected one option of conf/data"),
        ("evaluate", ["mask=[random_4x]", "mask.accelerations=[3]"], "mask.accelerations"),
        ("evaluate", ["masks=[random_4x]", "mask=random_8x"], "leave one out"),
        ("evaluate", ["mask=[random_4x]", "+mask.offset=1"], "leave one out"),
    ],
)
def test_what_a_list_cannot_mean_is_refused(command: str, typed: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        spell_lists(typed, command)


def test_options_are_found_by_name() -> None:
    found = chosen_options("mask", ["random_8x", "equispaced_4x"])
    assert [node.accelerations[0] for node in found.values()] == [8, 4]
    assert chosen_options("mask", None) == {}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["random_4x", "random4x"], "did you mean random_4x"),
        ("random_4x", "expected a list"),
        ([], "expected a list"),
        (["random_4x", "random_4x"], "each once"),
        (["file"], "no value for path"),
        ([4], "no such option"),
        (["../data/phantom"], "no such option"),
    ],
)
def test_an_option_that_is_not_there_is_refused(names: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        chosen_options("mask", names)

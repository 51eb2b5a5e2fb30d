"""Writing results: a folder that can take them, or a refusal that names the option."""

import os
import re
from pathlib import Path

import pytest

from mrirecon.errors import ConfigError
from mrirecon.system.atomic import output_folder


def test_the_folder_for_results_is_made_with_those_above_it(tmp_path: Path) -> None:
    assert output_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()
    output_folder(tmp_path)  # one that is there is taken as it is


@pytest.mark.parametrize("option", ["output=", "--output "])
def test_what_cannot_be_a_folder_is_refused_by_the_option_that_named_it(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=f"^{re.escape(option + str(tmp_path))}.*file: cannot be made a folder"):
        output_folder(tmp_path / "file", option)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ConfigError, match="is not writable: choose another folder"):
        output_folder(tmp_path)

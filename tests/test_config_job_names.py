"""Names of the runs of a multirun."""

import pytest

from mrirecon.config.job_names import name_jobs


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (["-m", "optimizer=sgd,adam"], "${hydra:job.num}_${hydra:runtime.choices.optimizer}"),
        (["model.norm=none,group", "--multirun"], "${hydra:job.num}_${model.norm}"),
        (["-m", "seed=range(0,3)", "model.chans=8"], "${hydra:job.num}_${seed}"),
        (["-m", "mask.accelerations=[4,8]", "a=[0.9,0.99],[0.8,0.9]"], "${hydra:job.num}_${a}"),
        (["-m", "data.root=a/x,a/y"], "${hydra:job.num}"),
        (["-m", "data.files='a,b'"], "${hydra:job.num}"),
    ],
)  # fmt: skip
def test_the_folders_of_a_multirun_are_named_by_what_differs(typed: list[str], named: str) -> None:
    assert name_jobs(typed) == [*typed, f"hydra.sweep.subdir={named}"]


@pytest.mark.parametrize("typed", [["optimizer=adam"], [], ["-m", "seed=1,2", "hydra.sweep.subdir=a"]])
def test_nothing_is_named_where_there_is_one_run_or_a_name(typed: list[str]) -> None:
    assert name_jobs(typed) == typed

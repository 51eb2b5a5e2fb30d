"""Scores per volume: fastmri is the reference; batches, order, repeats and ranks must not move a bit."""

import math
import multiprocessing
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_laplace
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from mrirecon.errors import ConfigError, InputError
from mrirecon.metrics.scores import ALL_SCORES
from mrirecon.metrics.volume import VolumeScores

NUM_SLICES = [3, 1, 4]


def slices() -> dict[str, Tensor]:
    """Three volumes of eight slices in all, one tensor per argument of `update`."""
    generator = torch.Generator().manual_seed(0)
    num = torch.tensor(NUM_SLICES)
    volume = torch.arange(3).repeat_interleave(num)
    target = torch.rand(8, 11, 13, generator=generator) * (1 + volume)[:, None, None]
    maxima = torch.stack([target[volume == v].max() for v in range(3)])
    return {
        "pred": target + 0.1 * torch.randn(8, 11, 13, generator=generator),
        "target": target,
        "data_range": maxima[volume],
        "volume": volume,
        "slice_num": torch.cat([torch.arange(n) for n in NUM_SLICES]),
        "loss": torch.rand(8, generator=generator),
    }


def updated(scores: VolumeScores, batches: list[list[int]]) -> VolumeScores:
    everything = slices()
    for batch in batches:
        scores.update(**{name: values[batch] for name, values in everything.items()})
    return scores


def one_volume(pred: Tensor, target: Tensor, data_range: float | None = None) -> dict[str, Any]:
    """The scores of a volume alone.  (b y x), (b y x) -> what `compute` gives"""
    scores = VolumeScores()
    maximum = target.max() if data_range is None else torch.tensor(data_range)
    scores.update(pred, target, maximum.expand(len(pred)), torch.zeros(len(pred)), torch.arange(len(pred)))
    return scores.compute()


def test_scores_are_fastmris() -> None:
    import fastmri.evaluate  # here, because every rank of the test below imports this file

    found = updated(VolumeScores(), [list(range(8))]).compute()
    everything = slices()
    for index, volume in enumerate(found["volumes"]):
        chosen = everything["volume"] == index
        pred, target = (everything[name][chosen].double().numpy() for name in ("pred", "target"))
        assert (volume["volume"], volume["num_slices"]) == (index, NUM_SLICES[index])
        assert volume["data_range"] == target.max()
        assert volume["ssim"] == pytest.approx(fastmri.evaluate.ssim(target, pred).item(), abs=1e-12)
        assert volume["psnr"] == pytest.approx(fastmri.evaluate.psnr(target, pred), abs=1e-10)
        assert volume["nmse"] == pytest.approx(fastmri.evaluate.nmse(target, pred).item(), rel=1e-12)
        assert volume["loss"] == pytest.approx(everything["loss"][chosen].double().mean().item())
        assert volume["undefined"] == {}
    for score in ("ssim", "psnr", "nmse"):
        assert found[score] == pytest.approx(sum(volume[score] for volume in found["volumes"]) / 3)
    assert found["loss"] == pytest.approx(everything["loss"].double().mean().item())  # over slices, not over volumes
    assert found["num_undefined"] == 0


@pytest.mark.parametrize(
    "batches",
    [
        [[0, 1, 2], [3, 4, 5], [6, 7]],
        [[i] for i in range(8)],
        [[7, 2, 5], [0], [6, 4, 1, 3]],
        [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1], [7, 7]],
    ],
    ids=["threes", "ones", "shuffled", "repeated"],
)
def test_batch_size_order_and_repeats_move_no_bit(batches: list[list[int]]) -> None:
    assert updated(VolumeScores(), batches).compute() == updated(VolumeScores(), [list(range(8))]).compute()


def test_scores_can_be_read_midway_and_start_afresh_after_reset() -> None:
    scores = updated(VolumeScores(), [[0, 1, 2]])
    assert len(scores.compute()["volumes"]) == 1
    assert updated(scores, [[3, 4, 5, 6, 7]]).compute() == updated(VolumeScores(), [list(range(8))]).compute()
    scores.reset()
    assert updated(scores, [[3]]).compute()["volumes"][0]["volume"] == 1


def test_sums_stay_in_float64_inside_a_module_of_half_precision() -> None:
    module = nn.ModuleDict({"scores": VolumeScores()}).to(torch.bfloat16)
    scores = module["scores"]
    assert isinstance(scores, VolumeScores)
    assert updated(scores, [list(range(8))]).compute() == updated(VolumeScores(), [list(range(8))]).compute()


def test_further_scores_are_their_formulas_over_the_whole_volume() -> None:
    everything = slices()
    scores = updated(VolumeScores(("mae", "hfen", "mse")), [[0, 1, 2], [3, 4, 5, 6, 7]])
    found = scores.compute()
    for index, volume in enumerate(found["volumes"]):
        pred, target = (everything[name][everything["volume"] == index].double() for name in ("pred", "target"))
        error = pred - target
        assert volume["mse"] == pytest.approx(error.square().mean().item(), rel=1e-13)
        assert volume["mae"] == pytest.approx(error.abs().mean().item(), rel=1e-13)
        by_log = [[gaussian_laplace(s, 1.5, truncate=14 / 3) for s in v.numpy()] for v in (error, target)]
        assert volume["hfen"] == pytest.approx(np.linalg.norm(by_log[0]) / np.linalg.norm(by_log[1]), rel=1e-11)
    for score in scores.scores:
        assert found[score] == pytest.approx(sum(volume[score] for volume in found["volumes"]) / 3)
    assert not {"ssim", "psnr", "nmse", "ms_ssim"} & (set(found) | set(found["volumes"][0]))


def test_further_scores_leave_the_core_ones_alone_and_keep_their_bits_in_any_batch() -> None:
    found = updated(VolumeScores(ALL_SCORES), [list(range(8))]).compute()
    core = updated(VolumeScores(), [list(range(8))]).compute()
    assert all(found[name] == core[name] for name in ("ssim", "psnr", "nmse", "loss"))
    assert updated(VolumeScores(ALL_SCORES), [[7, 2, 5], [0], [6, 4, 1, 3]]).compute() == found


def test_ms_ssim_has_a_value_where_five_scales_fit_and_a_reason_where_not() -> None:
    target = torch.rand(2, 176, 180)
    scores = VolumeScores(ALL_SCORES)
    scores.update(target + 0.1 * torch.rand(2, 176, 180), target, torch.ones(2), torch.zeros(2), torch.arange(2))
    scores.update(target[:, :175], target[:, 1:], torch.ones(2), torch.ones(2), torch.arange(2))
    found = scores.compute()
    assert 0.5 < found["volumes"][0]["ms_ssim"] < 1
    assert found["ms_ssim"] == found["volumes"][0]["ms_ssim"]
    assert (found["volumes"][1]["ms_ssim"], found["num_undefined"]) == (None, 1)
    assert found["volumes"][1]["undefined"] == {
        "ms_ssim": "five scales need at least 176 pixels each way, but a slice has 175"
    }


def test_a_black_volume_has_no_score_but_its_errors() -> None:
    scores = VolumeScores(ALL_SCORES)
    scores.update(torch.full((2, 9, 9), 0.5), torch.zeros(2, 9, 9), torch.zeros(2), torch.zeros(2), torch.arange(2))
    found = scores.compute()
    assert (found["mse"], found["mae"]) == (0.25, 0.5)
    assert all(found[name] is None for name in ("ssim", "psnr", "nmse", "ms_ssim", "hfen"))
    assert found["num_undefined"] == 5


def test_slices_that_are_flat_each_have_no_edges_to_compare() -> None:
    target = torch.stack([torch.zeros(9, 9), torch.full((9, 9), 0.1)])
    scores = VolumeScores(("hfen",))
    scores.update(torch.rand(2, 9, 9), target, torch.full((2,), 0.1), torch.zeros(2), torch.arange(2))
    (volume,) = scores.compute()["volumes"]
    assert volume["hfen"] is None
    assert volume["undefined"] == {"hfen": "every slice of the target is of one value: it has no edges"}


@pytest.mark.parametrize("scores", [(), ("ssim", "ssim"), ("ssim", "lpips"), "ssim"])
def test_scores_that_do_not_exist_are_refused(scores: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="out of ssim, psnr, nmse, mse, mae, ms_ssim, hfen, but is"):
        VolumeScores(scores)


def test_a_volume_gives_the_numbers_of_its_slices() -> None:
    found = updated(VolumeScores(), [[7, 2, 5], [0], [6, 4, 1, 3]]).compute()
    for volume, count in zip(found["volumes"], NUM_SLICES, strict=True):
        rows = volume["slices"]
        assert rows["slice_num"] == list(range(count))
        assert math.fsum(rows["ssim"]) / count == volume["ssim"]
        assert math.fsum(rows["squared_error"]) / (count * 11 * 13) == pytest.approx(
            volume["data_range"] ** 2 / 10 ** (volume["psnr"] / 10)
        )
    alone = updated(VolumeScores(("psnr",)), [list(range(8))]).compute()
    assert set(alone["volumes"][0]["slices"]) == {"slice_num", "squared_error"}


def test_loss_is_none_where_none_was_given() -> None:
    found = one_volume(torch.rand(2, 9, 9), torch.rand(2, 9, 9))
    assert found["loss"] is None
    assert found["volumes"][0]["loss"] is None


def test_a_black_volume_has_no_scores_and_is_in_no_mean() -> None:
    scores = updated(VolumeScores(), [list(range(8))])
    before = scores.compute()
    black = torch.zeros(2, 9, 9)
    scores.update(black + 0.1, black, torch.zeros(2), torch.full((2,), 3), torch.arange(2))
    found = scores.compute()
    assert {name: found[name] for name in ("ssim", "psnr", "nmse")} == {
        name: before[name] for name in ("ssim", "psnr", "nmse")
    }
    assert found["num_undefined"] == 3
    assert found["volumes"][3] | {"undefined": None} == {
        "volume": 3,
        "num_slices": 2,
        "data_range": 0.0,
        "ssim": None,
        "psnr": None,
        "nmse": None,
        "loss": None,
        "undefined": None,
        "slices": {"slice_num": [0, 1], "ssim": [None, None], "squared_error": [pytest.approx(81 * 0.01)] * 2},
    }
    assert found["volumes"][3]["undefined"] == {
        "ssim": "the data range is 0, not a positive number",
        "psnr": "the data range is 0, not a positive number",
        "nmse": "the target is zero everywhere",
    }


def test_means_are_none_where_every_volume_is_undefined() -> None:
    found = one_volume(torch.zeros(1, 9, 9), torch.zeros(1, 9, 9))
    assert (found["ssim"], found["psnr"], found["nmse"], found["num_undefined"]) == (None, None, None, 3)


def test_a_constant_target_has_no_ssim_but_an_error() -> None:
    target = torch.full((2, 9, 9), 2.0)
    (volume,) = one_volume(target + 0.5, target)["volumes"]
    assert volume["ssim"] is None
    assert volume["undefined"] == {"ssim": "the target is 2 everywhere: it has no structure to compare"}
    assert volume["nmse"] == pytest.approx(0.0625)
    assert volume["psnr"] == pytest.approx(20 * math.log10(4))


def test_a_black_slice_in_a_volume_with_signal_counts() -> None:
    target = torch.rand(2, 9, 9)
    target[1] = 0
    (volume,) = one_volume(target, target)["volumes"]
    assert (volume["ssim"], volume["nmse"], volume["num_slices"]) == (1.0, 0.0, 2)
    assert volume["undefined"] == {"psnr": "pred and target are equal: the ratio is infinite"}


def test_a_nan_in_a_pred_is_not_hidden() -> None:
    target = torch.rand(2, 9, 9)
    pred = target.clone()
    pred[1, 4, 4] = torch.nan
    found = one_volume(pred, target)
    assert all(math.isnan(found[score]) for score in ("ssim", "psnr", "nmse"))
    assert found["num_undefined"] == 0


def test_slices_of_a_volume_must_agree_on_its_data_range() -> None:
    scores = VolumeScores()
    scores.update(torch.rand(2, 9, 9), torch.rand(2, 9, 9), torch.tensor([1.0, 2.0]), torch.ones(2), torch.arange(2))
    with pytest.raises(InputError, match="slices of volume 1 have different data ranges, 1 to 2"):
        scores.compute()


def test_data_ranges_may_differ_by_the_rounding_of_a_change_of_units() -> None:
    target = torch.rand(2, 9, 9)
    data_range = torch.tensor([0.99, 0.99 + 6e-8])  # neighbours in float32
    scores = VolumeScores()
    scores.update(target, target, data_range, torch.zeros(2), torch.arange(2))
    assert data_range[0] != data_range[1]
    assert scores.compute()["volumes"][0]["data_range"] == data_range.max().item()


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(InputError, match="no slice was evaluated"):
        VolumeScores().compute()


# Uneven shares; rank 0, the one that would warn, has none; slices 2 and 7 are dealt twice.
SHARES: list[list[list[int]]] = [[], [[7, 2], [0, 1]], [[3, 4, 5], [6], [2, 7]]]
# Two volumes, three ranks, and every score: the empty rank must send rows of the same width.
FEW: list[list[list[int]]] = [[], [[2], [0, 3]], [[1]]]


def score_my_share(rank: int, meeting: str, folder: str) -> None:
    warnings.simplefilter("error")
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=3)
    pair = torch.distributed.new_group([1, 2])
    found = [updated(VolumeScores(), SHARES[rank]).compute()]
    if rank > 0:
        found.append(updated(VolumeScores(process_group=pair), SHARES[rank]).compute())
    few = updated(VolumeScores(ALL_SCORES), FEW[rank]).compute()
    torch.save((found, few), Path(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


def test_two_and_three_ranks_with_uneven_shares_give_the_bits_of_one(tmp_path: Path) -> None:
    arguments = ((tmp_path / "meeting").as_uri(), str(tmp_path))
    multiprocessing.set_forkserver_preload(
        ["mrirecon.metrics.volume"]
    )  # the ranks share one slow import of torchmetrics
    start_processes(score_my_share, arguments, nprocs=3, start_method="forkserver")
    alone = updated(VolumeScores(), [list(range(8))]).compute()
    few_alone = updated(VolumeScores(ALL_SCORES), [[0, 1, 2, 3]]).compute()
    for rank in range(3):
        found, few = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(scores == alone for scores in found)
        assert few == few_alone

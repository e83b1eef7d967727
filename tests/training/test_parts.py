"""What the loop is made of: rates, average, order of clips, seeds, and the geometry between views."""

import math
import random
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from matchcut.data.clips import ClipConfig, draw_maps, warp
from matchcut.errors import TrainingError
from matchcut.training.config import OptimiserConfig, ScheduleConfig
from matchcut.training.distributed import seed_all
from matchcut.training.loading import keys_of_steps
from matchcut.training.optimisation import Average, clip_gradients, make_optimiser, rate_factor, set_rates
from matchcut.training.views import grid_between, to_images


def small() -> nn.Module:
    return nn.ModuleDict({"body": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "bodyguard": nn.Linear(2, 1)})


def test_the_longest_name_that_fits_decides_the_rate() -> None:
    network = small()
    config = OptimiserConfig(rate=1.0, rates={"body": 0.5, "body.1": 0.25, "body.1.bias": 0.0})
    optimiser = make_optimiser(network, config)
    set_rates(optimiser, 0.1)
    rates = {id(one): group["lr"] for group in optimiser.param_groups for one in group["params"]}
    names = {name: rates.get(id(one)) for name, one in network.named_parameters()}
    assert names == {
        "body.0.weight": 0.05,
        "body.0.bias": 0.05,
        "body.1.weight": 0.025,
        "body.1.bias": None,
        "bodyguard.weight": 0.1,
        "bodyguard.bias": 0.1,
    }
    assert [name for name, one in network.named_parameters() if not one.requires_grad] == ["body.1.bias"]


def test_rates_for_parts_that_are_not_there_are_an_error() -> None:
    with pytest.raises(TrainingError, match="no part 'bod'; there are body, bodyguard"):
        make_optimiser(small(), OptimiserConfig(rates={"bod": 1.0}))
    with pytest.raises(TrainingError, match="nothing would be trained"):
        make_optimiser(small(), OptimiserConfig(rate=0.0))


def test_schedules() -> None:
    step = ScheduleConfig("step", every=100, factor=0.5)
    assert [rate_factor(step, epoch * 7, 7, 400) for epoch in (0, 99, 100, 199, 200, 399)] == [
        1,
        1,
        0.5,
        0.5,
        0.25,
        0.125,
    ]
    assert rate_factor(step, 100 * 7 - 1, 7, 400) == 1
    cosine = ScheduleConfig("cosine", warmup=2)
    factors = [rate_factor(cosine, at, 5, 12) for at in range(60)]
    assert factors[:10] == pytest.approx([0.1 * (at + 1) for at in range(10)])
    assert factors[35] == pytest.approx(0.5)
    assert factors[59] == pytest.approx(0.5 + 0.5 * math.cos(math.pi * 49 / 50))
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert {rate_factor(ScheduleConfig(), at, 5, 12) for at in range(60)} == {1.0}


def test_gradients_are_scaled_to_the_largest_norm_and_their_own_is_told() -> None:
    network = nn.Linear(2, 1)
    for largest, after in ((0.0, 5.0), (10.0, 5.0), (1.0, 1.0)):
        network.weight.grad, network.bias.grad = torch.tensor([[3.0, 4.0]]), torch.zeros(1)
        assert clip_gradients(network, largest).item() == pytest.approx(5.0)
        assert network.weight.grad.norm().item() == pytest.approx(after, rel=1e-4)


def test_the_average_is_the_exponential_one_of_weights_and_statistics() -> None:
    network = nn.BatchNorm1d(1)
    average, expected = Average(network, 0.5), 1.0
    for step in range(1, 6):
        with torch.no_grad():
            network.weight.fill_(step)
            network.num_batches_tracked.fill_(step)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.state["weight"].item() == pytest.approx(expected)
    assert average.state["num_batches_tracked"].item() == 5


def test_clips_of_all_processes_and_parts_follow_each_other() -> None:
    def of(batch_size: int, accumulate: int, processes: int) -> list[list[tuple[int, int]]]:
        ranks = [
            list(keys_of_steps(range(1, 5), 3, batch_size, accumulate, rank, processes)) for rank in range(processes)
        ]
        batches = [list(chain(*together)) for together in zip(*ranks, strict=True)]
        return [list(chain(*batches[at : at + accumulate])) for at in range(0, len(batches), accumulate)]

    whole = of(8, 1, 1)
    assert whole[0] == [(0, index) for index in range(8, 16)] and whole[2] == [(1, index) for index in range(8)]
    assert of(4, 2, 1) == of(4, 1, 2) == of(2, 2, 2) == whole


def test_seeds_decide_all_three_generators() -> None:
    def numbers(*seed: int, rank: int = 0) -> tuple[float, ...]:
        seed_all(*seed, rank=rank)
        return torch.rand(1).item(), float(np.random.rand()), random.random()

    assert numbers(0, 5, 0, 13) == numbers(0, 5, 0, 13)
    different = [
        numbers(0, 5, 0, 13),
        numbers(0, 5, 1, 13),
        numbers(0, 6, 0, 13),
        numbers(1, 5, 0, 13),
        numbers(0, 5, 12),
    ]
    assert all(len(set(column)) == len(different) for column in zip(*different, strict=True))
    processes = [numbers(0, 5, 13, rank=rank) for rank in range(3)]  # torch's alone are each one's own
    assert [len(set(column)) for column in zip(*processes, strict=True)] == [3, 1, 1]


@pytest.mark.parametrize("autocast", [False, True])
def test_grids_lead_to_the_same_place_in_frame_and_other_view(autocast: bool) -> None:
    rows, columns = np.mgrid[0:60, 0:90]
    frame = np.stack([rows * 4, columns * 2.8, np.full((60, 90), 7)], axis=-1).round().astype(np.uint8)
    config = ClipConfig(size=(32, 40), scale=(0.4, 0.7), rotation=20, shake=0.1)
    maps = draw_maps(np.random.default_rng(3), config, frame.shape[:2], 2)
    one, other = (to_images(torch.from_numpy(warp(frame, each, config.size)))[None] for each in maps)
    first, second = (torch.from_numpy(each)[None] for each in maps)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        in_frame = grid_between(first, (8, 10), config.size)
        in_other = grid_between(first, (8, 10), config.size, second)
    here = F.interpolate(one, size=(8, 10), mode="area")
    from_frame = F.grid_sample(to_images(torch.from_numpy(frame))[None], in_frame, align_corners=False)
    from_other = F.grid_sample(other, in_other, align_corners=False)
    inside, seen = (grid.abs().amax(-1)[:, None] < 0.9 for grid in (in_frame, in_other))
    assert inside.float().mean() > 0.5 and seen.float().mean() > 0.4
    torch.testing.assert_close(from_frame * inside, here * inside, atol=0.012, rtol=0)
    both = inside & seen
    torch.testing.assert_close(from_other * both, here * both, atol=0.012, rtol=0)
    squares = [np.vstack([each, [0, 0, 1]]) for each in maps]
    corner = (np.linalg.inv(squares[1]) @ squares[0] @ [2, 2, 1])[:2]  # the centre of the first cell
    assert (in_other[0, 0, 0].double().numpy() + 1) / 2 * (40, 32) == pytest.approx(corner, abs=1e-3)

"""Affinity against a slow reference that is obviously right, and by the contract all matches keep.

float32 scores of two routes differ in their last bits, so which of two nearly equal cells is the last one kept is open:
`agrees` compares whole rows where nothing is that close, and the scores of the chosen cells everywhere.
"""

import importlib
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from matchcut.errors import ShapeError
from matchcut.matching import Affinity, Match, affinity, join
from matchcut.matching.cpu.products import KEYS, LANES, compare
from matchcut.matching.cpu.quantise import LEVELS, quantise

MODULE = importlib.import_module("matchcut.matching.search")
NEAR = 1e-5


# --- the reference


def window_mask(size: tuple[int, int], radius: float | None, window: str, reference: tuple[int, int]) -> Tensor:
    """(H * W, h * w): whether a reference cell lies in the window of a query cell, said cell by cell."""
    rows = []
    for y in range(size[0]):
        for x in range(size[1]):
            row = []
            for v in range(reference[0]):
                for u in range(reference[1]):
                    if radius is None:
                        row.append(True)
                    elif window == "disc":
                        row.append(math.hypot(v - y, u - x) < radius)
                    else:
                        row.append(abs(v - y) <= radius and abs(u - x) <= radius)
            rows.append(row)
    return torch.tensor(rows, dtype=torch.bool).reshape(size[0] * size[1], -1)


def all_scores(query: Tensor, references: list[Tensor], radii: list[float | None], window: str) -> Tensor:
    """(B, H * W, T * h * w) inner products, -inf outside the windows."""
    scores = torch.cat([torch.einsum("bcq,bcr->bqr", query.flatten(2), one.flatten(2)) for one in references], 2)
    masks = {r: window_mask(query.shape[2:], r, window, references[0].shape[2:]) for r in set(radii)}
    return scores.masked_fill(~torch.cat([masks[r] for r in radii], 1), -torch.inf)


def slow(
    query: Tensor, references: list[Tensor], top_k: int, temperature: float, radii: list[float | None], window: str
) -> Tensor:
    """The dense affinity matrix: all scores, the top-k of each row, a softmax over those."""
    scores = all_scores(query, references, radii, window)
    kept = scores.topk(min(top_k, scores.shape[2]), dim=2)
    chosen = torch.full_like(scores, -torch.inf).scatter(2, kept.indices, kept.values)
    return (chosen / temperature).softmax(dim=2)


def agrees(
    match: Affinity,
    query: Tensor,
    references: list[Tensor],
    *,
    top_k: int = 10,
    temperature: float = 0.05,
    radii: list[float | None] | None = None,
    window: str = "disc",
    near: float = NEAR,
) -> float:
    """Assert that a match is the reference's, to 1e-5; the share of rows that could be compared whole."""
    radii = radii or [None] * len(references)
    query, references = query.detach().double(), [one.detach().double() for one in references]
    scores = all_scores(query, references, radii, window)
    kept = min(top_k, scores.shape[2])
    assert match.indices.shape == match.weights.shape == (*scores.shape[:2], kept)
    assert match.indices.dtype == torch.int64
    weights = match.weights.detach().double()
    torch.testing.assert_close(weights.sum(2), torch.ones_like(weights[..., 0]), atol=1e-5, rtol=0)
    assert (weights >= 0).all()

    # Every weight above 0 lies on a cell of the window, and no cell is chosen twice.
    found = scores.gather(2, match.indices)
    assert (found[weights > 0] > -torch.inf).all()
    assert not match.residual.any() and match.residual.shape == (len(query),)
    dense = match.dense().detach().double()
    assert dense.shape == scores.shape
    assert ((dense > 0).sum(2) == (weights > 0).sum(2)).all()

    # The chosen cells are the best ones, and the weights are the softmax of their scores.
    best = scores.topk(kept, dim=2).values
    found = found.masked_fill(match.weights.detach() == 0, -torch.inf).sort(dim=2, descending=True).values
    present = (best - best[..., :1]) / temperature > -60  # float32 softmax says 0 far below the best
    torch.testing.assert_close(found[present], best[present], atol=near, rtol=0)
    soft = (best / temperature).softmax(dim=2)
    torch.testing.assert_close(weights.sort(dim=2, descending=True).values, soft, atol=1e-5, rtol=0)

    # Whole rows, where the last cell kept is clearly ahead of the first one left out.
    order = scores.sort(dim=2, descending=True).values
    clear = torch.ones(scores.shape[:2], dtype=torch.bool)
    if kept < scores.shape[2]:
        clear = ~(order[..., kept - 1] - order[..., kept] < near)  # nan, of two -inf, is clear
    expected = slow(query, references, top_k, temperature, radii, window)
    torch.testing.assert_close(dense[clear], expected[clear], atol=1e-5, rtol=0)
    return clear.double().mean().item()


def features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """L2-normalised random features."""
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(numbers, dim=1).to(dtype)


def values_for(match: Affinity, channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    shape = (len(match.indices), channels, *match.reference_shape)
    return torch.rand(shape, generator=torch.Generator().manual_seed(9)).to(dtype)


def by_dense(match: Affinity, values: Tensor) -> Tensor:
    """`dense() @ v`, in the query's shape."""
    carried = match.dense().to(values) @ values.flatten(2).transpose(1, 2)  # (B, Q, C)
    return carried.transpose(1, 2).reshape(*values.shape[:2], *match.query_shape)


@pytest.fixture
def spied(monkeypatch):
    """Every block of scores that the plain search makes: (query cells, reference cells)."""
    calls: list[tuple[int, int]] = []
    original = MODULE._block_scores

    def scores(*settings):
        made = original(*settings)
        calls.append(tuple(made.shape))
        return made

    monkeypatch.setattr(MODULE, "_block_scores", scores)
    return calls


# --- equal to the reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("window", "radii"),
    [
        ("disc", [None]),
        ("disc", [1.0]),
        ("disc", [3]),
        ("disc", [4.5]),
        ("square", [0]),
        ("square", [2]),
        ("square", [2.5]),
        ("disc", [None, 3, 3]),
        ("disc", [3, None]),
        ("square", [2, None, 5, None]),
        ("disc", [2, 50]),
        ("square", [None, None]),
    ],
)
def test_equals_the_slow_reference(window, radii, dtype):
    query = features(2, 33, 11, 19, dtype=dtype)
    references = [features(2, 33, 11, 19, seed=1 + i, dtype=dtype) for i in range(len(radii))]
    match = affinity(query, references, top_k=5, radius=radii, window=window)
    assert isinstance(match, Match)
    assert agrees(match, query, references, top_k=5, radii=radii, window=window) > 0.98
    values = values_for(match)
    torch.testing.assert_close(match.apply(values), by_dense(match, values), atol=1e-6, rtol=0)


def test_equals_the_slow_reference_to_the_last_bits_in_float64():
    query = features(1, 7, 13, 9, dtype=torch.float64)
    references = [features(1, 7, 13, 9, seed=1 + i, dtype=torch.float64) for i in range(2)]
    for window in ("disc", "square"):
        match = affinity(query, references, top_k=6, temperature=0.1, radius=[None, 3], window=window)
        expected = slow(query, references, 6, 0.1, [None, 3], window)
        torch.testing.assert_close(match.dense(), expected, atol=1e-12, rtol=0)


@st.composite
def problems(draw):
    height, width, channels = draw(st.integers(1, 19)), draw(st.integers(1, 19)), draw(st.integers(1, 40))
    window = draw(st.sampled_from(["disc", "square"]))
    lowest = 0.25 if window == "disc" else 0
    radius = st.one_of(st.none(), st.floats(lowest, 25, width=16), st.integers(1, 25))
    radii = draw(st.lists(radius, min_size=1, max_size=3))
    reference = (height, width)
    if all(r is None for r in radii):
        reference = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    seed, batch = draw(st.integers(0, 2**16)), draw(st.integers(1, 2))
    query = features(batch, channels, height, width, seed=seed)
    references = [features(batch, channels, *reference, seed=seed + 1 + i) for i in range(len(radii))]
    return query, references, radii, window


@settings(max_examples=60)
@given(problems(), st.integers(1, 70), st.sampled_from([0.02, 0.07, 1.0]), st.booleans())
def test_equals_the_slow_reference_on_anything(problem, top_k, temperature, stacked):
    query, references, radii, window = problem
    given_as = torch.stack(references, 2) if stacked else references
    match = affinity(query, given_as, top_k=top_k, temperature=temperature, radius=radii, window=window)
    agrees(match, query, references, top_k=top_k, temperature=temperature, radii=radii, window=window)
    values = values_for(match)
    torch.testing.assert_close(match.apply(values), by_dense(match, values), atol=1e-5, rtol=0)


# --- relations


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_is_a_loop_over_items(dtype):
    query, reference = features(3, 16, 9, 10, dtype=dtype), features(3, 16, 2, 9, 10, seed=1, dtype=dtype)
    settings = {"top_k": 4, "radius": [None, 3]}
    match = affinity(query, reference, **settings)
    values = values_for(match)
    for item in range(3):
        one = slice(item, item + 1)
        single = affinity(query[one], reference[one], **settings)
        assert torch.equal(match.indices[one], single.indices)
        assert torch.equal(match.weights[one], single.weights)
        torch.testing.assert_close(match.apply(values)[one], single.apply(values[one]))


def test_references_may_come_as_a_list_a_tuple_a_5d_or_a_4d_tensor():
    query, stacked = features(1, 8, 6, 7), features(1, 8, 2, 6, 7, seed=1)
    match = affinity(query, stacked, top_k=3, radius=2)
    for same in (list(stacked.unbind(2)), tuple(stacked.unbind(2))):
        assert torch.equal(affinity(query, same, top_k=3, radius=2).dense(), match.dense())
    assert match.reference_shape == (2, 6, 7) and match.query_shape == (6, 7)
    first = affinity(query, stacked[:, :, 0], top_k=3, radius=2)
    assert first.reference_shape == (1, 6, 7)
    assert torch.equal(first.dense(), affinity(query, stacked[:, :, :1], top_k=3, radius=2).dense())


def test_values_of_one_reference_may_lack_the_axis_of_references():
    match = affinity(features(1, 8, 6, 7), features(1, 8, 6, 7, seed=1))
    values = values_for(match)
    assert torch.equal(match.apply(values), match.apply(values[:, :, 0]))


def test_one_radius_counts_for_all_references():
    query, reference = features(1, 8, 9, 9), features(1, 8, 3, 9, 9, seed=1)
    one, each = (affinity(query, reference, radius=r).dense() for r in (4, [4, 4.0, 4]))
    assert torch.equal(one, each)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window", ["disc", "square"])
def test_a_window_wider_than_the_frame_is_none(window, dtype):
    query, reference = features(1, 8, 9, 11, dtype=dtype), features(1, 8, 9, 11, seed=1, dtype=dtype)
    free = affinity(query, reference).dense()
    for radius in (15, 99, 1e6):
        torch.testing.assert_close(affinity(query, reference, radius=radius, window=window).dense(), free)


def test_order_of_references_does_not_matter():
    query, reference = features(1, 8, 9, 11, dtype=torch.float64), features(1, 8, 3, 9, 11, seed=1, dtype=torch.float64)
    match = affinity(query, reference, radius=[3, None, 5])
    other = affinity(query, reference.flip(2), radius=[5, None, 3])
    values = values_for(match, dtype=torch.float64)
    torch.testing.assert_close(match.apply(values), other.apply(values.flip(2)))


def test_cold_takes_the_best_cell_and_hot_the_mean():
    query, reference = features(1, 8, 5, 6), features(1, 8, 5, 6, seed=1)
    scores = all_scores(query, [reference], [None], "disc")
    assert torch.equal(affinity(query, reference, temperature=1e-4).dense().argmax(2), scores.argmax(2))
    hot = affinity(query, reference, top_k=1000, temperature=1e6)
    values = values_for(hot)
    mean = values.flatten(2).mean(2)[..., None, None].expand(1, 3, 5, 6)
    torch.testing.assert_close(hot.apply(values), mean, atol=1e-5, rtol=0)


def test_a_frame_matched_to_itself_carries_its_own_values():
    frame = features(1, 32, 12, 13)
    match = affinity(frame, frame, temperature=0.01, radius=4)
    values = values_for(match)
    torch.testing.assert_close(match.apply(values), values[:, :, 0], atol=1e-4, rtol=0)


# --- few cells


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_top_k_above_the_number_of_cells_takes_all(dtype):
    query, reference = features(1, 8, 7, 5, dtype=dtype), features(1, 8, 2, 3, 4, seed=1, dtype=dtype)
    match = affinity(query, reference, top_k=100)
    assert match.indices.shape == (1, 35, 24)
    assert torch.equal(match.indices.sort(2).values, torch.arange(24).expand(1, 35, 24))
    agrees(match, query, list(reference.unbind(2)), top_k=100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("window", "radius"), [("disc", 1), ("disc", 1.5), ("square", 0), ("square", 1)])
def test_a_window_with_fewer_cells_than_top_k(window, radius, dtype):
    query, reference = features(1, 8, 9, 7, dtype=dtype), features(1, 8, 9, 7, seed=1, dtype=dtype)
    settings = {"top_k": 20, "temperature": 1.0, "window": window}
    match = affinity(query, reference, radius=radius, **settings)
    agrees(match, query, [reference], radii=[radius], **settings)
    inside = window_mask((9, 7), radius, window, (9, 7))
    assert torch.equal(match.dense()[0] > 0, inside)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("top_k", [65, 97, 200, 1000])
def test_top_k_above_what_the_windows_of_a_block_reach(top_k, radius, dtype):
    query, reference = features(1, 8, 20, 21, dtype=dtype), features(1, 8, 20, 21, seed=1, dtype=dtype)
    match = affinity(query, reference, top_k=top_k, radius=radius)
    agrees(match, query, [reference], top_k=top_k, radii=[radius])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_goes_on_after_inference_on_the_same_sizes(dtype):
    """What is kept for the next call must not be an inference tensor."""
    query, reference = features(1, 32, 9, 13, dtype=dtype), features(1, 32, 9, 13, seed=1, dtype=dtype)
    settings = {"top_k": 4, "radius": [None, 3]}
    with torch.inference_mode():
        expected = affinity(query, [reference, reference], **settings)
    match = affinity(query.requires_grad_(), [reference, reference], **settings)
    torch.testing.assert_close(match.weights.detach(), expected.weights)
    match.weights.square().sum().backward()
    assert query.grad.abs().sum() > 0


def test_one_cell():
    match = affinity(features(1, 4, 1, 1), features(1, 4, 1, 1, seed=1), radius=1)
    assert match.dense().tolist() == [[[1.0]]]


# --- nothing at all


def test_no_objects():
    match = affinity(features(2, 8, 5, 6), features(2, 8, 3, 5, 6, seed=1))
    carried = match.apply(torch.zeros(2, 0, 3, 5, 6))
    assert carried.shape == (2, 0, 5, 6) and carried.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_query_with_no_cells(dtype):
    match = affinity(torch.zeros(1, 8, 0, 6, dtype=dtype), features(1, 8, 5, 6, dtype=dtype))
    assert match.dense().shape == (1, 0, 30)
    assert match.apply(torch.zeros(1, 3, 5, 6)).shape == (1, 3, 0, 6)


def test_an_empty_batch():
    match = affinity(torch.zeros(0, 8, 5, 6), torch.zeros(0, 8, 5, 6))
    assert match.dense().shape == (0, 30, 30)
    assert match.apply(torch.zeros(0, 3, 5, 6)).shape == (0, 3, 5, 6)


# --- where


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_matches_some_cells_and_leaves_the_others_empty(dtype, spied):
    query, reference = features(2, 16, 30, 31, dtype=dtype), features(2, 16, 2, 30, 31, seed=1, dtype=dtype)
    settings = {"top_k": 4, "radius": 3}
    whole = affinity(query, reference, **settings)
    made = len(spied)
    where = torch.zeros(2, 30, 31, dtype=torch.bool)
    where[0, 3:9, 4:7] = True
    where[1, 29, 30] = True
    part = affinity(query, reference, where=where, **settings)
    assert dtype == torch.float32 or len(spied) - made < made / 3  # blocks with nothing to match are passed over
    flat = where.flatten(1)
    assert torch.equal(part.indices[flat], whole.indices[flat])
    torch.testing.assert_close(part.weights[flat], whole.weights[flat], atol=1e-5, rtol=0)
    assert not part.dense()[~flat].any()
    values = values_for(whole)
    there = where[:, None].expand(2, 3, 30, 31)
    torch.testing.assert_close(part.apply(values)[there], whole.apply(values)[there], atol=1e-5, rtol=0)
    assert not part.apply(values)[~there].any()


def test_where_everywhere_and_nowhere():
    query, reference = features(1, 8, 9, 7), features(1, 8, 9, 7, seed=1)
    everywhere = torch.ones(1, 9, 7, dtype=torch.bool)
    assert torch.equal(affinity(query, reference, where=everywhere).dense(), affinity(query, reference).dense())
    assert not affinity(query, reference, where=~everywhere).dense().any()


# --- quantised, on the CPU in float32


@pytest.mark.parametrize(("window", "radius"), [("disc", None), ("disc", 6), ("square", 5)])
@pytest.mark.parametrize("share", [1.0, 0.9])
def test_quantising_changes_no_choice(window, radius, share):
    """Also where each channel is but a share of the one before."""
    shares = (share ** torch.arange(64))[:, None, None]
    query = features(1, 64, 31, 29) * shares
    reference = features(1, 64, 2, 31, 29, seed=1) * shares[:, None]
    short = affinity(query, reference, radius=radius, window=window).indices
    plain = affinity(query.double(), reference.double(), radius=radius, window=window).indices
    different = (plain.sort(2).values != short.sort(2).values).any(2)
    scores = all_scores(query.double(), list(reference.double().unbind(2)), [radius] * 2, window)
    best = scores.topk(11, dim=2).values
    tied = best[..., 9] - best[..., 10] < 1e-6
    assert not (different & ~tied).any()
    assert tied.double().mean() < 0.01


@pytest.mark.parametrize("noise", [1e-2, 1e-3, 3e-4])
@pytest.mark.parametrize("radius", [None, 9])
@pytest.mark.parametrize("outlier", [False, True])
def test_keys_that_rough_scores_cannot_tell_apart_are_told_apart(noise, radius, outlier):
    generator = torch.Generator().manual_seed(3)
    base = F.normalize(torch.randn(1, 48, 1, 1, generator=generator), dim=1)
    reference = base + noise * F.normalize(torch.randn(1, 48, 32, 33, generator=generator), dim=1)
    if outlier:  # steps are as large as the largest key needs them: now they tell no other apart
        reference[..., 20, 11] = -3 * base[..., 0, 0]
    query = features(1, 48, 32, 33, seed=4)
    match = affinity(query, reference, top_k=7, radius=radius)
    clear = agrees(match, query, [reference], top_k=7, radii=[radius], near=1e-6)
    assert clear > (0.5 if noise > 3e-4 else 0.1)


@pytest.mark.parametrize("position", [1, 105, 235])
def test_the_error_of_quantising_is_accounted_for_where_it_is_at_its_worst(position):
    # Where keys lie in steps of a tenth, 9.52 and 10.4 both become whole tens: what is lost lies along the query, in
    # each channel. The first channel, which the query has not, makes the longest key, and so the steps, that large.
    def row(steps):
        return torch.tensor([0.0] + [steps] * 63)

    query = torch.stack([row(10.4), -row(10.4)]).T[None, :, None]  # both signs, so that the means are 0
    signs = torch.tensor([1.0, -1.0]).repeat_interleave(4).repeat(2)
    reference = (row(9.52)[:, None, None] * signs).expand(-1, 16, -1).clone()
    reference.view(64, 256)[:, position] = row(10.4)
    reference[0, 15, 14:] = torch.tensor([LEVELS, -LEVELS])  # alone in its channel
    match = affinity(query, reference[None], top_k=1)
    assert match.indices[0, 0].item() == position


@pytest.mark.parametrize("common", [False, True])
@pytest.mark.parametrize("channels", [1, 5, 64])
def test_quantised_rows_are_near_and_their_error_is_known(common, channels):
    frames = [10.0 ** (3 * i) * features(1, channels, 5, 6, seed=i)[0].permute(1, 2, 0).contiguous() for i in range(3)]
    frames[0][2, 3] = 0
    centre = frames[1].mean((0, 1))
    found = quantise(frames, centre, common=common)
    assert found.levels.shape == (3, 30, channels + channels % 2) and not found.levels[:, :, channels:].any()
    lengths = np.linalg.norm(found.levels.astype(np.int64), axis=2)
    assert lengths.max() <= LEVELS + math.sqrt(channels) / 2 < 2**15
    assert (
        len(np.unique(found.step)) == 1
        if common
        else (lengths[found.length[1] > 0] > LEVELS - math.sqrt(channels)).all()
    )
    rows = torch.stack(frames).flatten(1, 2).double().numpy()
    less = rows - centre.double().numpy()
    np.testing.assert_allclose(found.length, [np.linalg.norm(one, axis=2) for one in (rows, less)], rtol=1e-5)
    error = np.linalg.norm(less - found.levels[:, :, :channels] * found.step[:, :, None].astype(np.float64), axis=2)
    np.testing.assert_allclose(found.error, error, rtol=0.02, atol=3e-7 * found.length.max())
    assert (error <= math.sqrt(channels) / 2 * found.step * 1.01).all()


@numba.njit
def compared(queries, keys, step, pairs, limits, products):
    return compare(queries, keys, step, pairs, limits, products)


@pytest.mark.parametrize("channels", [2, 176, 1024])
@pytest.mark.parametrize("passing", range(KEYS + 1))
def test_products_of_int16_are_exact(channels, passing):
    random = np.random.default_rng(0)
    query = random.integers(-900, 901, (LANES, channels)).astype(np.int16)
    keys = random.integers(-900, 901, (KEYS + 3, channels)).astype(np.int16)
    query[:, 0], keys[:, 0] = LEVELS, np.where(np.arange(KEYS + 3) % 2, LEVELS, -LEVELS)  # the largest there are
    expected = keys[2 : 2 + KEYS].astype(np.int64) @ query.T.astype(np.int64)
    limits = np.sort(np.vstack([expected, np.full(LANES, 2**31 - 1)]), 0)[KEYS - passing]
    limits = (limits - (passing > 0)).astype(np.int32)  # of each lane, so many are above
    packed = np.ascontiguousarray(query.reshape(LANES, -1, 2).transpose(1, 0, 2))
    products, step = np.zeros((KEYS, LANES), np.int32), 2 * channels
    query_at, keys_at, limits_at, products_at = (one.ctypes.data for one in (packed, keys, limits, products))
    hits = compared(query_at, keys_at + 2 * step, step, channels // 2, limits_at, products_at)
    assert np.array_equal(products, expected)
    bits = [hits >> (LANES * key + lane) & 1 for key in range(KEYS) for lane in range(LANES)]
    assert np.array_equal(np.reshape(bits, (KEYS, LANES)), expected > limits)
    assert np.sum(bits) == passing * LANES


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("scale", [1, 100])
@pytest.mark.parametrize("cell", [(3, 5), (4, 8)])
def test_a_cell_that_is_not_finite_spoils_no_other(bad, scale, cell):
    query, reference = (scale * features(1, 32, 20, 22, seed=seed) for seed in (0, 1))
    expected = affinity(query.double(), reference.double(), radius=5, top_k=5)
    reference[0, :, cell[0], cell[1]] = bad
    found = affinity(query, reference, radius=5, top_k=5)
    reached = window_mask((20, 22), 5, "disc", (20, 22))[:, 22 * cell[0] + cell[1]]
    assert (~reached).sum() > 300
    assert torch.equal(found.indices[0, ~reached].sort(1).values, expected.indices[0, ~reached].sort(1).values)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e12])
def test_small_and_large_features(scale):
    query, reference = features(1, 32, 9, 11), features(1, 32, 2, 9, 11, seed=1)
    plain, short = (affinity(scale * query.to(dtype), reference.to(dtype)) for dtype in (torch.float64, torch.float32))
    torch.testing.assert_close(short.scores.double(), plain.scores, atol=1e-6 * scale, rtol=1e-5)


@settings(max_examples=40)
@given(st.integers(0, 2**16), st.integers(1, 12), st.sampled_from([1, 2, 4, 16]), st.integers(5, 64))
def test_exact_on_coarse_numbers(seed, top_k, levels, channels):
    # Nearly alike, all rounded the same way, and many ties.
    generator = torch.Generator().manual_seed(seed)

    def coarse(*shape):
        return 1 + torch.randint(0, levels + 1, shape, generator=generator) * (2**-8 / levels) - 2**-20

    query = coarse(1, channels, 2, 8) * torch.tensor([1.0, -1.0])[:, None]
    reference = coarse(1, 1, 16, 20).expand(1, channels, 16, 20)
    match = affinity(query, reference, top_k=top_k, temperature=channels / 16)
    scores = all_scores(query.double(), [reference.double()], [None], "disc")
    found = scores.gather(2, match.indices).sort(2, descending=True).values
    torch.testing.assert_close(found, scores.topk(top_k, dim=2).values, atol=1e-6 * channels, rtol=0)


# --- blocks


@pytest.mark.parametrize("most", [1, 20_000, 10**9])
def test_chunked_is_whole(most, monkeypatch):
    query = features(1, 16, 23, 26, dtype=torch.float64)
    reference = features(1, 16, 3, 23, 26, seed=1, dtype=torch.float64)
    settings = {"top_k": 5, "radius": [None, 7, 3]}
    expected = affinity(query, reference, **settings)
    monkeypatch.setattr(MODULE, "BLOCK_SCORES", most)
    match = affinity(query, reference, **settings)
    assert torch.equal(match.indices, expected.indices)
    torch.testing.assert_close(match.weights, expected.weights)


def test_blocks_follow_the_setting(monkeypatch, spied):
    frame = features(1, 8, 40, 40, dtype=torch.float64)
    affinity(frame, frame)
    usual = len(spied)
    monkeypatch.setattr(MODULE, "BLOCK_SCORES", 1)
    affinity(frame, frame)
    assert len(spied) - usual > 2 * usual
    assert all(cells <= 20 for cells, _ in spied[usual:])


@pytest.mark.parametrize(("window", "reach"), [("disc", 5), ("square", 6)])
def test_scores_outside_what_windows_reach_are_never_made(window, reach, spied):
    height, width, radius = 90, 120, 6
    frame = features(1, 8, height, width, dtype=torch.float64)
    affinity(frame, frame, radius=radius, window=window)
    rows, wide = 8, 10
    assert spied[0][0] == rows * wide
    reachable = (rows + 2 * reach) * (wide + 2 * reach)
    assert all(cells <= reachable for _, cells in spied)
    assert len(spied) == math.ceil(height / rows) * math.ceil(width / wide)
    made = sum(cells * columns for cells, columns in spied)
    assert made <= height * width * reachable < (height * width) ** 2 / 20


# --- gradients


@pytest.mark.parametrize(("window", "radii"), [("disc", [None, 2.0]), ("square", [1, 1]), ("disc", [None, None])])
def test_gradcheck(window, radii):
    query = features(2, 3, 3, 4, dtype=torch.float64).requires_grad_()
    reference = features(2, 3, 2, 3, 4, seed=1, dtype=torch.float64).requires_grad_()
    values = torch.rand(2, 2, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()

    def carry(query, reference, values):
        match = affinity(query, reference, top_k=3, temperature=0.5, radius=radii, window=window)
        return match.apply(values), match.dense()

    assert torch.autograd.gradcheck(carry, (query, reference, values))


def test_gradients_are_those_of_the_slow_reference():
    radii = [None, 3.0]
    inputs = [features(2, 9, 7, 8, seed=i, dtype=torch.float64).requires_grad_() for i in range(3)]
    values = torch.rand(2, 4, 2, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    weight = torch.rand(2, 4, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    match = affinity(inputs[0], inputs[1:], top_k=5, temperature=0.2, radius=radii)
    dense = slow(inputs[0], inputs[1:], 5, 0.2, radii, "disc")
    by_slow = (dense @ values.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(2, 4, 7, 8)
    ours = torch.autograd.grad((match.apply(values) * weight).sum(), [*inputs, values])
    theirs = torch.autograd.grad((by_slow * weight).sum(), [*inputs, values])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("who", ["query", "reference", "values"])
def test_each_input_alone_may_ask_for_a_gradient(who):
    given_as = {"query": features(1, 8, 6, 6), "reference": features(1, 8, 6, 6, seed=1)}
    given_as["values"] = torch.rand(1, 2, 6, 6)
    given_as[who].requires_grad_()
    match = affinity(given_as["query"], given_as["reference"], radius=3)
    assert match.weights.requires_grad == (who != "values")
    assert not match.indices.requires_grad and not match.residual.requires_grad
    match.apply(given_as["values"]).square().sum().backward()
    assert given_as[who].grad is not None and given_as[who].grad.abs().sum() > 0


def test_no_graph_when_nobody_asks():
    query, reference = features(1, 8, 6, 6), features(1, 8, 6, 6, seed=1)
    match = affinity(query, reference)
    assert match.weights.grad_fn is None and not match.weights.requires_grad
    assert not match.apply(torch.rand(1, 2, 6, 6)).requires_grad
    with torch.no_grad():
        quiet = affinity(query.requires_grad_(), [reference.requires_grad_()])
        assert quiet.weights.grad_fn is None and not quiet.weights.requires_grad
    torch.testing.assert_close(quiet.dense(), match.dense())


def test_asking_for_a_gradient_changes_no_answer():
    query, reference = features(1, 32, 9, 9), features(1, 32, 9, 9, seed=1)
    quiet = affinity(query, reference, radius=3)
    match = affinity(query.requires_grad_(), reference, radius=3)
    assert torch.equal(match.indices, quiet.indices)
    torch.testing.assert_close(match.weights, quiet.weights, atol=1e-5, rtol=0)


# --- layouts, precisions, devices, compilation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layout_in_memory_does_not_matter(dtype):
    query, reference = features(2, 33, 8, 9, dtype=dtype), features(2, 33, 2, 8, 9, seed=1, dtype=dtype)
    settings = {"radius": 3}
    expected = affinity(query, reference, **settings)
    values = values_for(expected)
    swapped = query.transpose(2, 3).contiguous().transpose(2, 3)
    spread = torch.stack([reference, reference], -1)[..., 0]
    one_by_one = [one.contiguous(memory_format=torch.channels_last) for one in reference.unbind(2)]
    channels_last = query.contiguous(memory_format=torch.channels_last)
    assert not swapped.is_contiguous() and not spread.is_contiguous() and not channels_last.is_contiguous()
    for match in (
        affinity(swapped, spread, **settings),
        affinity(channels_last, one_by_one, **settings),
        affinity(query.flip(3).flip(3), reference.flip(4).flip(4), **settings),
    ):
        torch.testing.assert_close(match.dense(), expected.dense(), atol=1e-6, rtol=0)
    odd = values.transpose(1, 3).contiguous().transpose(1, 3)
    torch.testing.assert_close(expected.apply(odd), expected.apply(values))
    torch.testing.assert_close(expected.apply(values[:, :1].expand(2, 3, 2, 8, 9))[:, 2], expected.apply(values)[:, 0])


def test_inputs_are_left_as_they_were():
    query, reference = features(1, 33, 8, 9), features(1, 33, 8, 9, seed=1)
    copies = query.clone(), reference.clone()
    affinity(query, reference, radius=3)
    assert torch.equal(query, copies[0]) and torch.equal(reference, copies[1])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.08)])
def test_half_precision_stays_within_a_tolerance(dtype, tolerance):
    query, reference = features(1, 32, 12, 13, dtype=dtype), features(1, 32, 2, 12, 13, seed=1, dtype=dtype)
    match = affinity(query, reference, temperature=0.1, radius=5)
    exact = affinity(query.double(), reference.double(), temperature=0.1, radius=5)
    values = values_for(match, dtype=torch.float64)  # in [0, 1]
    carried = match.apply(values.to(dtype))
    assert carried.dtype == match.weights.dtype == dtype
    assert (carried.double() - exact.apply(values)).abs().max() < tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_in_half_precision(dtype):
    def gradients(dtype):
        query = features(1, 16, 6, 7, dtype=torch.bfloat16).to(dtype).requires_grad_()
        reference = features(1, 16, 6, 7, seed=1, dtype=torch.bfloat16).to(dtype).requires_grad_()
        match = affinity(query, reference, top_k=42, temperature=0.5)
        weight = torch.rand(1, 2, 6, 7, generator=torch.Generator().manual_seed(2))
        (match.apply(values_for(match, 2, dtype)) * weight.to(dtype)).sum().backward()
        return query.grad.double(), reference.grad.double()

    for one, other in zip(gradients(dtype), gradients(torch.float64), strict=True):
        assert (one - other).abs().max() < 0.05 * other.abs().max()


def test_values_may_have_another_precision_than_features():
    match = affinity(features(1, 8, 6, 7), features(1, 8, 6, 7, seed=1))
    carried = match.apply(values_for(match, dtype=torch.float64))
    assert carried.dtype == torch.float64
    torch.testing.assert_close(carried.float(), match.apply(values_for(match)))


@pytest.mark.parametrize("differentiable", [False, True])
def test_compiled_eagerly_gives_the_same(differentiable):
    query, reference = features(1, 8, 5, 6).requires_grad_(differentiable), features(1, 8, 2, 5, 6, seed=1)
    values = torch.rand(1, 2, 2, 5, 6)

    def carry(query, reference, values):
        return affinity(query, reference, top_k=4, radius=[None, 3]).apply(values)

    torch._dynamo.reset()
    carried, expected = torch.compile(carry, backend="eager")(query, reference, values), carry(query, reference, values)
    torch._dynamo.reset()
    torch.testing.assert_close(carried, expected)
    if differentiable:
        (ours,) = torch.autograd.grad(carried.square().sum(), query)
        (plain,) = torch.autograd.grad(expected.square().sum(), query)
        torch.testing.assert_close(ours, plain)


def test_torch_keeps_its_number_of_threads():
    code = (
        "import torch; torch.set_num_threads(1); from matchcut.matching import affinity; x = torch.ones(1, 32, 9, 9); "
        "affinity(x, x); print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_threads_do_not_disturb_each_other():
    problems = [(features(1, 32, 24, 25, seed=i), features(1, 32, 2, 24, 25, seed=i + 9)) for i in range(6)]
    expected = [affinity(*problem, radius=5).indices for problem in problems]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda problem: affinity(*problem, radius=5).indices, problems * 3))
    assert all(torch.equal(one, other) for one, other in zip(found, expected * 3, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("radius", [None, 4])
def test_cuda_equals_cpu(radius):
    query, reference = features(2, 24, 17, 18, dtype=torch.float64), features(2, 24, 2, 17, 18, dtype=torch.float64)
    expected = affinity(query, reference, radius=radius)
    query, reference = query.cuda().requires_grad_(), reference.cuda().requires_grad_()
    match = affinity(query, reference, radius=radius)
    torch.testing.assert_close(match.dense().cpu(), expected.dense())
    match.apply(values_for(expected, dtype=torch.float64).cuda()).square().sum().backward()
    assert query.grad is not None and reference.grad is not None


# --- refusals


@pytest.mark.parametrize(
    ("query", "reference", "settings", "message"),
    [
        ((8, 5, 6), (1, 8, 5, 6), {}, r"query: expected .* \(B, C, H, W\), got torch.float32 \(8, 5, 6\)"),
        ((1, 8, 5, 6), (8, 5, 6), {}, r"reference: expected \(B, C, T, h, w\) or \(B, C, h, w\), got \(8, 5, 6\)"),
        ((1, 8, 5, 6), (1, 8, 0, 5, 6), {}, "reference: expected at least one, got none"),
        ((1, 8, 5, 6), (1, 7, 5, 6), {}, r"B, C = \(1, 8\), all of one size, got \(1, 7, 5, 6\)"),
        ((2, 8, 5, 6), (1, 8, 5, 6), {}, r"B, C = \(2, 8\), all of one size, got \(1, 8, 5, 6\)"),
        ((1, 8, 5, 6), (1, 8, 0, 6), {}, "reference: it has no cells"),
        ((1, 8, 5, 6), (1, 8, 5, 7), {"radius": 3}, r"must have the query's size \(5, 6\), got \(5, 7\); give radius="),
        ((1, 8, 5, 6), (1, 8, 2, 5, 6), {"radius": [3]}, "one for each of the 2 references, got 1"),
        ((1, 8, 5, 6), (1, 8, 5, 6), {"radius": []}, "one for each of the 1 references, got 0"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(query, reference, settings, message):
    with pytest.raises(ShapeError, match=message):
        affinity(torch.zeros(query), torch.zeros(reference), **settings)


def test_references_that_do_not_fit_together_are_refused():
    query = features(1, 8, 5, 6)
    with pytest.raises(ShapeError, match="reference: expected at least one, got none"):
        affinity(query, [])
    with pytest.raises(ShapeError, match=r"all of one size, got \(1, 8, 5, 7\)"):
        affinity(query, [query, features(1, 8, 5, 7)])
    with pytest.raises(ShapeError, match=r"expected \(B, C, h, w\).*got \(1, 8, 1, 5, 6\)"):
        affinity(query, [query[:, :, None]])
    with pytest.raises(ShapeError, match=r"expected torch.float32 on cpu as the query, got torch.float64 on cpu"):
        affinity(query, query.double())
    with pytest.raises(ShapeError, match=r"got torch.float32 on meta"):
        affinity(query, query.to("meta"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 0}, "top_k: expected at least 1, got 0"),
        ({"temperature": 0.0}, r"temperature: expected above 0 and finite, got 0\.0"),
        ({"temperature": -1}, "temperature: expected above 0 and finite, got -1"),
        ({"temperature": math.nan}, "temperature: expected above 0 and finite, got nan"),
        ({"temperature": math.inf}, "temperature: expected above 0 and finite, got inf"),
        ({"window": "circle"}, 'window: expected "disc" or "square", got \'circle\''),
        ({"radius": 0}, r"radius: expected above 0 \(or None\), got 0"),
        ({"radius": -2.0, "window": "square"}, r"radius: expected above 0 \(or None\), got -2\.0"),
        ({"radius": math.nan}, r"radius: expected above 0 \(or None\), got nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        affinity(features(1, 8, 5, 6), features(1, 8, 5, 6, seed=1), **settings)


@pytest.mark.parametrize("temperature", [1e-20, 1e-60, 5e-324])
def test_the_smallest_temperatures_leave_the_best_alone(temperature):
    query, reference = features(1, 8, 5, 6), features(1, 8, 5, 6, seed=1)
    match = affinity(query.requires_grad_(), reference, top_k=4, temperature=temperature)
    assert torch.equal(match.weights.detach(), torch.eye(4)[:1].expand(1, 30, 4))
    whole = join(match, match, top_k=4, temperature=temperature)
    torch.testing.assert_close(whole.weights.sum(2), torch.ones(1, 30))


def test_features_that_are_no_floating_point_numbers_are_refused():
    with pytest.raises(ShapeError, match=r"query: expected floating point \(B, C, H, W\), got torch.int64"):
        affinity(torch.ones(1, 8, 5, 6, dtype=torch.int64), torch.ones(1, 8, 5, 6, dtype=torch.int64))


def test_an_infinite_radius_is_no_window():
    query, reference = features(1, 8, 5, 6), features(1, 8, 5, 6, seed=1)
    match = affinity(query, reference, radius=math.inf)
    torch.testing.assert_close(match.dense(), affinity(query, reference).dense())


def test_a_numpy_radius_is_a_number():
    query, reference = features(1, 8, 5, 6), features(1, 8, 5, 6, seed=1)
    match = affinity(query, reference, radius=np.int64(2))
    assert torch.equal(match.dense(), affinity(query, reference, radius=2).dense())


@pytest.mark.parametrize("shape", [(1, 3, 2, 5, 7), (2, 3, 2, 5, 6), (1, 3, 5, 6), (1, 60), (1, 3, 1, 5, 6)])
def test_values_that_do_not_lie_on_the_reference_are_refused(shape):
    match = affinity(features(1, 8, 5, 6), features(1, 8, 2, 5, 6, seed=1))
    with pytest.raises(ShapeError, match=r"B = 1 and \(T, h, w\) = \(2, 5, 6\), got \("):
        match.apply(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 5, 7), (5, 6), (2, 5, 6), (1, 1, 5, 6)])
def test_where_of_another_shape_is_refused(shape):
    with pytest.raises(ShapeError, match="where: "):
        affinity(features(1, 8, 5, 6), features(1, 8, 5, 6, seed=1), where=torch.ones(shape, dtype=torch.bool))


# --- joining


@pytest.mark.parametrize("masked", [False, True])
def test_joined_matches_are_the_match_of_all_references(masked):
    generator = torch.Generator().manual_seed(3)
    query, *keys = (F.normalize(torch.randn(2, 16, 6, 7, generator=generator), dim=1) for _ in range(6))
    where = torch.rand(2, 6, 7, generator=generator) < 0.6 if masked else None
    radii, how = [None, None, 2.5, 2.5, 2.5], {"top_k": 6, "temperature": 0.07}
    whole = affinity(query, keys, radius=radii, where=where, **how)
    parts = [affinity(query, keys[at], radius=radii[at], where=where, **how) for at in (slice(0, 2), slice(2, 5))]
    joined = join(*parts, **how)
    assert joined.reference_shape == whole.reference_shape == (5, 6, 7)
    torch.testing.assert_close(joined.dense(), whole.dense())
    asked = slice(None) if where is None else where.flatten(1)
    torch.testing.assert_close(joined.scores[asked], whole.scores[asked])


def test_joined_matches_have_the_gradient_of_the_match():
    generator = torch.Generator().manual_seed(4)
    maps = [torch.randn(1, 4, 3, 3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    how = {"top_k": 4, "temperature": 0.7}
    whole = affinity(maps[0], maps[1:], **how).dense()
    joined = join(affinity(maps[0], maps[1], **how), affinity(maps[0], maps[2], **how), **how).dense()
    factors = torch.randn(whole.shape, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad((whole * factors).sum(), maps)
    for one, other in zip(torch.autograd.grad((joined * factors).sum(), maps), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_matches_of_other_queries_are_not_joined():
    generator = torch.Generator().manual_seed(5)
    one, other = (torch.randn(1, 4, 3, side, generator=generator) for side in (3, 4))
    with pytest.raises(ShapeError, match="join"):
        join(affinity(one, one), affinity(other, other))

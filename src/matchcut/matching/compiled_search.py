"""The search for the top-k on the CPU, with compiled loops: see `matchcut.matching.search`."""

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from matchcut.matching import compiled
from matchcut.matching.compiled import FAN, GROUP, Array, RunRow, addresses_of
from matchcut.matching.search import Plan, Scorer, int8_levels


class _Rough(NamedTuple):
    """What rough scores are made of: query . key = query' . key' * factor * scale + bias + constant, but for an error
    (see `select`)."""

    query: Tensor
    """(H, W, C)."""
    factor: Tensor
    """(H, W)."""
    scale: Tensor
    """(T, h, w)."""
    bias: Tensor
    """(T, h, w)."""
    constant: Tensor
    """(H, W)."""
    error: Tensor
    """(4, H, W)."""
    error_key: Tensor
    """(2, T, h, w)."""


def compiled_search(
    query: Tensor, keys: list[Tensor], plan: Plan, top_k: int, where: Tensor | None, shortlist: bool
) -> tuple[Tensor, Tensor]:
    """As `search`, for float32 on the CPU; the rough scores are of whole numbers if `shortlist`, else float32."""
    top_k = min(top_k, len(keys) * plan.reference[0] * plan.reference[1])
    chosen = torch.zeros(*plan.query, top_k, dtype=torch.int64)
    best = query.new_zeros(*plan.query, top_k)
    with torch.inference_mode():  # what is kept for the next frame is of one kind, whoever calls
        scorer = _scorer(plan, query.shape[2], torch.int8 if shortlist else torch.float32)
        scorer.start()
        rough = (_in_int8 if shortlist else _in_float32)(query, keys, scorer.keys)
        addresses = addresses_of(keys)
        numbers = torch.arange(query.shape[0] * query.shape[1]).view(plan.query)
        rough_query, factors = rough.query.flatten(0, 1), rough.factor.flatten()
        of_keys = rough.scale.flatten(1).numpy(), rough.bias.flatten(1).numpy()
        errors = rough.error.flatten(1).numpy(), rough.error_key.flatten(2).numpy()
        rows, constant = query.flatten(0, 1).numpy(), rough.constant.flatten().numpy()
        answer = best.flatten(0, 1).numpy(), chosen.flatten(0, 1).numpy()
        for block in plan.blocks(where):
            runs = plan.runs(block)
            lanes = block.take(numbers)
            filled = plan.fill_up(lanes)
            windows = [plan.outside(block, run, best).flatten(0, 1) for run in runs if run.radius is not None]
            outside = windows[0] if len(windows) == 1 else torch.cat(windows) if windows else best.new_empty(0, 1)
            scores = scorer.scores(rough_query[filled].t(), runs)
            table, groups = _tables(plan, (block.rows.start, block.columns.start))
            maxima = np.empty((len(groups) + -(-len(groups) // FAN), len(filled)), np.float32)
            made = scores.numpy(), factors[filled].numpy(), *of_keys, table, groups, outside.numpy()
            compiled.select(*made, rows, lanes.numpy(), addresses, constant, *errors, maxima, *answer)
    return chosen.flatten(0, 1), best.flatten(0, 1)


@functools.lru_cache(maxsize=2)
def _scorer(plan: Plan, channels: int, dtype: torch.dtype) -> Scorer:
    """Kept for the next frame: to get this much memory anew takes as long as to compute what goes there. Two, since
    annotated frames may be searched apart."""
    return Scorer(plan, torch.empty(1, 1, channels, dtype=dtype))


@functools.lru_cache(maxsize=512)
def _tables(plan: Plan, corner: tuple[int, int]) -> tuple[Array, Array]:
    """The runs of the block at a corner, (R, fields of RunRow), and the runs of (references, cells) cut into groups of
    about GROUP scores, (G, fields of GroupRow); int64."""
    width = plan.reference[1]
    table: list[RunRow] = []
    groups, outside = [], 0
    for number, run in enumerate(plan.known[corner]):
        references = run.references.stop - run.references.start
        rows, columns = run.rows.stop - run.rows.start, run.columns.stop - run.columns.start
        cells, first = rows * columns, run.references.start
        place = run.rows.start * width + run.columns.start
        if run.radius is None:
            table.append(RunRow(references, cells, columns, first, run.start, cells, columns, place, width, 1, -1))
        else:
            strides = (rows, references * rows, place, 1, width)
            table.append(RunRow(references, cells, rows, first, run.start, *strides, outside))
            outside += cells
        step = max(1, round(GROUP / references))
        starts = np.arange(0, cells, step)
        groups.append(np.stack([np.full_like(starts, number), starts, np.minimum(step, cells - starts)], 1))
    return np.array(table), np.concatenate(groups)


def _in_int8(query: Tensor, keys: list[Tensor], into: Tensor) -> _Rough:
    """Query and keys less their means, rounded: what is rounded is smaller then, and so is what is lost.

    With q' = q - a and k' = k - b: q . k = q' . k' + a . k + (q - a) . b. Rounding q' and k' to q'' and k'' costs at
    most |q' - q''| |k'| + |q''| |k' - k''| (Cauchy-Schwarz); the products of whole numbers are exact. The first error
    covers the rounding of float32 sums.
    """
    query_mean, key_mean = (one[::4, ::4].mean((0, 1)) for one in (query, keys[-1]))  # any vectors near will do
    rough_query = torch.empty_like(query, dtype=torch.int8)
    factor, product, norms = _rounded([query], query_mean, key_mean, rough_query[None])
    scale, bias, key_norms = _rounded(keys, key_mean, query_mean, into)
    whole, centred, lost = norms[0]
    key_whole, key_centred, key_lost = key_norms.unbind(1)
    sums = (query.shape[2] + 8) * 2**-24 * (whole + query_mean.norm()) * (key_whole.max() + key_mean.norm())
    most = sums + lost * key_centred.max() + (centred + lost) * key_lost.max()
    error = torch.stack([sums, lost, centred + lost, most])
    constant = product[0] - query_mean @ key_mean
    return _Rough(rough_query, factor[0], scale, bias, constant, error, torch.stack([key_centred, key_lost]))


def _rounded(frames: list[Tensor], centre: Tensor, other: Tensor, into: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Frames (h, w, C) less `centre` into (T, h, w, C); what else `round_rows` says: scale and bias (T, h, w), norms
    (T, 3, h, w)."""
    scale, bias = centre.new_empty(2, *into.shape[:3])
    norms = centre.new_empty(len(into), 3, *into.shape[1:3])
    flat = into.flatten(1, 2).numpy(), scale.flatten(1).numpy(), bias.flatten(1).numpy(), norms.flatten(2).numpy()
    compiled.round_rows(centre.numpy(), other.numpy(), addresses_of(frames), int8_levels(), *flat)
    return scale, bias, norms.sqrt_()


def _in_float32(query: Tensor, keys: list[Tensor], into: Tensor) -> _Rough:
    """Query and keys as they are: products may differ by how float32 sums are ordered."""
    torch.stack(keys, out=into)
    norm = torch.linalg.vector_norm(query, dim=2)
    error = norm * torch.linalg.vector_norm(into, dim=3).max() * query.shape[2] * 2**-23
    zero, zero_of_keys = torch.zeros_like(norm), query.new_zeros(into.shape[:3])
    return _Rough(
        query,
        torch.ones_like(norm),
        torch.ones_like(zero_of_keys),
        zero_of_keys,
        zero,
        torch.stack([error, zero, zero, error]),
        torch.stack([zero_of_keys, zero_of_keys]),
    )

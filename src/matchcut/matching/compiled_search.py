"""The search for the top-k on the CPU, with compiled loops: see `matchcut.matching.search`."""

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from matchcut.matching import compiled
from matchcut.matching.compiled import FAN, GROUP, Array, RunRow, addresses_of
from matchcut.matching.search import Plan, Run, Scorer, int8_levels


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
    h, w = plan.reference
    top_k = min(top_k, len(keys) * h * w)
    chosen = torch.zeros(*plan.query, top_k, dtype=torch.int64)
    best = query.new_zeros(*plan.query, top_k)
    scorer = _scorer(plan, query.shape[2], torch.int8 if shortlist else torch.float32)
    scorer.start()
    rough = (_in_int8 if shortlist else _in_float32)(query, keys, scorer.keys)
    addresses = addresses_of(keys)
    numbers = torch.arange(query.shape[0] * query.shape[1]).view(plan.query)
    of_keys = rough.scale.flatten(1).numpy(), rough.bias.flatten(1).numpy()
    errors = rough.error.flatten(1).numpy(), rough.error_key.flatten(2).numpy()
    rows, constant = query.flatten(0, 1).numpy(), rough.constant.flatten().numpy()
    answer = best.flatten(0, 1).numpy(), chosen.flatten(0, 1).numpy()
    for block in plan.blocks(where):
        runs = plan.runs(block)
        windows = [plan.outside(block, run, best).flatten(0, 1) for run in runs if run.radius is not None]
        outside = windows[0] if len(windows) == 1 else torch.cat(windows) if windows else best.new_empty(0, 1)
        scores = scorer.scores(block.take(rough.query), runs)
        factor = plan.fill_up(block.take(rough.factor))
        table = _table(runs, plan.reference[1])
        groups = _groups(tuple((run.references, run.cells) for run in table))
        maxima = np.empty((len(groups) + -(-len(groups) // FAN), scores.shape[1]), np.float32)
        lanes = block.take(numbers).numpy()
        made = scores.numpy(), factor.numpy(), *of_keys, np.array(table), groups, outside.numpy()
        compiled.select(*made, rows, lanes, addresses, constant, *errors, maxima, *answer)
    return chosen.flatten(0, 1), best.flatten(0, 1)


@functools.lru_cache(maxsize=2)
def _scorer(plan: Plan, channels: int, dtype: torch.dtype) -> Scorer:
    """Kept for the next frame: to get this much memory anew takes as long as to compute what goes there. Two, since
    annotated frames may be searched apart."""
    return Scorer(plan, torch.empty(1, 1, channels, dtype=dtype))


def _table(runs: list[Run], width: int) -> list[RunRow]:
    """The runs as the kernel takes them; `width` is that of a reference."""
    table, outside = [], 0
    for run in runs:
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
    return table


@functools.lru_cache(maxsize=256)
def _groups(sizes: tuple[tuple[int, int], ...]) -> Array:
    """(G, fields of GroupRow) int64: runs of (references, cells) cut into groups of about GROUP scores."""
    groups = []
    for number, (references, cells) in enumerate(sizes):
        step = max(1, round(GROUP / references))
        first = np.arange(0, cells, step)
        groups.append(np.stack([np.full_like(first, number), first, np.minimum(step, cells - first)], 1))
    return np.concatenate(groups)


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

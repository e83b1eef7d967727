"""The search for the top-k on the CPU, with compiled loops: see `matchcut.matching.search`."""

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from matchcut.matching import compiled
from matchcut.matching.compiled import FAN, GROUP, Array, RunRow, bits
from matchcut.matching.search import Plan, Run, Scorer


class _Rough(NamedTuple):
    """What rough scores are made of: query . key is query' . key' + bias + constant, but for the allowance."""

    query: Tensor
    """(H, W, C)."""
    keys: Tensor
    """(T, h, w, C)."""
    bias: Tensor
    """(T, h, w) float32."""
    constant: Tensor
    """(H, W) float32."""
    allowance: Tensor
    """(H, W) float32: the most by which an exact score and its rough one differ."""


def compiled_search(
    query: Tensor, keys: list[Tensor], plan: Plan, top_k: int, where: Tensor | None, shortlist: bool
) -> tuple[Tensor, Tensor]:
    """As `search`, for float32 on the CPU; the rough scores are bfloat16 if `shortlist`, else float32."""
    h, w = plan.reference
    top_k = min(top_k, len(keys) * h * w)
    chosen = torch.zeros(*plan.query, top_k, dtype=torch.int64)
    best = query.new_zeros(*plan.query, top_k)
    rough = _in_bfloat16(query, keys) if shortlist else _in_float32(query, keys)
    scorer = Scorer(rough.keys, plan)
    addresses = np.array([one.data_ptr() for one in keys])
    numbers = torch.arange(query.shape[0] * query.shape[1]).view(plan.query)
    flat = bits(query.flatten(0, 1)), bits(rough.constant.flatten()), bits(rough.allowance.flatten())
    bias, answer = bits(rough.bias.flatten(1)), (bits(best.flatten(0, 1)), bits(chosen.flatten(0, 1)))
    for block in plan.blocks(where):
        runs = plan.runs(block)
        windows = [plan.outside(block, run, best).flatten(0, 1) for run in runs if run.radius is not None]
        outside = windows[0] if len(windows) == 1 else torch.cat(windows) if windows else best.new_empty(0, 1)
        scores = scorer.scores(block.take(rough.query), runs)
        table = _table(runs, plan.reference[1])
        groups = _groups(tuple((run.references, run.cells) for run in table))
        maxima = np.empty((len(groups) + -(-len(groups) // FAN), scores.shape[1]), np.float32)
        lanes = bits(block.take(numbers))
        where_from = (bits(scores), bias, np.array(table), groups, bits(outside))
        compiled.select(*where_from, flat[0], lanes, addresses, *flat[1:], maxima, *answer)
    return chosen.flatten(0, 1), best.flatten(0, 1)


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


def _in_bfloat16(query: Tensor, keys: list[Tensor]) -> _Rough:
    """Query and keys less their means, rounded: what is rounded is smaller then, and so is what is lost.

    With q' = q - a and k' = k - b: q . k = q' . k' + a . k + (q - a) . b. Rounding q' and k' to q'' and k'' costs at
    most |q' - q''| |k'| + |q''| |k' - k''| (Cauchy-Schwarz), and rounding their product 2^-8 of itself. The last term
    covers the rounding of float32 sums.
    """
    query_mean, key_mean = (one[::4, ::4].mean((0, 1)) for one in (query, keys[-1]))  # any vectors near will do
    rough_query, product, norms = _rounded([query], query_mean, key_mean)
    rough_keys, bias, key_norms = _rounded(keys, key_mean, query_mean)
    whole, centred, lost = norms[0].sqrt()
    key_whole, key_centred, key_lost = key_norms.amax((0, 2, 3)).sqrt()
    allowance = lost * key_centred + (centred + lost) * key_lost + 2**-8 * centred * key_centred
    sums = query.shape[2] * 2**-24 * (whole + query_mean.norm()) * (key_whole + key_mean.norm())
    return _Rough(rough_query[0], rough_keys, bias, product[0] - query_mean @ key_mean, allowance + sums)


def _rounded(frames: list[Tensor], centre: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Frames (h, w, C) less `centre` in bfloat16 (T, h, w, C); what else `round_rows` says: (T, h, w), (T, 3, h, w)."""
    size = len(frames), *frames[0].shape[:2]
    rounded = centre.new_empty(*size, len(centre), dtype=torch.bfloat16)
    bias, norms = centre.new_empty(size), centre.new_empty(size[0], 3, *size[1:])
    for frame, target, product, norm in zip(frames, rounded, bias, norms, strict=True):
        arrays = (bits(one) for one in (frame.flatten(0, 1), target.flatten(0, 1), product.flatten(), norm.flatten(1)))
        compiled.round_rows(bits(centre), bits(other), *arrays)
    return rounded, bias, norms


def _in_float32(query: Tensor, keys: list[Tensor]) -> _Rough:
    """Query and keys as they are: products may differ by how float32 sums are ordered."""
    stacked = torch.stack(keys)
    norm = torch.linalg.vector_norm(query, dim=2)
    largest = torch.linalg.vector_norm(stacked, dim=3).max()
    allowance = norm * largest * query.shape[2] * 2**-23
    return _Rough(query, stacked, query.new_zeros(stacked.shape[:3]), torch.zeros_like(norm), allowance)

"""`refine` beside the plainest search that may look at the same cells."""

import pytest
import torch
import torch.nn.functional as F

from matchcut.errors import ShapeError
from matchcut.matching import affinity, near_edges, refine


def features(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=1)


def plain(match, query, reference, where, top_k, temperature):
    """The dense affinity (B, Q, R), by a loop over cells."""
    batch, _, height, width = query.shape
    count, h, w = len(reference), *reference[0].shape[2:]
    dense = query.new_zeros(batch, height * width, count * h * w)
    for item in range(batch):
        keys = torch.cat([one[item].flatten(1).t() for one in reference])
        for y, x in where[item].nonzero().tolist():
            own = (y // 2) * (width // 2) + x // 2
            looked = set()
            for pair, weight in zip(match.indices[item, own].tolist(), match.weights[item, own].tolist(), strict=True):
                frame, row, column = pair // (h * w // 4), pair % (h * w // 4) // (w // 2), pair % (w // 2)
                for dy in range(-1, 3):
                    for dx in range(-1, 3):
                        at = min(max(2 * row + dy, 0), h - 1), min(max(2 * column + dx, 0), w - 1)
                        if weight > 0:
                            looked.add(frame * h * w + at[0] * w + at[1])
            if looked:
                cells = torch.tensor(sorted(looked))
                best = (keys[cells] @ query[item, :, y, x]).topk(min(top_k, len(cells)))
                dense[item, y * width + x, cells[best.indices]] = (best.values / temperature).softmax(0)
    return dense


@pytest.mark.parametrize("radius", [None, 2.5])
@pytest.mark.parametrize("count", [1, 3])
def test_refine_is_the_search_among_the_cells_around_the_matches(radius: float | None, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    coarse = [features(generator, 2, 8, 5, 6) for _ in range(1 + count)]
    fine = [features(generator, 2, 12, 10, 12) for _ in range(1 + count)]
    seen = torch.rand(2, 5, 6, generator=generator) < 0.8
    match = affinity(coarse[0], coarse[1:], top_k=4, radius=radius, where=seen)
    where = torch.rand(2, 10, 12, generator=generator) < 0.5
    found = refine(match, fine[0], fine[1:], where, top_k=7, temperature=0.1)
    torch.testing.assert_close(found.dense(), plain(match, fine[0], fine[1:], where, 7, 0.1))
    asked = (where & seen.repeat_interleave(2, 1).repeat_interleave(2, 2)).flatten(1)
    torch.testing.assert_close(found.weights.sum(2), asked.float())
    values = torch.rand(2, 3, count, 10, 12, generator=generator)
    expected = (found.dense() @ values.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (10, 12))
    torch.testing.assert_close(found.apply(values), expected)


def test_bfloat16_takes_the_other_way_to_the_same_answer() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = [features(generator, 1, 8, 4, 4) for _ in range(3)]
    fine = [features(generator, 1, 16, 8, 8).bfloat16() for _ in range(3)]
    match = affinity(coarse[0], coarse[1:], top_k=3)
    where = torch.ones(1, 8, 8, dtype=torch.bool)
    found = refine(match, fine[0], fine[1:], where, top_k=48)
    exact = refine(match, fine[0].float(), [one.float() for one in fine[1:]], where, top_k=48)
    torch.testing.assert_close(found.dense().float(), exact.dense(), atol=0.02, rtol=0.1)


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(1)
    coarse = [features(generator, 1, 4, 2, 3, dtype=torch.float64) for _ in range(3)]
    fine = [features(generator, 1, 5, 4, 6, dtype=torch.float64).requires_grad_() for _ in range(3)]
    match = affinity(coarse[0], coarse[1:], top_k=2)
    where = torch.rand(1, 4, 6, generator=generator) < 0.6

    def weights(query: torch.Tensor, *reference: torch.Tensor) -> torch.Tensor:
        return refine(match, query, reference, where, top_k=4, temperature=0.3).weights

    assert torch.autograd.gradcheck(weights, tuple(fine))


def test_near_edges() -> None:
    soft = torch.zeros(1, 2, 6, 7)
    soft[:, 0] = 1
    soft[:, 1, :, 4:] = 2
    expected = torch.zeros(1, 6, 7, dtype=torch.bool)
    expected[:, :, 2:6] = True
    assert torch.equal(near_edges(soft, 2), expected)
    assert not near_edges(soft[:, :, :, :4], 3).any()


def test_bad_input() -> None:
    generator = torch.Generator().manual_seed(2)
    coarse = [features(generator, 1, 4, 2, 3) for _ in range(2)]
    fine = [features(generator, 1, 5, 4, 6) for _ in range(2)]
    match, where = affinity(coarse[0], coarse[1:]), torch.ones(1, 4, 6, dtype=torch.bool)
    with pytest.raises(ShapeError, match="query: expected"):
        refine(match, coarse[0], fine[1:], where)
    with pytest.raises(ShapeError, match="reference: expected 1"):
        refine(match, fine[0], fine, where)
    with pytest.raises(
        ShapeError, match=r"reference: expected torch\.float32 on cpu as the query, got .*float64 on cpu"
    ):
        refine(match, fine[0], [fine[1].double()], where)
    with pytest.raises(ShapeError, match="where: expected bool"):
        refine(match, fine[0], fine[1:], where.float())
    with pytest.raises(ValueError, match="top_k"):
        refine(match, fine[0], fine[1:], where, top_k=0)
    with pytest.raises(ValueError, match="temperature"):
        refine(match, fine[0], fine[1:], where, temperature=0)


def test_edges_between_many_objects_in_half_precision() -> None:
    soft = torch.eye(300)[None, :, :, None].expand(1, 300, 300, 2)  # each row of cells belongs to another
    assert near_edges(soft.bfloat16(), 1).all()

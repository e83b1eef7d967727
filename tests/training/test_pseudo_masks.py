"""Clusters against SciPy's and on scenes made so that the answer is known; which of them are objects; edges; sheets."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from torch import Tensor

from matchcut.errors import ShapeError
from matchcut.training.objectives.mask_vos import pseudo_masks
from matchcut.training.objectives.mask_vos.clustering import Clusters, k_means, transport_clusters
from matchcut.training.objectives.mask_vos.pictures import QUERIES, draw_affinities, draw_predictions, draw_sheet
from matchcut.training.objectives.mask_vos.pseudo_masks import choose_objects, objectness, snap_to_edges


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(shares: tuple[float, ...], noise: float = 0.05, frames: int = 9) -> tuple[Tensor, Tensor]:
    """Keys (T, C, 10, 20) of kinds far from each other, each with its share of the cells; and the kinds."""
    kinds = torch.repeat_interleave(torch.arange(len(shares)), torch.tensor([round(200 * one) for one in shares]))
    kinds = torch.stack([kinds[torch.randperm(200, generator=seeded(t))] for t in range(frames)]).view(frames, 10, 20)
    centres = torch.eye(len(shares), 16)
    keys = centres[kinds] + noise * torch.randn(frames, 10, 20, 16, generator=seeded(100))
    return F.normalize(keys.permute(0, 3, 1, 2), dim=1), kinds


def points_of(keys: Tensor) -> Tensor:
    """(N, C) of keys (T, C, h, w)."""
    return keys.permute(0, 2, 3, 1).flatten(0, 2)


def assigned(clusters: Clusters, keys: Tensor) -> Tensor:
    """The cluster of each cell."""
    return clusters.assign(keys, (keys.shape[2], keys.shape[3]))


def as_partition(labels: Tensor) -> Tensor:
    """Which cells share a cluster, whatever its number."""
    flat = labels.flatten()[::7]
    return flat[:, None] == flat


# --- clusters


@pytest.mark.parametrize("shares", [(0.25,) * 4, (0.1, 0.2, 0.3, 0.4)])
def test_k_means_finds_kinds_and_every_frame_is_assigned(shares):
    keys, kinds = blobs(shares)
    found = assigned(k_means(points_of(keys), 4), keys)
    assert found.shape == kinds.shape and torch.equal(as_partition(found), as_partition(kinds))


def test_k_means_is_as_good_as_scipys():
    keys = F.normalize(torch.randn(9, 16, 10, 20, generator=seeded()), dim=1)
    points = points_of(keys[::8])

    def inertia(centres: Tensor) -> float:
        return float(torch.cdist(points, centres).amin(1).square().sum())

    theirs = min(
        inertia(torch.from_numpy(kmeans2(points.numpy(), 7, iter=30, minit="++", seed=seed)[0])) for seed in range(3)
    )
    assert inertia(k_means(points, 7).centres) < 1.02 * theirs


@pytest.mark.parametrize("method", [k_means, transport_clusters])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_same_seed_gives_the_same_clusters(method, autocast):
    keys = F.normalize(torch.randn(9, 8, 6, 7, generator=seeded()), dim=1)
    points = points_of(keys)
    torch.manual_seed(5)
    first = method(points, 3)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        again = method(points, 3)
        assert torch.equal(first.assign(keys, (12, 14)), again.assign(keys, (12, 14)))
    assert torch.equal(first.centres, again.centres) and torch.equal(first.biases, again.biases)
    with pytest.raises(ShapeError, match="count: expected 1 to 378"):
        method(points, 379)


def test_equal_keys_are_clustered_too():
    for method in (k_means, transport_clusters):
        found = method(torch.ones(18, 4) / 2, 3)
        assert torch.isfinite(found.centres).all() and torch.isfinite(found.biases).all()


def test_transport_finds_kinds_of_equal_size():
    keys, kinds = blobs((0.25,) * 4)
    found = assigned(transport_clusters(points_of(keys), 4), keys)
    assert torch.equal(as_partition(found), as_partition(kinds))


def test_transport_gives_each_cluster_its_share_and_k_means_does_not():
    keys = F.normalize(torch.randn(9, 16, 10, 20, generator=seeded()) + 4 * torch.eye(16)[0].view(16, 1, 1), dim=1)
    keys[:, :, :3] = F.normalize(torch.randn(9, 16, 3, 20, generator=seeded(1)), dim=1)
    points = points_of(keys[::8])
    own, even = (
        float((assigned(clusters, keys[::8]).flatten().bincount(minlength=5) / 400 - 0.2).abs().max())
        for clusters in (k_means(points, 5, starts=1), transport_clusters(points, 5, epsilon=0.01))
    )
    assert even < 0.1 and even < own


def test_edges_run_smoothly_where_pixels_are_assigned():
    distance = (torch.arange(16)[:, None] - 7.5) ** 2 + (torch.arange(16) - 7.5) ** 2
    soft = torch.sigmoid(5 - distance.sqrt())
    keys = F.normalize(torch.stack([soft, 1 - soft])[None].repeat(9, 1, 1, 1), dim=1)
    clusters = k_means(points_of(keys), 2)
    fine = clusters.assign(keys[:1], (128, 128))[0]
    large = F.interpolate(assigned(clusters, keys[:1])[None].float(), scale_factor=8)[0, 0]
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")

    def wrong(labels: Tensor) -> float:
        """The share of pixels that are not those of a disc of the same area."""
        inside = labels == labels[64, 64]
        disc = (y - 63.5) ** 2 + (x - 63.5) ** 2 < inside.sum() / np.pi
        return float((inside != disc).float().mean())

    assert wrong(fine) < 0.5 * wrong(large)


# --- objects


def clip() -> np.ndarray:
    """A disc (1) that moves, a strip at the border (2), speckle (3), a corner (4), over background (0)."""
    rng = np.random.default_rng(0)
    clusters = np.zeros((6, 40, 60), np.uint8)
    y, x = np.mgrid[:40, :60]
    for t, frame in enumerate(clusters):
        frame[:8] = 2
        frame[30:, :15] = 4
        frame[rng.random((40, 60)) < 0.05] = 3
        frame[(y - 20) ** 2 + (x - 15 - 4 * t) ** 2 < 64] = 1
    return clusters


def test_the_moving_disc_is_the_object(monkeypatch):
    monkeypatch.setattr(pseudo_masks, "OBJECTS", 1)
    clusters = clip()
    objects = choose_objects(clusters, 5)
    assert np.array_equal(objects, (clusters == 1).astype(np.uint8))
    found = [objectness(clusters, number) for number in range(5)]
    scores = [one.score for one in found]
    assert scores[1] == max(scores) > 0.7
    assert scores[2] == scores[0] == 0  # along the border
    assert found[3].compact < 0.3 and found[1].compact > 0.9
    assert found[1].solid > 0.9 and found[1].stable > 0.9
    assert np.array_equal(choose_objects(clusters[:1], 5) > 0, clusters[:1] == 1)  # a single frame


def test_a_clip_may_have_no_object_and_no_cluster_may_be_empty(monkeypatch):
    assert not choose_objects(np.zeros((3, 8, 8), np.uint8), 7).any()
    monkeypatch.setattr(pseudo_masks, "AREA", (0.5, 0.9))
    assert not choose_objects(clip(), 5).any()


def test_of_a_cluster_in_pieces_the_largest_is_taken():
    clusters = np.zeros((2, 20, 20), np.uint8)
    clusters[:, 4:12, 4:12] = clusters[:, 15:17, 15:17] = 1
    objects = choose_objects(clusters, 2)
    assert objects[:, 4:12, 4:12].all() and objects.sum() == 2 * 64


# --- edges


def test_snapping_moves_a_coarse_edge_to_the_pictures():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    truth = (y - 30) ** 2 + (x - 34) ** 2 < 200
    frame = np.where(truth[..., None], (200, 60, 40), (40, 120, 180)).astype(np.float64)
    frame = np.clip(frame + rng.normal(0, 5, frame.shape), 0, 255).astype(np.uint8)
    coarse = truth[4::8, 4::8].repeat(8, 0).repeat(8, 1).astype(np.uint8)
    snapped = snap_to_edges(frame, coarse)

    def wrong(labels: np.ndarray) -> int:
        return int(((labels > 0) != truth).sum())

    assert wrong(snapped) < 0.2 * wrong(coarse)
    both = np.where(coarse > 0, 2, 0).astype(np.uint8)
    both[:8, :8] = 1
    assert set(np.unique(snap_to_edges(frame, both))) <= {0, 1, 2}
    assert not snap_to_edges(frame, np.zeros_like(coarse)).any()


# --- sheets


def test_the_sheet_shows_frames_clusters_and_masks():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (6, 80, 120, 3), dtype=np.uint8)
    clusters = clip()
    sheet = draw_sheet(frames, clusters, (clusters == 1).astype(np.uint8), columns=3)
    assert sheet.shape == (240, 360, 3) and sheet.dtype == np.uint8
    assert np.array_equal(sheet[:80, :120], frames[0]) and np.array_equal(sheet[:80, 240:], frames[5])
    masked = (clusters[0] == 1).repeat(2, 0).repeat(2, 1)
    changed = (sheet[160:, :120] != frames[0]).any(2)
    assert not changed[~masked].any() and changed[masked].mean() > 0.9
    assert (sheet[80:160, :120] != frames[0]).any(2).mean() > 0.9


def test_predictions_stand_beside_what_is_given_and_true():
    frames = np.full((2, 3, 16, 24, 3), 90, np.uint8)
    labels = np.zeros((2, 3, 16, 24), np.uint8)
    labels[:, :, 4:12, 4:12] = 1
    nothing = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(2, 2, 4, 6)
    drawn = draw_predictions(frames, labels, [nothing])
    assert drawn.shape == (32, 72, 3) and drawn.dtype == np.uint8
    assert np.array_equal(drawn[:, :24], drawn[:, 24:48]) and (drawn[4:12, 4:12] != 90).any()
    assert (drawn[:, 48:] == 90).all()


def test_affinities_are_brightest_where_the_cell_came_from() -> None:
    """Each cell has a key of its own, and everything moves by two cells to the right."""
    own = torch.eye(48).view(48, 6, 8)
    keys = torch.stack([own, own.roll(2, 2)])[None]
    frames = np.full((1, 60, 80, 3), 200, np.uint8)
    sheet = draw_affinities(frames, frames, keys)
    assert sheet.shape == (60, 320, 3) and sheet.dtype == np.uint8
    for place, (y, x) in enumerate(QUERIES, 1):
        heat = sheet[:, 80 * place : 80 * place + 80, 0].astype(int) - sheet[:, 80 * place : 80 * place + 80, 2]
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        assert (row // 10, column // 10) == (int(6 * y), (int(8 * x) - 2) % 8)

"""Frames are encoded and shown while others are matched: the same masks, and nothing left behind."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scenes import ColourModel, film, low, prediction, right

from matchcut import Timeline, Tracker, Video, load_model
from matchcut.tracking.device import side_by_side

COUNT = 12
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path, truth = film(tmp_path_factory.mktemp("film") / "film.mkv", COUNT, {1: right, 2: low})
    return Video(path), truth


class Watched(ColourModel):
    """Notes which thread does what, on how many threads of torch, and how many encode or show at a time."""

    def __init__(self):
        super().__init__()
        self.spec.parallel = True
        self.did, self.busy, self.at_once = [], 0, 0

    def note(self, what):
        self.did.append((what, threading.current_thread() is threading.main_thread(), torch.get_num_threads()))

    def beside(self, what):
        self.note(what)
        self.busy += 1
        self.at_once = max(self.at_once, self.busy)
        time.sleep(0.002)
        self.busy -= 1

    def fingerprint(self):
        return "watched"

    def encode(self, frame):
        self.beside("encode")
        return super().encode(frame)

    def segment(self, features, references, state, ids):
        self.note("segment")
        soft = super().segment(features, references, state, ids).masks

        def show():
            self.beside("show")
            return soft

        return prediction(soft, shown=show)


def filled(clip, model, **options):
    video, truth = clip
    timeline = Timeline(video)
    timeline.annotate(0, truth[0])
    Tracker(model, device="cpu", **options).fill(timeline)
    return [timeline.labels(frame) for frame in range(COUNT)]


def test_what_is_not_the_match_runs_beside_it(clip, two_threads):
    model = Watched()
    found = filled(clip, model)
    annotated, *rest = model.did
    assert annotated == ("encode", True, 1)
    assert {one for one in rest if one[0] == "segment"} == {("segment", True, 1)}
    assert {one for one in rest if one[0] != "segment"} == {("encode", False, 1), ("show", False, 1)}
    assert len(rest) == 3 * (COUNT - 1) and model.at_once == 1
    for one, other in zip(found, filled(clip, ColourModel()), strict=True):
        np.testing.assert_array_equal(one, other)
    assert torch.get_num_threads() == 2


def test_on_one_thread_nothing_runs_beside(clip):
    model = Watched()
    filled(clip, model)
    assert torch.get_num_threads() == 1 and all(main for _, main, _ in model.did)


def test_a_model_that_does_not_ask_for_it_is_left_alone(clip, two_threads):
    model = Watched()
    model.spec.parallel = False
    filled(clip, model)
    assert {one[1:] for one in model.did} == {(True, 2)}


@pytest.mark.parametrize("where", ["encode", "segment", "show"])
def test_what_goes_wrong_beside_is_raised_and_leaves_no_thread(clip, two_threads, where):
    class Failing(Watched):
        def note(self, what):
            super().note(what)
            if what == where and len(self.did) > 9:
                raise RuntimeError("out of luck")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="out of luck"):
        filled(clip, Failing())
    assert torch.get_num_threads() == 2 and threading.active_count() == before


def test_mask_vos_gives_the_same_masks_as_on_one_thread(clip):
    model = load_model("mask-vos")
    alone = filled(clip, model, size=64)
    torch.set_num_threads(2)
    try:
        together = filled(clip, model, size=64)
    finally:
        torch.set_num_threads(1)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(np.unique(alone[-1])) == 3


def elsewhere():
    """How many threads of torch a thread begins with that starts now."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@pytest.mark.parametrize(("threads", "each"), [(2, 1), (3, 1), (4, 2)])
def test_threads_are_shared_out_here_alone_and_given_back(threads, each):
    torch.set_num_threads(threads)
    try:
        with pytest.raises(KeyError), side_by_side(CPU) as (apart, got):
            assert apart and got == torch.get_num_threads() == each and elsewhere() == threads
            raise KeyError
        assert torch.get_num_threads() == elsewhere() == threads
        with side_by_side(CPU, wanted=False) as (apart, got):
            assert not apart and got == torch.get_num_threads() == threads
        with side_by_side(torch.device("cuda")) as (apart, got):
            assert not apart and got == torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)


def test_two_trackers_at_once_give_what_each_gives_alone_and_change_no_thread_count(clip, two_threads):
    models = [Watched(), Watched()]
    videos = [(Video(clip[0].source), clip[1]) for _ in models]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(filled, videos, models))
    for one, other, alone in zip(*both, filled(clip, ColourModel()), strict=True):
        np.testing.assert_array_equal(one, alone)
        np.testing.assert_array_equal(other, alone)
    assert {count for model in models for _, _, count in model.did} == {1}
    assert torch.get_num_threads() == elsewhere() == 2

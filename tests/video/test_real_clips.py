"""The clips and frames a user would bring."""

from pathlib import Path

import numpy as np
import pytest
from making_videos import decoded

from matchcut.video.reader import Video

DATA = Path(__file__).parents[3] / "shared" / "data"
CLIPS = sorted((DATA / "clips").glob("*.mp4"))


@pytest.mark.skipif(not CLIPS, reason=f"no clips in {DATA / 'clips'}")
def test_clips():
    for path in CLIPS[-1:]:
        expected = decoded(path)
        video = Video(path)
        assert len(video) == len(expected)
        for index in (0, 50, 49, len(video) - 1):
            assert np.array_equal(video[index], expected[index])


@pytest.mark.skipif(not CLIPS, reason=f"no clips in {DATA / 'clips'}")
@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_length_and_last_frame(path):
    import av

    with av.open(str(path)) as file:
        file.streams.video[0].thread_type = "AUTO"
        for count, frame in enumerate(file.decode(video=0), start=1):
            last, total = frame, count
        image = last.to_ndarray(format="rgb24")
    video = Video(path)
    assert len(video) == total
    assert np.array_equal(video[-1], image)


def test_davis_frames():
    shot = DATA / "davis2017-multi-240p" / "JPEGImages" / "schoolgirls"
    if not shot.is_dir():
        pytest.skip(f"no frames in {shot}")
    video = Video(shot)
    assert video.names() == [f"{index:05d}" for index in range(80)]
    assert video[79].shape == (*video.size, 3)

"""Raw videos and clips: what is found, which frames are drawn, how they are transformed, and what cannot be read."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from matchcut.data.clips import ClipConfig, Clips, choose_frames, draw_maps, draw_view, jitter, warp
from matchcut.data.footage import FrameReader, find_videos, read_reduced, shrink
from matchcut.errors import DatasetError
from matchcut.video.images import read_image
from matchcut.video.reader import Video
from matchcut.video.writer import VideoWriter

STILL: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0}


def picture(seed: int, height: int = 24, width: int = 32) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(seed)
    return cv2.resize(random.integers(0, 256, (4, 5, 3), dtype=np.uint8), (width, height))


def folder_of(root: Path, name: str, total: int, size: tuple[int, int] = (24, 32)) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for frame in range(total):
        Image.fromarray(picture(frame, *size)).save(folder / f"{frame}.jpg", quality=95)
    return folder


def clips_of(root: Path, tmp_path: Path, **settings: Any) -> Clips:
    return Clips(find_videos(root)[0], ClipConfig(**{"size": (16, 16), **settings}), seed=7, cache=tmp_path / "cache")


# --- finding videos


def test_folders_of_images_and_video_files_are_found_and_masks_are_not(tmp_path: Path) -> None:
    root = tmp_path / "data"
    folder_of(root, "JPEGImages/bear", 3)
    folder_of(root, "JPEGImages/bear10", 1)
    folder_of(root, "JPEGImages/bear2", 12)
    folder_of(root, "Annotations/bear", 3)
    folder_of(root, ".hidden/bear", 3)
    folder_of(root, "JPEGImages/@eaDir/bear", 3)
    (root / "JPEGImages" / "notes.txt").write_text("none")
    for name in ("._clip.mp4", "JPEGImages/bear/._0.jpg", "JPEGImages/bear/~$0.jpg"):
        (root / name).write_bytes(b"of some system")
    with VideoWriter(root / "clip.mp4", frame_rate=24) as writer:
        for seed in range(4):
            writer.write(picture(seed))
    (root / "broken.mp4").write_bytes(b"no video")
    (root / "loop").symlink_to(root)
    found, problems = find_videos(root, root / "JPEGImages")
    assert [(one.name, one.total) for one in found] == [
        ("data/clip.mp4", 4),
        ("data/JPEGImages/bear", 3),
        ("data/JPEGImages/bear2", 12),
        ("data/JPEGImages/bear10", 1),
    ]
    assert [path.name for path in found[2].files[:3]] == ["0.jpg", "1.jpg", "2.jpg"]
    assert len(problems) == 1 and "broken.mp4" in problems[0]
    assert [one.name for one in find_videos(root / "clip.mp4")[0]] == ["data/clip.mp4"]


def test_a_folder_without_a_video_says_so(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(DatasetError, match="holds no video, neither a folder of frames nor a video file"):
        find_videos(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        find_videos(tmp_path / "no")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(DatasetError, match=r"left out: .*a\.mp4"):
        find_videos(tmp_path)


# --- reading frames


@pytest.mark.parametrize(("side", "factor"), [(500, 1), (160, 1), (80, 2), (79, 2), (40, 4), (20, 8), (5, 8)])
def test_reduced_decoding_is_as_decoding_and_shrinking(tmp_path: Path, side: int, factor: int) -> None:
    path = tmp_path / "frame.jpg"
    Image.fromarray(picture(1, 160, 240)).save(path, quality=95)
    fast, slow = read_reduced(path, side), shrink(read_image(path), side)
    assert fast.shape == slow.shape == (min(160, side), round(240 * min(160, side) / 160), 3)
    assert np.abs(fast.astype(int) - slow).max() <= (0 if factor == 1 else 6)


def test_other_images_and_turned_ones_come_right(tmp_path: Path) -> None:
    Image.fromarray(picture(1, 64, 96)).save(tmp_path / "a.png")
    assert np.array_equal(read_reduced(tmp_path / "a.png", 64), picture(1, 64, 96))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(picture(1, 64, 96)).save(tmp_path / "b.jpg", exif=exif, quality=95)
    turned = read_reduced(tmp_path / "b.jpg", 32)
    assert turned.shape == (48, 32, 3)
    assert np.abs(turned.astype(int) - shrink(np.rot90(picture(1, 64, 96), -1), 32)).mean() < 4


def test_a_cache_changes_no_pixel_and_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "data", "a", 2)
    videos, _ = find_videos(folder)
    cache = tmp_path / "cache"
    plain = FrameReader(videos, 16, cache).read(0, 1)
    assert not cache.exists()
    keeping = FrameReader(videos, 16, cache, keep_images=True)
    kept = keeping.read(0, 1)
    assert plain is not None and kept is not None and np.array_equal(plain, kept)
    (file,) = cache.rglob("*.npy")
    monkeypatch.setattr("matchcut.data.footage.read_reduced", None)  # nothing is decoded again
    assert np.array_equal(keeping.read(0, 1), kept)  # type: ignore[arg-type]
    monkeypatch.undo()
    file.write_bytes(file.read_bytes()[:90])
    assert np.array_equal(keeping.read(0, 1), kept)  # type: ignore[arg-type]
    assert np.array_equal(np.load(file), kept)


def test_frames_of_a_video_file_are_decoded_once_and_are_its_own(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, frame_rate=24) as writer:
        for seed in range(6):
            writer.write(picture(seed))
    reader = FrameReader(find_videos(path)[0], 320, tmp_path / "cache")
    expected = list(Video(path))
    assert all(np.array_equal(reader.read(0, at), expected[at]) for at in (4, 0, 5))  # type: ignore[arg-type]
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 6
    assert reader.read(0, 6) is None


# --- which frames


def test_a_clip_depends_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name, total in (("a", 7), ("b", 5), ("c", 9)):
        folder_of(root, name, total)
    settings: Any = {"length": 2, "stride": (1, 2), "views": 2, "shake": 0.1, "jitter": 0.2}
    one, other = clips_of(root, tmp_path, **settings), clips_of(root, tmp_path, **settings)
    expected = {key: one.draw(*key) for key in [(0, 0), (0, 1), (0, 4), (1, 0), (1, 4)]}
    np.random.seed(0)
    for key in reversed(expected):
        drawn = other.draw(*key)
        assert drawn.keys() == expected[key].keys()
        assert all(np.array_equal(drawn[name], value) for name, value in expected[key].items())
    first = [expected[key]["maps"] for key in expected]
    assert all(not np.array_equal(a, b) for at, a in enumerate(first) for b in first[:at])
    assert expected[0, 0]["frames"].shape == (2, 2, 16, 16, 3) and expected[0, 0]["frames"].dtype == np.uint8
    assert expected[0, 0]["maps"].shape == (2, 2, 2, 3) and expected[0, 0]["maps"].dtype == np.float32


def test_every_video_is_drawn_once_before_one_comes_again(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in "abcde":
        folder_of(root, name, 2)
    clips = clips_of(root, tmp_path, length=1)
    assert len(clips) == 5 and len(clips_of(root, tmp_path, clips=12)) == 12
    orders = [
        [int(clips.draw(epoch, at + 5 * turn)["video"]) for at in range(5)] for epoch in (0, 1) for turn in (0, 1)
    ]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert clips.describe().startswith("5 videos, 10 frames")
    folder_of(root, "f", 2)
    assert clips_of(root, tmp_path).describe() != clips.describe()


def test_frames_of_other_videos_come_with_a_clip_and_change_nothing_of_it(tmp_path: Path) -> None:
    for level in range(3):
        folder = tmp_path / "data" / str(level)
        folder.mkdir(parents=True)
        for frame in range(4):
            Image.fromarray(np.full((24, 32, 3), 100 * level + 5, np.uint8)).save(folder / f"{frame}.png")
    alone = clips_of(tmp_path / "data", tmp_path)
    videos, seen, seeds = alone.videos, set(), set()
    clips = Clips(videos, alone.config, seed=7, cache=tmp_path / "cache", others=2)
    for index in range(12):
        drawn, same = clips.draw(0, index), alone.draw(0, index)
        assert drawn["others"].shape == (2, 16, 16, 3) and "others" not in same
        assert all(np.array_equal(drawn[name], one) for name, one in same.items())
        levels = {int(one.mean()) // 100 for one in drawn["others"]}
        assert int(drawn["video"]) not in levels
        seen |= {(int(drawn["video"]), level) for level in levels}
        seeds.add(int(drawn["seed"]))
    assert len(seen) == 6 and len(seeds) == 12
    (only,) = Clips(videos[:1], alone.config, seed=7, cache=tmp_path / "cache", others=1).draw(0, 0)["others"]
    assert (only == 5).all()
    for path in (tmp_path / "data" / "1").iterdir():
        path.write_bytes(b"no picture")
    broken = Clips(videos[:2], alone.config, seed=7, cache=tmp_path / "other", others=1).draw(0, 0)
    assert (broken["others"] == 5).all() and (broken["unreadable"] >= 0).any()  # its own stands in


def test_frames_are_equally_far_apart_within_the_video() -> None:
    random = np.random.default_rng(0)
    drawn = [choose_frames(random, 20, 4, (2, 5)) for _ in range(300)]
    assert {tuple(np.diff(one)) for one in drawn} == {(step,) * 3 for step in (2, 3, 4, 5)}
    assert min(one[0] for one in drawn) == 0 and max(one[-1] for one in drawn) == 19
    assert {tuple(np.diff(choose_frames(random, 8, 4, (5, 9)))) for _ in range(20)} == {(2, 2, 2)}
    assert choose_frames(random, 3, 5, (1, 1)) == [0, 0, 1, 2, 2]
    assert choose_frames(random, 1, 3, (1, 4)) == [0, 0, 0]
    assert {choose_frames(random, 3, 1, (1, 1))[0] for _ in range(40)} == {0, 1, 2}


def test_a_video_of_one_frame_gives_that_frame_in_every_place(tmp_path: Path) -> None:
    folder_of(tmp_path / "data", "a", 1)
    drawn = clips_of(tmp_path / "data", tmp_path, length=3).draw(0, 0)
    assert drawn["indices"].tolist() == [0, 0, 0]
    assert np.array_equal(drawn["frames"][0, 0], drawn["frames"][0, 2]) and drawn["frames"].std() > 0


# --- transformations


def test_the_whole_frame_at_its_size_is_the_frame() -> None:
    frame = picture(0, 20, 30)
    config = ClipConfig(size=(20, 30), **STILL)
    crops, maps = draw_view(np.random.default_rng(0), config, [frame, frame])
    assert np.array_equal(crops[0], frame) and np.array_equal(crops[1], frame)
    assert np.allclose(maps[0], [[1 / 30, 0, 0], [0, 1 / 20, 0]])
    mirrored, _ = draw_view(np.random.default_rng(0), ClipConfig(size=(20, 30), **{**STILL, "flip": 1.0}), [frame])
    assert np.array_equal(mirrored[0], frame[:, ::-1])


def test_maps_say_where_each_pixel_is_from() -> None:
    """On a frame whose colours are its coordinates, the crop's colours are what the map says."""
    rows, columns = np.mgrid[0:100, 0:120] + 0.5
    frame = np.stack([columns * 2, rows * 2, rows * 0], axis=-1).astype(np.uint8)  # +-0.5
    config = ClipConfig(size=(40, 50), scale=(0.2, 0.5), ratio=(0.7, 1.4), rotation=30, shake=0.1)
    for seed in range(8):
        crops, maps = draw_view(np.random.default_rng(seed), config, [frame] * 3)
        for crop, one in zip(crops, maps, strict=True):
            y, x = np.mgrid[0:40, 0:50] + 0.5
            there = np.stack([x, y, np.ones_like(x)], axis=-1) @ one.T * (120, 100)  # in pixels of the frame
            inside = ((there > 2) & (there < (118, 98))).all(-1)
            assert inside.mean() > 0.3
            assert np.abs(crop[..., :2] - 2 * there)[inside].max() < 2.5
        assert not np.allclose(maps[0], maps[1], atol=1e-3)


def test_crops_cover_the_area_asked_for_and_all_frames_alike() -> None:
    config = ClipConfig(size=(32, 32), scale=(0.3, 0.6), ratio=(0.8, 1.25))
    areas, mirrored = [], []
    for seed in range(200):
        maps = draw_maps(np.random.default_rng(seed), config, (90, 160), 3)
        assert np.array_equal(maps[0], maps[1]) and np.array_equal(maps[0], maps[2])
        corners = np.array([[0, 0, 1], [32, 32, 1]]) @ maps[0].T
        assert corners.min() > -1e-9 and corners.max() < 1 + 1e-9
        width, height = np.abs(corners[1] - corners[0])
        areas.append(width * height)
        mirrored.append(corners[1, 0] < corners[0, 0])
        assert 0.8 - 1e-9 <= width * 160 / (height * 90) <= 1.25 + 1e-9
    assert 0.3 - 1e-9 <= min(areas) < 0.33 and 0.57 < max(areas) <= 0.6 + 1e-9
    assert 0.4 < np.mean(mirrored) < 0.6


def test_label_maps_are_warped_without_new_ids() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[5:15, 5:15] = 9
    shifted = warp(labels, np.array([[1 / 20, 0, 0.25], [0, 1 / 20, 0]]), (20, 20), nearest=True)
    expected = np.zeros((20, 20), np.uint8)
    expected[5:15, 0:10] = 9
    assert np.array_equal(shifted, expected)


def test_jitter_is_that_of_its_definition() -> None:
    frames = np.stack([picture(1), picture(2)])
    changed = jitter(np.random.default_rng(5), frames, 0.3)
    brightness, contrast, saturation = 1 + 0.3 * np.random.default_rng(5).uniform(-1, 1, 3)
    values = frames.astype(float)
    grey = (values @ [0.299, 0.587, 0.114])[..., None]
    mean = grey[0].mean()
    values = saturation * values + (1 - saturation) * grey
    values = brightness * (contrast * values + (1 - contrast) * mean)
    assert np.abs(changed - np.clip(values, 0, 255)).max() <= 1  # OpenCV multiplies bytes in fixed point
    assert np.array_equal(jitter(np.random.default_rng(5), frames, 0.0), frames)


# --- what cannot be read


def test_the_nearest_readable_frame_stands_in_and_the_other_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data", "a", 4)
    for index in (1, 2):
        (folder / f"{index}.jpg").write_bytes((folder / f"{index}.jpg").read_bytes()[:300])
    clips = clips_of(folder, tmp_path, length=4)
    drawn = clips.draw(0, 0)
    assert drawn["indices"].tolist() == [0, 0, 3, 3]
    assert drawn["unreadable"].tolist() == [[0, 1], [0, 2], [-1, -1], [-1, -1]]
    assert clips.unreadable(drawn) == [str(folder / "1.jpg"), str(folder / "2.jpg")]
    assert clips.draw(0, 1)["unreadable"].tolist() == drawn["unreadable"].tolist()


def test_of_a_video_that_cannot_be_read_at_all_the_next_is_taken(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for path in folder_of(root, "a", 3).iterdir():
        path.write_bytes(b"no image")
    folder_of(root, "b", 3)
    clips = clips_of(root, tmp_path, length=2)
    drawn = [clips.draw(0, index) for index in range(2)]
    assert [int(one["video"]) for one in drawn] == [1, 1]
    named = [clips.unreadable(one) for one in drawn if clips.unreadable(one)]
    assert len(named) == 1 and all("a" in Path(name).parts for name in named[0])


@pytest.mark.parametrize(
    "settings",
    [{"length": 0}, {"stride": (2, 1)}, {"scale": (0.0, 1.0)}, {"ratio": (2.0, 1.0)}, {"flip": 1.5}, {"clips": -1}],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        ClipConfig(**settings)

"""Each benchmark in its published layout: what is found, how truth is read, and what damage the check names."""

import json

import numpy as np
import pytest
from layouts import (
    SIZE,
    davis,
    davis_pairs,
    fbms,
    image,
    jhmdb,
    joint_file,
    labels,
    mask,
    meta,
    segtrack,
    text,
    vip,
    visal,
    white,
    youtube_objects,
    youtube_vos,
)
from PIL import Image

from matchcut.data import DATASETS, SPLITS, check, is_seen, prompts, read_dataset, read_joints, read_truth
from matchcut.data.sequence import read_file
from matchcut.errors import DatasetError
from matchcut.video.writer import VideoWriter

ROWS = labels(1)


def only(lines, *parts):
    """That there is one line, which holds all parts."""
    assert len(lines) == 1, lines
    for part in parts:
        assert part in lines[0]


def cut(path):
    """Leave the first half of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


# --- DAVIS


@pytest.mark.parametrize("mode", [None, "1", "L"])
def test_davis2016_with_its_own_lists(tmp_path, mode):
    davis(tmp_path, ids=((255,), (255,), (255,)), names=("bear", "bus", "unlisted"), mode=mode)
    davis_pairs(tmp_path, "val")
    bear, bus = read_dataset("davis2016", tmp_path)
    assert (bear.name, bus.name) == ("bear", "bus")
    assert list(bear.images) == list(bear.truths) == ["00000", "00001", "00002"]
    assert bear.images["00001"] == tmp_path / "JPEGImages/480p/bear/00001.jpg"
    np.testing.assert_array_equal(read_truth(bear, "00002"), ROWS)  # 255 is the object here
    assert prompts(bear) == {"00000": (1,)}
    assert check([bear, bus]) == []


def test_davis2016_in_the_archive_of_2017(tmp_path):
    davis(tmp_path, ids=((3, 1), (3, 1)))
    text(tmp_path / "ImageSets/2016/val.txt", "bus", "")
    (bus,) = read_dataset("davis2016", tmp_path, "val")
    assert bus.name == "bus" and check([bus]) == []
    np.testing.assert_array_equal(read_truth(bus, "00000"), labels(1, 1))


def test_davis2016_without_lists_or_level(tmp_path):
    davis(tmp_path, level=".", names=("b10", "b2"))
    assert [one.name for one in read_dataset("davis2016", tmp_path, "train")] == ["b2", "b10"]


def test_lists_that_cannot_be_used(tmp_path):
    davis(tmp_path)
    davis_pairs(tmp_path, "train")
    with pytest.raises(DatasetError, match=r"val\.txt.*choose one of: train"):
        read_dataset("davis2016", tmp_path, "val")
    text(tmp_path / "ImageSets/480p/val.txt", "", " ")
    with pytest.raises(DatasetError, match=r"val\.txt: the split is empty"):
        read_dataset("davis2016", tmp_path, "val")
    text(tmp_path / "ImageSets/480p/val.txt", "bear")
    with pytest.raises(DatasetError, match="'bear' is not a pair"):
        read_dataset("davis2016", tmp_path, "val")


def test_names_splits_and_roots_that_are_not_there(tmp_path):
    with pytest.raises(DatasetError, match="'davis2018'; choose one of: davis2016"):
        read_dataset("davis2018", tmp_path)
    with pytest.raises(DatasetError, match="no split 'dev'; choose one of: val, train, test-dev"):
        read_dataset("davis2017", tmp_path, "dev")
    with pytest.raises(DatasetError, match="gone: no such folder"):
        read_dataset("davis2017", tmp_path / "gone")
    assert DATASETS.keys() == SPLITS.keys()


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_an_empty_root_is_refused_in_one_line(tmp_path, name):
    with pytest.raises(DatasetError) as caught:
        read_dataset(name, tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("level", ["480p", "Full-Resolution", "."])
def test_davis2017(tmp_path, level):
    davis(tmp_path, ids=((2, 1), (2,), (1, 255)), level=level)
    text(tmp_path / "ImageSets/2017/val.txt", "bus")
    (bus,) = read_dataset("davis2017", tmp_path)
    assert prompts(bus) == {"00000": (1, 2)}
    np.testing.assert_array_equal(read_truth(bus, "00002"), labels(1, 255))
    assert check([bus]) == []


def test_davis2017_test_sets_hold_the_first_mask_only(tmp_path):
    davis(tmp_path, ids=((1, 2), None, None))
    text(tmp_path / "ImageSets/2017/test-dev.txt", "bear")
    text(tmp_path / "ImageSets/2017/val.txt", "bear")
    (bear,) = read_dataset("davis2017", tmp_path, "test-dev")
    assert list(bear.truths) == ["00000"] and len(bear.images) == 3 and check([bear]) == []
    lines = check(read_dataset("davis2017", tmp_path, "val"))
    assert [line.split(": ")[1] for line in lines] == ["its ground truth is missing; restore it"] * 2


def test_davis2017_automatic_has_its_own_masks_and_lists(tmp_path):
    davis(tmp_path, ids=((1,), (1,)), names=("bear",))
    davis(tmp_path, ids=((1, 255), (1, 255)), names=("bear",), truths="Annotations_unsupervised")
    text(tmp_path / "ImageSets/2017/val.txt", "bear")
    text(tmp_path / "ImageSets/2019/test-dev.txt", "bear")
    for split in ("val", "test-dev"):
        (bear,) = read_dataset("davis2017-automatic", tmp_path, split)
        np.testing.assert_array_equal(read_truth(bear, "00000"), labels(1, 255))
        assert prompts(bear) == {"00000": (1,)}
    with pytest.raises(DatasetError, match=r"2019.*test-challenge"):
        read_dataset("davis2017-automatic", tmp_path, "test-challenge")


def test_a_mask_of_void_alone_is_void_not_an_object(tmp_path):
    davis(tmp_path, ids=((1,), (255,)), names=("bear",), truths="Annotations_unsupervised")
    (bear,) = read_dataset("davis2017-automatic", tmp_path)
    assert set(np.unique(read_truth(bear, "00001"))) == {0, 255}


def test_all_damage_is_listed_at_once(tmp_path):
    davis(tmp_path, ids=((1, 2),) * 5, names=("bear", "bus"))
    text(tmp_path / "ImageSets/2017/val.txt", "bear", "bus", "gone")
    images, masks = tmp_path / "JPEGImages/480p", tmp_path / "Annotations/480p"
    (images / "bear/00001.jpg").unlink()
    (masks / "bear/00002.png").unlink()
    cut(masks / "bear/00003.png")
    mask(masks / "bear/00004.png", labels(1, size=(6, 16)))
    image(images / "bus/00001.jpg", size=(10, 16))
    (images / "bus/00002.jpg").write_bytes(b"no image")
    mask(masks / "bus/00003.png", labels(1, 7))
    mask(masks / "bus/00004.png", white(1))
    lines = check(read_dataset("davis2017", tmp_path))
    expected = [
        ("JPEGImages/480p/bear", "frames 00001 are missing"),
        ("JPEGImages/480p/bear/00002.jpg", "its ground truth is missing"),
        ("Annotations/480p/bear/00001.png", "there is no frame of this name"),
        ("Annotations/480p/bear/00003.png", "cannot be read as a mask"),
        ("Annotations/480p/bear/00004.png", "is 16x6, but its frame is 16x12"),
        ("JPEGImages/480p/bus/00001.jpg", "is 16x10, but 00000.jpg is 16x12"),
        ("JPEGImages/480p/bus/00002.jpg", "cannot be read as an image"),
        ("Annotations/480p/bus/00001.png", "is 16x12, but its frame is 16x10"),
        ("Annotations/480p/bus/00003.png", "holds ids 7, which the first mask, 00000.png, lacks"),
        ("Annotations/480p/bus/00004.png", "not a palette or 8-bit grey image"),
        ("JPEGImages/480p/gone", "no such folder"),
        ("Annotations/480p/gone", "no such folder"),
    ]
    assert len(lines) == len(expected), lines
    for line, (path, problem) in zip(lines, expected, strict=True):
        assert line.startswith(f"{tmp_path / path}: ") and problem in line and "\n" not in line


def test_files_that_a_list_of_pairs_names_must_be_there(tmp_path):
    davis(tmp_path, names=("bear",))
    davis_pairs(tmp_path, "val", names=("bear",))
    (tmp_path / "Annotations/480p/bear/00001.png").unlink()
    (tmp_path / "JPEGImages/480p/bear/00002.jpg").unlink()
    lines = check(read_dataset("davis2016", tmp_path))
    assert [line.split("480p/")[1] for line in lines] == [
        "bear/00002.jpg: missing; restore it",
        "bear/00001.png: missing; restore it",
    ]


def test_masks_without_any_object_no_sequence_and_one_listed_twice(tmp_path):
    davis(tmp_path, ids=((), ()), names=("bear",))
    text(tmp_path / "ImageSets/2017/val.txt", "bear")
    (bear,) = read_dataset("davis2017", tmp_path)
    only(check([bear]), "bear: no mask holds an object")
    assert prompts(bear) == {}
    only(check([]), "no sequence to read")
    assert check([bear, bear])[0] == "bear: listed twice; remove one"


def test_a_frame_without_truth_is_said_so(tmp_path):
    davis(tmp_path, names=("bear",))
    (bear,) = read_dataset("davis2016", tmp_path)
    with pytest.raises(DatasetError, match="bear: frame 00009 has no ground truth"):
        read_truth(bear, "00009")
    with pytest.raises(DatasetError, match="has no joints"):
        read_joints(bear)


# --- YouTube-VOS


@pytest.mark.parametrize("name", ["youtube-vos-2018", "youtube-vos-2019"])
def test_youtube_vos(tmp_path, name):
    youtube_vos(tmp_path)
    meta(tmp_path / "train/meta.json", {"1": ("dog", ["00000"])}, video="other")
    (video,) = read_dataset(name, tmp_path)
    assert video.name == "0a1b" and list(video.images) == ["00000", "00005", "00010", "00015"]
    assert prompts(video) == {"00005": (2,), "00010": (5,)}
    assert video.objects[5].category == "squirrel" and video.objects[5].frames[0] == "00010"
    assert is_seen(video, 2) and not is_seen(video, 5)
    assert check([video]) == []
    with pytest.raises(DatasetError, match="no object 3"):
        is_seen(video, 3)


@pytest.mark.parametrize("name", ["../../../up", "..", "/tmp/up", "C:\\up", "a\\b", "a/b", "a\0b", ""])
def test_names_that_lead_out_of_a_folder_are_refused(tmp_path, name):
    """Masks are filed under them, and the zip of a submission has them inside."""
    youtube_vos(tmp_path)
    path = tmp_path / "valid/meta.json"
    whole = json.loads(path.read_text())
    renamed = {"videos": {name: whole["videos"]["0a1b"]}}
    whole["videos"]["0a1b"]["objects"]["5"]["frames"] = ["00010", name]
    for content in (renamed, whole):
        path.write_text(json.dumps(content))
        with pytest.raises(DatasetError, match="not the name of a sequence or frame") as caught:
            read_dataset("youtube-vos-2019", tmp_path)
        assert repr(name) in str(caught.value) and "\n" not in str(caught.value)


def test_a_list_cannot_lead_out_of_a_folder(tmp_path):
    davis(tmp_path)
    text(tmp_path / "ImageSets/2017/val.txt", "bear\n../480p/bear\n")
    with pytest.raises(DatasetError, match=r"'\.\./480p/bear': not the name"):
        read_dataset("davis2017", tmp_path)


def test_youtube_vos_does_not_guess_what_is_seen(tmp_path):
    (video,) = read_dataset("youtube-vos-2018", youtube_vos(tmp_path))
    assert check([video]) == []
    with pytest.raises(DatasetError, match=r"'squirrel' of object 5.*put train/meta\.json"):
        is_seen(video, 5)


@pytest.mark.parametrize("place", ["valid_all_frames", "all_frames/valid_all_frames"])
def test_youtube_vos_with_all_frames(tmp_path, place):
    youtube_vos(tmp_path)
    for index in range(18):
        image(tmp_path / place / "JPEGImages/0a1b" / f"{index:05d}.jpg")
    (video,) = read_dataset("youtube-vos-2019", tmp_path, "valid_all_frames")
    assert len(video.images) == 18 and list(video.truths) == ["00000", "00005", "00010"]
    assert check([video]) == []


def test_youtube_vos_damage(tmp_path):
    youtube_vos(tmp_path)
    mask(tmp_path / "valid/Annotations/0a1b/00010.png", labels(2, 4))
    (tmp_path / "valid/JPEGImages/0a1b/00015.jpg").unlink()
    lines = check(read_dataset("youtube-vos-2018", tmp_path))
    assert len(lines) == 3
    assert "frames 00015 of meta.json are missing" in lines[0]
    assert "00010.png: holds ids 4, but 2, 5 are allowed" in lines[1]
    assert lines[2].startswith("0a1b: object 5 of meta.json stands in no mask")


@pytest.mark.parametrize("content", ["{", "[]", '{"videos": {"a": {}}}', '{"videos": {"a": {"objects": {"x": {}}}}}'])
def test_youtube_vos_with_a_damaged_meta(tmp_path, content):
    text(youtube_vos(tmp_path) / "valid/meta.json", content)
    with pytest.raises(DatasetError, match=r"valid/meta\.json: not the meta\.json"):
        read_dataset("youtube-vos-2018", tmp_path)


def test_youtube_vos_without_a_video(tmp_path):
    text(youtube_vos(tmp_path) / "valid/meta.json", '{"videos": {}}')
    with pytest.raises(DatasetError, match="the split is empty"):
        read_dataset("youtube-vos-2018", tmp_path)


# --- moving and salient objects


def test_segtrack_v2(tmp_path):
    drift, girl = read_dataset("segtrack-v2", segtrack(tmp_path))
    assert [path.name for path in drift.truths["drift_1"]] == ["drift_1.bmp", "drift_1.png"]
    both = read_truth(drift, "drift_1")
    np.testing.assert_array_equal(both, ROWS + 2 * np.roll(ROWS, 5, axis=0))
    assert prompts(drift) == {"drift_0": (1,), "drift_1": (2,)}
    np.testing.assert_array_equal(read_truth(girl, "girl_2"), ROWS)  # a JPEG
    assert prompts(girl) == {"girl_0": (1,)}
    assert check([drift, girl]) == []


def test_segtrack_v2_later_objects_lie_over_earlier(tmp_path):
    drift, _ = read_dataset("segtrack-v2", segtrack(tmp_path))
    mask(drift.truths["drift_2"][1], white(1))
    np.testing.assert_array_equal(read_truth(drift, "drift_2"), 2 * ROWS)


def test_segtrack_v2_damage(tmp_path):
    segtrack(tmp_path)
    (tmp_path / "GroundTruth/drift/2/drift_1.png").unlink()
    cut(tmp_path / "GroundTruth/drift/1/drift_2.bmp")
    (tmp_path / "GroundTruth/girl/girl_1.bmp").unlink()
    mask(tmp_path / "GroundTruth/drift/2/drift_0.png", white(1, size=(9, 9)))
    found = read_dataset("segtrack-v2", tmp_path)
    lines = check(found)
    assert len(lines) == 4
    assert "2/drift_0.png: is 9x9" in lines[0] and "2/drift_1.png: missing" in lines[1]
    assert "1/drift_2.bmp: cannot be read as a mask" in lines[2]
    assert "girl_1.bmp: its ground truth is missing" in lines[3]
    with pytest.raises(DatasetError, match="differs in size"):
        read_truth(found[0], "drift_0")


def test_fbms(tmp_path):
    bear, cars = read_dataset("fbms", fbms(tmp_path))
    assert len(bear.images) == 41 and list(bear.truths) == ["bear01_0001", "bear01_0021", "bear01_0041"]
    foreground = np.zeros(SIZE, np.uint8)
    foreground[3:9] = 1  # black and white rows are background
    np.testing.assert_array_equal(read_truth(bear, "bear01_0021"), foreground)
    np.testing.assert_array_equal(read_truth(cars, "cars1_41"), labels(1, 1))
    assert check([bear, cars]) == []
    with pytest.raises(DatasetError, match="no folder Trainingset"):
        read_dataset("fbms", tmp_path, "train")


def test_fbms_with_merged_masks_in_inst(tmp_path):
    fbms(tmp_path)
    mask(tmp_path / "inst/test/bear01/bear01_0021.png", labels(255), "L")
    bear, _ = read_dataset("fbms", tmp_path)
    assert list(bear.truths) == ["bear01_0021"]
    np.testing.assert_array_equal(read_truth(bear, "bear01_0021"), ROWS)


def test_fbms_damage(tmp_path):
    fbms(tmp_path)
    ground = tmp_path / "Testset/bear01/GroundTruth"
    (ground / "bear01_0021_gt.ppm").unlink()
    cut(ground / "bear01_0041_gt.ppm")
    (tmp_path / "Testset/cars1/cars1_21.jpg").unlink()
    lines = check(read_dataset("fbms", tmp_path))
    assert len(lines) == 3
    assert "bear01_0021_gt.ppm: missing, but the Def.dat" in lines[0]
    assert "bear01_0041_gt.ppm: cannot be read" in lines[1]
    assert "cars1_21.pgm: there is no frame of this name" in lines[2]


def test_visal(tmp_path):
    cat, lion = read_dataset("visal", visal(tmp_path))
    assert len(cat.images) == 4 and list(cat.truths) == ["cat_001", "cat_003"]
    np.testing.assert_array_equal(read_truth(lion, "lion_003"), ROWS)
    assert check([cat, lion]) == []


def test_visal_with_a_folder_of_masks_a_video(tmp_path):
    visal(tmp_path)
    for path in list((tmp_path / "GroundTruth").iterdir()):
        inner = tmp_path / "GroundTruth" / path.name.split("_")[0]
        inner.mkdir(exist_ok=True)
        path.rename(inner / path.name)
    found = read_dataset("visal", tmp_path)
    assert [list(one.truths) for one in found] == [["cat_001", "cat_003"], ["lion_001", "lion_003"]]


def test_visal_damage(tmp_path):
    visal(tmp_path)
    mask(tmp_path / "GroundTruth/cow_001.bmp", labels(255), "L")
    cut(tmp_path / "GroundTruth/cat_003.bmp")
    for path in (tmp_path / "GroundTruth").glob("lion*"):
        path.unlink()
    lines = check(read_dataset("visal", tmp_path))
    assert len(lines) == 3
    assert "cow_001.bmp: no frame has this name" in lines[0] and "cat_003.bmp: cannot be read" in lines[1]
    assert lines[2].startswith("lion: has no ground truth")


@pytest.mark.parametrize("moved", [False, True])
def test_youtube_objects(tmp_path, moved):
    youtube_objects(tmp_path)
    if moved:  # the frames of the first release, under v1
        for shot in tmp_path.glob("youtube_masks/*/data/*/shots/001"):
            target = tmp_path / "v1" / shot.relative_to(tmp_path / "youtube_masks")
            target.parent.mkdir(parents=True)
            (shot / "images").rename(target)
    cat, train = read_dataset("youtube-objects", tmp_path)
    assert (cat.name, train.name, cat.objects[1].category) == ("cat_0003_001", "train_0001_001", "cat")
    assert len(cat.images) == 11 and list(cat.truths) == ["frame0001", "frame0011"]
    assert read_truth(cat, "frame0011")[1, 7] == 1 and read_truth(cat, "frame0011")[10, 1] == 0
    assert check([cat, train]) == []


def test_youtube_objects_damage(tmp_path):
    shot = youtube_objects(tmp_path) / "youtube_masks/cat/data/0003/shots/001"
    (shot / "images/frame0011.jpg").unlink()
    cut(shot / "labels/00001.jpg")
    lines = check(read_dataset("youtube-objects", tmp_path))
    assert len(lines) == 2
    assert "00011.jpg: there is no frame" in lines[0] and "00001.jpg: cannot be read as a mask" in lines[1]


# --- label propagation


@pytest.mark.parametrize("above", ["", "VIP_Fine"])
def test_vip(tmp_path, above):
    vip(tmp_path / above)
    first, second = read_dataset("vip", tmp_path)
    assert (first.name, second.name) == ("videos1", "videos2") and first.objects[13].category == "face"
    np.testing.assert_array_equal(read_truth(second, f"{26:012d}"), labels(2, 13, 19))
    assert prompts(first) == {f"{1:012d}": (2, 13, 19)}
    assert check([first, second]) == []


def test_vip_damage(tmp_path):
    vip(tmp_path)
    annotations = tmp_path / "Annotations/Category_ids"
    mask(annotations / "videos1" / f"{26:012d}.png", labels(20), "L")
    (annotations / "videos2" / f"{26:012d}.png").unlink()
    lines = check(read_dataset("vip", tmp_path))
    assert len(lines) == 2
    assert "holds ids 20, but 1, 2" in lines[0] and "its ground truth is missing" in lines[1]


def test_jhmdb(tmp_path):
    jhmdb(tmp_path)
    catch, jump = read_dataset("jhmdb", tmp_path)
    assert (catch.name, jump.name) == ("first_catch", "hop_jump")
    assert [one.name for one in read_dataset("jhmdb", tmp_path, "train")] == ["second (1)_catch"]
    joints = read_joints(catch)  # from x 1, y 46 for the first joint of the first frame
    assert joints.shape == (3, 15, 2) and joints[0, 0].tolist() == [0, 45] and joints[2, 1].tolist() == [5, 50]
    assert prompts(catch) == {"00001": tuple(range(1, 16))}
    assert check([catch, jump]) == []
    with pytest.raises(DatasetError, match="use read_joints"):
        read_truth(catch, "00001")
    with pytest.raises(DatasetError, match=r"no <class>_test_split2\.txt"):
        read_dataset("jhmdb", tmp_path, "test2")


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (lambda path: path.unlink(), "joint_positions.mat: missing"),
        (cut, "not a joint file with pos_img"),
        (lambda path: joint_file(path, np.zeros((3, 15, 3))), r"pos_img is (3, 15, 3), expected (2, joints, frames)"),
        (lambda path: joint_file(path, np.ones((2, 15, 9))), "holds 3 frames, but there are joints for 9"),
    ],
)
def test_jhmdb_damage(tmp_path, break_it, problem):
    break_it(jhmdb(tmp_path) / "joint_positions/jump/hop_jump/joint_positions.mat")
    only(check(read_dataset("jhmdb", tmp_path)), problem, "hop_jump")


def test_jhmdb_with_a_malformed_list(tmp_path):
    text(jhmdb(tmp_path) / "splits/jump_test_split1.txt", "hop_jump.avi")
    with pytest.raises(DatasetError, match=r"jump_test_split1\.txt: the line 'hop_jump.avi'"):
        read_dataset("jhmdb", tmp_path)


# --- a user's own


def test_folder_of_one_sequence(tmp_path):
    root = tmp_path / "mine"
    for index in (1, 2, 10):
        image(root / "frames" / f"f{index}.jpg")
    mask(root / "masks/f2.png", labels(255), "L")  # binary: any form that read_mask takes
    mask(root / "masks/f10.png", labels(1, 3))
    (mine,) = read_dataset("folder", root)
    assert mine.name == "mine" and list(mine.images) == ["f1", "f2", "f10"]
    assert prompts(mine) == {"f2": (1,), "f10": (3,)}
    assert check([mine]) == []
    cut(root / "masks/f2.png")
    only(check([mine]), "masks/f2.png: ", "damaged")


def test_folder_of_several_sequences(tmp_path):
    davis(tmp_path, level=".", ids=((1,), None), names=("a", "b"))
    found = read_dataset("folder", tmp_path)
    assert [(one.name, len(one.images), list(one.truths)) for one in found] == [
        ("a", 2, ["00000"]),
        ("b", 2, ["00000"]),
    ]
    assert check(found) == []
    image(tmp_path / "JPEGImages/a/00001.png")
    only(check(read_dataset("folder", tmp_path)), "00001.png: a second file of this frame beside 00001.jpg")


def test_folder_with_a_video(tmp_path, data):
    clip = tmp_path / "clip.mp4"
    clip.symlink_to(data / "clips/01_dog.mp4")
    mask(tmp_path / "masks/00000.png", labels(1))
    (mine,) = read_dataset("folder", tmp_path)
    assert len(mine.images) > 10 and set(mine.images.values()) == {clip} and next(iter(mine.images)) == "00000"
    only(check([mine]), "00000.png: is 16x12, but its frame is ")


def test_folder_with_a_file_that_is_no_video(tmp_path):
    text(tmp_path / "clip.mp4", "no video")
    with pytest.raises(DatasetError, match=r"clip\.mp4"):
        read_dataset("folder", tmp_path)


# --- real data


@pytest.mark.parametrize(
    ("name", "place", "split", "sequences", "frames", "truths"),
    [
        ("davis2016", "davis2016-dev-480p", "val", 8, 545, 545),
        ("davis2017", "davis2017-multi-240p", "val", 1, 80, 80),
        ("davis2017", "davis2017-testdev-256p", "test-dev", 22, 1490, 22),
    ],
)
def test_real_data(data, name, place, split, sequences, frames, truths):
    found = read_dataset(name, data / place, split)
    assert len(found) == sequences
    assert sum(len(one.images) for one in found) == frames and sum(len(one.truths) for one in found) == truths
    assert check(found) == []
    assert all(next(iter(prompts(one))) == "00000" for one in found)


def test_colours_of_a_folder_are_the_same_objects_in_all_its_masks(tmp_path):
    red, blue = (250, 50, 83), (61, 61, 245)
    root = tmp_path / "mine"
    for index, (present, table) in enumerate((((1, 2), (red, blue)), ((1,), (red,)), ((1, 2), (red, blue)))):
        image(root / "frames" / f"{index}.jpg")
        mask(root / "masks" / f"{index}.png", np.array([(0, 0, 0), *table], np.uint8)[labels(*present)])
    (mine,) = read_dataset("folder", root)
    first, second = read_truth(mine, "0"), read_truth(mine, "1")
    assert set(np.unique(first)) == {0, 1, 2} and prompts(mine) == {"0": (1, 2)}
    np.testing.assert_array_equal(second > 0, labels(1) > 0)
    assert second.max() == first[0, 5]  # the upper row
    assert check([mine]) == []
    mask(root / "masks/1.png", labels(1), "L")
    (mine,) = read_dataset("folder", root)
    only(check([mine]), "masks/1.png", "bring all masks of a video to one kind")


# --- which files count

STRANGERS = (".DS_Store", "Thumbs.db", "desktop.ini", "._clip.mp4", "._00000.jpg", "~$00000.png")


def clutter(*folders):
    """What systems put beside data."""
    for folder in folders:
        for name in STRANGERS:
            (folder / name).write_bytes(b"\0\5\x16\7")
        (folder / "@eaDir").mkdir()
        (folder / "@eaDir/00000.jpg").write_bytes(b"x")
        (folder / "__MACOSX").mkdir()
    return folders


@pytest.mark.parametrize(
    "data", [b"\xef\xbb\xbfbear\r\nbus  \r\n\r\n", "bear\nbus\n".encode("utf-16")], ids=["utf-8", "utf-16"]
)
def test_a_list_with_a_byte_order_mark(tmp_path, data):
    davis(tmp_path)
    text(tmp_path / "ImageSets/2017/val.txt").write_bytes(data)
    found = read_dataset("davis2017", tmp_path)
    assert [one.name for one in found] == ["bear", "bus"] and check(found) == []


def test_what_systems_put_beside_data_does_not_count(tmp_path):
    root = davis(tmp_path / "davis")
    clutter(root, *(root / kind / "480p" for kind in ("JPEGImages", "Annotations")), root / "Annotations/480p/bear")
    found = read_dataset("davis2017", root)
    assert [one.name for one in found] == ["bear", "bus"] and check(found) == []

    for name in ("a", "b"):
        image(tmp_path / "many/frames" / name / "0.JPG")
        mask(tmp_path / "many/masks" / name / "0.PNG", labels(1))
    clutter(tmp_path / "many/frames", tmp_path / "many/masks", tmp_path / "many/frames/a")
    found = read_dataset("folder", tmp_path / "many")
    assert [one.name for one in found] == ["a", "b"] and check(found) == []

    clip = tmp_path / "film/clip.mp4"
    clip.parent.mkdir()
    with VideoWriter(clip, frame_rate=24) as writer:
        for index in range(2):
            writer.write(np.full((16, 16, 3), 60 * index, np.uint8))
    mask(tmp_path / "film/masks/00000.png", labels(1, size=(16, 16)))
    clutter(clip.parent)
    (film,) = read_dataset("folder", clip.parent)
    assert list(film.images) == ["00000", "00001"] and check([film]) == []


@pytest.mark.parametrize("layout", [segtrack, fbms, visal, youtube_objects, vip, jhmdb, youtube_vos])
def test_no_benchmark_minds_them(tmp_path, layout):
    name = {"segtrack": "segtrack-v2", "youtube_objects": "youtube-objects", "youtube_vos": "youtube-vos-2019"}
    layout(tmp_path)
    before = read_dataset(name.get(layout.__name__, layout.__name__), tmp_path)
    clutter(*[path for path in tmp_path.rglob("*") if path.is_dir()])
    assert read_dataset(name.get(layout.__name__, layout.__name__), tmp_path) == before


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_ids_of_a_truth_of_any_depth(tmp_path, kind):
    path = tmp_path / "1.tif"
    Image.fromarray(labels(1, 200).astype(kind)).save(path)
    np.testing.assert_array_equal(read_file(path, "ids"), labels(1, 200))
    np.testing.assert_array_equal(read_file(path, "binary"), labels(1, 1))
    np.testing.assert_array_equal(read_file(path, "grey"), labels(0, 1))

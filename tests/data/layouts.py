"""Small copies of the published layouts, with real image files."""

import json

import numpy as np
import scipy.io
from PIL import Image

SIZE = (12, 16)  # (H, W)


def image(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def labels(*ids, size=SIZE):
    """A label map with a row of 3 pixels' height for each id."""
    made = np.zeros(size, np.uint8)
    for index, number in enumerate(ids):
        made[3 * index : 3 * index + 3, 4:12] = number
    return made


def mask(path, values, mode=None):
    """A mask file: palette by default, or of another mode; grey ones as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.fromarray(values)
    if mode == "1":
        made = Image.fromarray(values > 0)
    elif mode is None and values.ndim == 2:
        made.putpalette([value for i in range(256) for value in (i, 0, 255 - i)])
    made.save(path)
    return path


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def davis(root, ids=((1,), (1,), (1,)), names=("bear", "bus"), level="480p", truths="Annotations", mode=None):
    for name in names:
        for index, present in enumerate(ids):
            image(root / "JPEGImages" / level / name / f"{index:05d}.jpg")
            if present is not None:
                mask(root / truths / level / name / f"{index:05d}.png", labels(*present), mode)
    return root


def davis_pairs(root, split, names=("bear", "bus"), frames=3):
    pairs = [f"480p/{name}/{index:05d}" for name in names for index in range(frames)]
    text(root / "ImageSets/480p" / f"{split}.txt", *(f"/JPEGImages/{p}.jpg /Annotations/{p}.png" for p in pairs))


def youtube_vos(root, split="valid"):
    """One video: no object on its first frame, then 2 enters, then 5; ids have a gap."""
    base = root / split
    frames = ["00000", "00005", "00010", "00015"]
    for frame in frames:
        image(base / "JPEGImages/0a1b" / f"{frame}.jpg")
    mask(base / "Annotations/0a1b/00000.png", labels())
    mask(base / "Annotations/0a1b/00005.png", labels(2))
    mask(base / "Annotations/0a1b/00010.png", labels(2, 5))
    meta(base / "meta.json", {"2": ("dog", frames[1:]), "5": ("squirrel", frames[2:])})
    return root


def meta(path, objects, video="0a1b"):
    found = {i: {"category": category, "frames": frames} for i, (category, frames) in objects.items()}
    text(path, json.dumps({"videos": {video: {"objects": found}}}))


def white(*rows, size=SIZE):
    """An RGB mask, white where the object is."""
    return np.repeat((labels(*rows, size=size) > 0).astype(np.uint8)[..., None] * 255, 3, axis=2)


def segtrack(root):
    for index, suffix in enumerate((".png", ".bmp", ".jpg")):
        image(root / "JPEGImages/drift" / f"drift_{index}{suffix}")
        mask(root / "GroundTruth/drift/1" / f"drift_{index}.bmp", white(1))
        below = np.roll(white(1), 5, axis=0) if index else white()
        mask(root / "GroundTruth/drift/2" / f"drift_{index}.png", below)
        image(root / "JPEGImages/girl" / f"girl_{index}{suffix}")
        mask(root / "GroundTruth/girl" / f"girl_{index}{suffix}", white(1))
    return root


def fbms(root):
    colours = np.full((*SIZE, 3), 255, np.uint8)
    colours[:3], colours[3:6], colours[6:9] = (0, 0, 0), (255, 0, 0), (0, 0, 200)
    for index in range(1, 42):
        image(root / "Testset/bear01" / f"bear01_{index:04d}.jpg")
        image(root / "Testset/cars1" / f"cars1_{index:02d}.jpg")
    for index in (1, 21, 41):
        mask(root / "Testset/bear01/GroundTruth" / f"bear01_{index:04d}_gt.ppm", colours)
        mask(root / "Testset/bear01/GroundTruth" / f"bear01_{index:04d}_PROB_gt.ppm", colours)
        mask(root / "Testset/cars1/GroundTruth" / f"cars1_{index:02d}.pgm", labels(85, 170), "L")
    named = [line for i in (1, 21, 41) for line in ("File name:", f"bear01_{i:04d}_gt.ppm", "Input file name:", "x")]
    text(root / "Testset/bear01/GroundTruth/bear01Def.dat", "Total number of regions:", "3", *named)
    return root


def visal(root):
    for name in ("cat", "lion"):
        for index in range(4):
            image(root / "ViSal" / name / f"{name}_{index:03d}.png")
        for index in (1, 3):
            mask(root / "GroundTruth" / f"{name}_{index:03d}.bmp", labels(255), "L")
    return root


def youtube_objects(root):
    for category, video in (("cat", "0003"), ("train", "0001")):
        shot = root / "youtube_masks" / category / "data" / video / "shots/001"
        for index in range(1, 12):
            image(shot / "images" / f"frame{index:04d}.jpg")
        for index in (1, 11):
            mask(shot / "labels" / f"{index:05d}.jpg", labels(255, 255), "L")
    return root


def vip(root):
    text(root / "lists/val_videos.txt", "videos1", "some/path/videos2")
    for name in ("videos1", "videos2"):
        for index in (1, 26):
            image(root / "Images" / name / f"{index:012d}.jpg")
            mask(root / "Annotations/Category_ids" / name / f"{index:012d}.png", labels(2, 13, 19), "L")
    return root


def joint_file(path, positions):
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"pos_img": positions})
    return path


def jhmdb(root):
    text(root / "splits/catch_test_split1.txt", "first_catch.avi 2", "second (1)_catch.avi 1")
    text(root / "splits/jump_test_split1.txt", "hop_jump.avi 2")
    for group, name in (("catch", "first_catch"), ("catch", "second (1)_catch"), ("jump", "hop_jump")):
        for index in range(1, 4):
            image(root / "Rename_Images" / group / name / f"{index:05d}.png")
        positions = 1 + np.arange(2 * 15 * 3, dtype=float).reshape(2, 15, 3)
        joint_file(root / "joint_positions" / group / name / "joint_positions.mat", positions)
    return root

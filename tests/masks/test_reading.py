"""Mask files as people have them: of one sequence, with palettes that tools have moved, and what is no label map."""

import logging
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from matchcut.errors import MaskError
from matchcut.masks import MaskReader, davis_palette, read_mask, read_masks, write_mask

HINT = "give --threshold 0.5 to binarise it"
RED, BLUE = (250, 50, 83), (61, 61, 245)


def two(*ids: int) -> np.ndarray:
    """A label map (96, 160) of a disc, 1, and a square, 2, of which only `ids` are there."""
    labels = np.zeros((96, 160), np.uint8)
    cv2.circle(labels, (40, 50), 16, 1, -1)
    cv2.rectangle(labels, (110, 20), (140, 50), 2, -1)
    return np.where(np.isin(labels, ids), labels, 0).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def colours(labels: np.ndarray, *table: tuple[int, int, int]) -> np.ndarray:
    """Labels in colours: black, then those of the table."""
    return np.array([(0, 0, 0), *table], np.uint8)[labels]


def palette(path: Path, pixels: np.ndarray, *table: tuple[int, int, int], **options: object) -> Path:
    """A palette image of these entries."""
    image = Image.fromarray(pixels)
    image.putpalette(np.array(table, np.uint8).tobytes())
    image.save(path, **options)
    return path


def refused(path: Path, words: str) -> None:
    with pytest.raises(MaskError) as caught:
        read_mask(path)
    message = str(caught.value)
    assert str(path) in message and words in message and HINT in message and "\n" not in message


# --- one meaning in all files of a sequence


def both_ways(paths: list[Path]) -> list[np.ndarray]:
    """The masks, read all at once and, as in another process, one by one."""
    reader = MaskReader(paths)
    assert reader.meaning
    reader = pickle.loads(pickle.dumps(reader))
    found = read_masks(paths)
    for labels, path in zip(found, paths, strict=True):
        np.testing.assert_array_equal(reader.read(path), labels)
    return found


def test_a_colour_is_one_object_where_another_is_absent(tmp_path):
    first = save(tmp_path / "0.png", colours(two(1, 2), RED, BLUE))
    second = save(tmp_path / "3.png", colours(two(1), RED))
    third = save(tmp_path / "6.png", colours(two(1, 2), RED, (9, 200, 9)))  # a third object has taken its place
    found = both_ways([first, second, third])
    one, other = found[0][two(1) == 1][0], found[0][two(2) == 2][0]
    assert {one, other} == {1, 2}
    np.testing.assert_array_equal(found[0], read_mask(first))  # what comes later changes no id of the first
    np.testing.assert_array_equal(found[1], (two(1) == 1) * one)
    assert set(np.unique(found[2])) == {0, one, 3}


def test_a_palette_file_beside_colours_is_read_by_its_colours(tmp_path):
    first = save(tmp_path / "0.png", colours(two(1, 2), RED, BLUE))
    second = palette(tmp_path / "1.png", two(1, 2), (0, 0, 0), RED, BLUE)
    found = both_ways([first, second])
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("kind", ["grey", "palette"])
def test_ids_beside_other_colours_are_refused(tmp_path, kind):
    first = save(tmp_path / "0.png", colours(two(1, 2), RED, BLUE))
    second = tmp_path / "1.png"
    write_mask(second, two(1, 2)) if kind == "palette" else save(second, two(1, 2))
    save(tmp_path / "2.png", two() * 0)  # one without an object goes with anything
    with pytest.raises(MaskError, match=r"1\.png: .*0\.png and others hold colours.*bring all masks"):
        read_masks([first, second])
    assert not read_masks([first, tmp_path / "2.png"])[1].any()


def test_davis_colours_and_ids_go_together(tmp_path):
    write_mask(tmp_path / "0.png", two(1, 2))
    save(tmp_path / "1.png", davis_palette()[two(2)])
    save(tmp_path / "2.png", two(2))
    found = both_ways([tmp_path / f"{index}.png" for index in range(3)])
    for labels, ids in zip(found, ((1, 2), (2,), (2,)), strict=True):
        np.testing.assert_array_equal(labels, two(*ids))


def test_white_alone_is_an_object_unless_it_is_ignored_elsewhere(tmp_path):
    ids, white = save(tmp_path / "ids.png", two(1, 2)), save(tmp_path / "white.png", (two(1) * 255).astype(np.uint8))
    found = both_ways([ids, white])
    np.testing.assert_array_equal(found[1], two(1))
    void = save(tmp_path / "void.png", np.where(two(1) == 1, 255, two(2)).astype(np.uint8))
    assert set(np.unique(both_ways([void, white])[1])) == {0, 255}


def test_one_unreadable_file_leaves_the_others_readable(tmp_path):
    first = save(tmp_path / "0.png", colours(two(1, 2), RED, BLUE))
    (tmp_path / "1.png").write_bytes(first.read_bytes()[:200])
    reader = MaskReader([first, tmp_path / "1.png", tmp_path / "absent.png"])
    np.testing.assert_array_equal(reader.read(first), read_mask(first))
    for name, words in (("1.png", "damaged"), ("absent.png", "No such file")):
        with pytest.raises(MaskError, match=words):
            reader.read(tmp_path / name)


def test_a_large_white_area_beside_ids_is_told_once_and_a_thin_border_is_not(tmp_path, caplog):
    white = np.where(two(1, 2) == 1, 255, two(1, 2) * 64).astype(np.uint8)
    paths = [save(tmp_path / f"{index}.png", white) for index in range(3)]
    with caplog.at_level(logging.WARNING, logger="matchcut"):
        read_masks(paths)
    assert len(caplog.records) == 1
    assert f"{paths[0]}: a large area is 255" in caplog.text and "2 more masks" in caplog.text
    caplog.clear()
    border = two(1, 2)
    cv2.drawContours(border, cv2.findContours(border, 0, 1)[0], -1, 255, 2)
    with caplog.at_level(logging.WARNING, logger="matchcut"):
        np.testing.assert_array_equal(read_mask(save(tmp_path / "border.png", border)), border)
        read_mask(save(tmp_path / "binary.png", (two(1) * 255).astype(np.uint8)))
    assert not caplog.records


# --- palettes


def test_black_at_another_entry_is_the_background(tmp_path):
    path = palette(tmp_path / "a.png", np.where(two(1) == 1, 0, 1).astype(np.uint8), (255, 255, 255), (0, 0, 0))
    np.testing.assert_array_equal(read_mask(path), two(1))
    Image.fromarray(colours(two(1, 2), RED, BLUE)).quantize(3).save(tmp_path / "q.png")
    found, same = read_masks([tmp_path / "q.png", save(tmp_path / "rgb.png", colours(two(1, 2), RED, BLUE))])
    np.testing.assert_array_equal(found, same)


def test_davis_colours_in_another_order_have_their_ids(tmp_path):
    davis = [tuple(colour) for colour in davis_palette().tolist()]
    path = palette(tmp_path / "a.png", np.choose(two(1, 2), [2, 1, 0]).astype(np.uint8), davis[7], davis[5], davis[0])
    np.testing.assert_array_equal(read_mask(path), np.choose(two(1, 2), [0, 5, 7]))
    path = palette(tmp_path / "b.png", two(1, 2), davis[0], davis[2], davis[5])  # unused entries taken out
    np.testing.assert_array_equal(read_mask(path), np.choose(two(1, 2), [0, 2, 5]))


def test_grey_ids_that_became_a_palette_are_ids_again(tmp_path):
    path = palette(tmp_path / "a.png", two(1, 2), (0, 0, 0), (9, 9, 9), (4, 4, 4))
    np.testing.assert_array_equal(read_mask(path), np.choose(two(1, 2), [0, 9, 4]))


@pytest.mark.parametrize("table", [(RED, BLUE), ((90, 90, 90), (255, 255, 255)), ((0, 0, 0), (255, 255, 255))])
def test_entries_of_any_other_palette_with_a_black_first_are_ids(tmp_path, table):
    path = palette(tmp_path / "a.png", two(1, 2), (0, 0, 0), *table)
    np.testing.assert_array_equal(read_mask(path), two(1, 2))


def test_a_transparent_entry_is_background(tmp_path):
    path = palette(tmp_path / "a.png", two(1), (255, 255, 255), (0, 0, 0), transparency=0)
    np.testing.assert_array_equal(read_mask(path), two(1))
    path = palette(tmp_path / "b.png", (1 - two(1)).astype(np.uint8), RED, BLUE, transparency=1)
    np.testing.assert_array_equal(read_mask(path), two(1))


@pytest.mark.parametrize("soft", [False, True])
def test_a_dithered_palette_is_refused(tmp_path, soft):
    picture = colours(two(1, 2), RED, BLUE)
    Image.fromarray(cv2.GaussianBlur(picture, (0, 0), 1) if soft else picture).convert("P").save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "")


# --- what is no label map


def big() -> np.ndarray:
    return cv2.resize((two(1) * 255).astype(np.uint8), (640, 384), interpolation=cv2.INTER_NEAREST)


@pytest.mark.parametrize(("suffix", "quality"), [(".webp", 50), (".avif", 80), (".jpg", 95)])
def test_a_lossy_mask_is_refused_and_so_is_a_png_made_of_it(tmp_path, suffix, quality):
    drawn = big() if suffix != ".jpg" else cv2.circle(np.zeros((384, 640), np.uint8), (300, 200), 90, 255, -1)
    path = save(tmp_path / f"a{suffix}", drawn, quality=quality)
    refused(path, {".webp": "lossy WebP", ".avif": "AVIF", ".jpg": "JPEG"}[suffix])
    Image.open(path).save(tmp_path / "b.png")
    refused(tmp_path / "b.png", "grey values")
    for name in (path, tmp_path / "b.png"):
        np.testing.assert_array_equal(read_mask(name, threshold=0.5), drawn > 127)


@pytest.mark.parametrize("suffix", [".webp", ".png", ".tif", ".bmp"])
def test_lossless_files_are_taken(tmp_path, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    np.testing.assert_array_equal(read_mask(save(tmp_path / f"g{suffix}", big(), **options)), big() > 0)
    found = read_mask(save(tmp_path / f"c{suffix}", colours(two(1, 2), BLUE, RED), **options))
    np.testing.assert_array_equal(found, two(1, 2))


def test_a_soft_matte_is_refused_however_soft(tmp_path):
    disc = cv2.circle(np.zeros((240, 240), np.float32), (120, 120), 60, 255, -1)
    for sigma in (1, 20, 80):
        refused(save(tmp_path / "a.png", cv2.GaussianBlur(disc, (0, 0), sigma).astype(np.uint8)), "grey values")
    # What networks give: levels at both ends in wide areas, and a sharp edge.
    field = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((240, 240)).astype(np.float32), (0, 0), 20) * 40
    matte = 255 / (1 + np.exp(-(cv2.GaussianBlur(disc, (0, 0), 1.5) / 127.5 - 1) * 4 - field))
    refused(save(tmp_path / "a.png", matte.round().astype(np.uint8)), "grey values")


def test_many_cells_of_every_size_are_a_label_map(tmp_path):
    random = np.random.default_rng(0)
    cells = np.zeros((480, 480), np.uint8)
    for number, (x, y) in enumerate(random.integers(10, 470, (250, 2)), 1):
        cv2.circle(cells, (int(x), int(y)), int(random.integers(2, 20)), number, -1)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", cells)), cells)
    rows = (1 + np.arange(240)[:, None] // 16 * 15 + np.arange(240)[None] // 16).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "b.png", rows)), rows)


def test_a_mask_of_several_pages_is_refused(tmp_path):
    pages = [Image.fromarray(two(1)), Image.fromarray(two(2))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(MaskError, match="holds 2 pages or frames, and a mask is one"):
        read_mask(tmp_path / "a.tif")


# --- depths


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.bool_])
@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_ids_of_any_depth(tmp_path, kind, suffix):
    if kind is np.int32 and suffix == ".png":
        pytest.skip("PNG has no 32 bits")
    labels = two(1) if kind is np.bool_ else np.choose(two(1, 2), [0, 7, 200])
    np.testing.assert_array_equal(read_mask(save(tmp_path / f"a{suffix}", labels.astype(kind))), labels)


def test_ids_of_a_pgm_with_its_own_maxval(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 160 96 2\n" + two(1, 2).tobytes())
    np.testing.assert_array_equal(read_mask(tmp_path / "a.pgm"), two(1, 2))


def test_deep_colours_are_read_by_their_own_depth(tmp_path):
    low = davis_palette()[two(1, 2)].astype(np.uint16)
    for name, pixels in (("low", low), ("high", low * 257)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels[..., ::-1])
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png"), two(1, 2))


def test_a_threshold_counts_in_the_depth_of_the_camera(tmp_path):
    twelve = save(tmp_path / "a.png", np.array([[0, 1000, 2500, 4095]], np.uint16))
    np.testing.assert_array_equal(read_mask(twelve, threshold=0.5), [[0, 0, 1, 1]])
    (tmp_path / "b.pgm").write_bytes(b"P5 4 1 1000\n" + np.array([0, 400, 600, 1000], ">u2").tobytes())
    np.testing.assert_array_equal(read_mask(tmp_path / "b.pgm", threshold=0.5), [[0, 0, 1, 1]])

"""Label maps through real files: what is read, what is refused and with which words, and the operations on them."""

import io
import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco

from matchcut import masks
from matchcut.errors import MaskError, OutputError, ShapeError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
HINT = "give --threshold 0.5 to binarise it"

quick = settings(max_examples=40)
shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)
label_maps = st.one_of(
    hnp.arrays(np.uint8, shapes),
    hnp.arrays(np.uint8, shapes, elements=st.sampled_from([0, 1, 2, 7, 254, 255])),
)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def blocks(values: list[int], side: int = 6) -> np.ndarray:
    """A row of squares, one a value, uint8 (side, side * N)."""
    return np.repeat(np.repeat(np.array([values], np.uint8), side, axis=0), side, axis=1)


def disc(size: int = 64, radius: int = 20) -> np.ndarray:
    """An anti-aliased disc: 255 inside, 0 outside, grey at the edge."""
    big = cv2.circle(np.zeros((size * 8, size * 8), np.uint8), (size * 4, size * 4), radius * 8, 255, -1)
    return cv2.resize(big, (size, size), interpolation=cv2.INTER_AREA)


# --- what is read


def test_palette_is_that_of_voc():
    palette = masks.davis_palette()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    first = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128]]
    assert palette[:7].tolist() == first
    assert palette[8].tolist() == [64, 0, 0] and palette[255].tolist() == [224, 224, 192]
    assert len(np.unique(palette, axis=0)) == 256


def test_written_file_is_a_palette_png_and_reads_back(tmp_path):
    labels = blocks([0, 3, 254, 255, 1])
    masks.write_mask(tmp_path / "a.png", labels)
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (30, 6))
        assert image.getpalette() == masks.davis_palette().ravel().tolist()
    np.testing.assert_array_equal(masks.read_mask(tmp_path / "a.png"), labels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_tangled_palette_map_is_read_as_it_is(tmp_path):
    labels = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    masks.write_mask(tmp_path / "a.png", labels)
    np.testing.assert_array_equal(masks.read_mask(tmp_path / "a.png"), labels)


@pytest.mark.parametrize("values", [[0, 1, 2, 3, 4, 5, 6, 7], [0, 128, 255], [0, 50, 100, 150], [0, 9], [4, 0, 255]])
def test_grey_ids_are_kept(tmp_path, values):
    labels = blocks(values)
    np.testing.assert_array_equal(masks.read_mask(save(tmp_path / "a.png", labels)), labels)
    wide = save(tmp_path / "b.png", labels.astype(np.uint16))
    assert Image.open(wide).mode == "I;16"
    np.testing.assert_array_equal(masks.read_mask(wide), labels)
    greys = save(tmp_path / "c.png", np.repeat(labels[..., None], 3, axis=2))  # greys saved as RGB
    np.testing.assert_array_equal(masks.read_mask(greys), labels)


def test_gapless_grey_ids_are_kept_however_tangled(tmp_path):
    labels = np.random.default_rng(0).integers(0, 8, (20, 20), dtype=np.uint8)
    np.testing.assert_array_equal(masks.read_mask(save(tmp_path / "a.png", labels)), labels)


def test_small_and_thin_objects_are_not_taken_for_anti_aliasing(tmp_path):
    labels = np.zeros((60, 60), np.uint8)
    labels[5:40, 5:40] = 200
    labels[20:22, 20:22] = 30  # two by two inside another object
    labels[50, 3:57] = 60  # a line, one pixel high
    labels[45, 45] = 90  # a pixel
    labels[10:12, 39:42] = 120  # across the border of another object
    np.testing.assert_array_equal(masks.read_mask(save(tmp_path / "a.png", labels)), labels)


@pytest.mark.parametrize("full", [1, 255, 65535])
def test_binary_masks_have_object_1(tmp_path, full):
    binary = blocks([0, 1, 0])
    pixels = binary.astype(np.uint16) * full if full > 255 else binary * np.uint8(full)
    np.testing.assert_array_equal(masks.read_mask(save(tmp_path / "a.png", pixels)), binary)


def test_one_bit_palette_and_jpeg_binary_masks_have_object_1(tmp_path):
    binary = blocks([0, 1, 0], side=16)
    Image.fromarray(binary * 255).convert("1").save(tmp_path / "bit.png")
    assert Image.open(tmp_path / "bit.png").mode == "1"
    masks.write_mask(tmp_path / "p.png", binary * np.uint8(255))
    save(tmp_path / "a.jpg", binary * np.uint8(255), quality=100)
    save(tmp_path / "rgb.png", np.repeat(binary[..., None] * np.uint8(255), 3, axis=2))
    for name in ("bit.png", "p.png", "a.jpg", "rgb.png"):
        read = masks.read_mask(tmp_path / name)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, binary, err_msg=name)


def test_davis_colours_have_their_palette_ids(tmp_path, caplog):
    labels = blocks([0, 5, 2, 255, 9])
    path = save(tmp_path / "a.png", masks.davis_palette()[labels])
    with caplog.at_level(logging.INFO, logger="matchcut"):
        np.testing.assert_array_equal(masks.read_mask(path), labels)
    assert "(128, 0, 128) = 5" in caplog.text and str(path) in caplog.text


def test_other_colours_are_numbered_in_sorted_order(tmp_path, caplog):
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [10, 20, 30]], np.uint8)
    path = save(tmp_path / "a.png", colours[blocks([0, 1, 2, 3])])
    with caplog.at_level(logging.INFO, logger="matchcut"):
        np.testing.assert_array_equal(masks.read_mask(path), blocks([0, 3, 1, 2]))
    assert "(0, 255, 0) = 1, (10, 20, 30) = 2, (255, 0, 0) = 3" in caplog.text


def test_transparent_pixels_are_background(tmp_path):
    rgba = np.zeros((6, 18, 4), np.uint8)
    rgba[:, :12] = (255, 0, 0, 255)
    rgba[:, :6] = (9, 9, 200, 0)
    np.testing.assert_array_equal(masks.read_mask(save(tmp_path / "a.png", rgba)), blocks([0, 1, 0]))
    assert not masks.read_mask(tmp_path / "a.png", threshold=0.5)[:, :6].any()
    np.testing.assert_array_equal(masks.read_mask(tmp_path / "a.png", threshold=0.5), blocks([0, 1, 0]))


# --- what is refused


def refused(path: Path, **options: float) -> str:
    with pytest.raises(MaskError) as caught:
        masks.read_mask(path, **options)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize("make", ["grey", "colour", "palette", "alpha", "blurred", "halved", "two", "jpeg", "jpeg 100"])
def test_anti_aliased_masks_are_refused_and_threshold_reads_them(tmp_path, make):
    soft = disc()
    path = tmp_path / ("a.jpg" if make.startswith("jpeg") else "a.png")
    colour = np.zeros((64, 64, 3), np.uint8)
    colour[..., 1] = soft
    if make == "colour":
        save(path, colour)
    elif make == "palette":
        image = Image.fromarray(soft)
        image.putpalette(np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())
        image.save(path)
    elif make == "alpha":
        save(path, np.dstack([np.full((64, 64, 3), 200, np.uint8), soft]))
    elif make == "blurred":
        save(path, cv2.GaussianBlur(soft, (0, 0), 4))
    elif make == "halved":  # a half-covered pixel all around: one stray value only
        square = np.zeros((64, 64), np.uint8)
        square[11:53, 11:53] = 128
        square[12:52, 12:52] = 255
        save(path, square)
    elif make == "two":
        save(path, np.maximum(soft // 4 * 3, np.roll(soft, 24, axis=1)))
    elif make.startswith("jpeg"):
        save(path, soft if make == "jpeg" else np.where(soft > 127, 254, 1).astype(np.uint8), quality=100)
    else:
        save(path, soft)
    assert HINT in refused(path)
    binary = masks.read_mask(path, threshold=0.5 if make != "colour" else 0.3)
    assert set(np.unique(binary)) == {0, 1} and binary[32, 32] == 1 and binary[0, 0] == 0
    if make in ("grey", "palette", "alpha"):
        np.testing.assert_array_equal(binary, soft >= 127.5)


def test_threshold_is_inclusive_and_checked(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 50, 51, 255]], np.uint8))
    np.testing.assert_array_equal(masks.read_mask(path, threshold=0.2), [[0, 0, 1, 1]])
    wide = save(tmp_path / "b.png", np.array([[0, 30000, 40000]], np.uint16))
    np.testing.assert_array_equal(masks.read_mask(wide, threshold=0.5), [[0, 0, 1]])
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(MaskError, match="between 0 and 1"):
            masks.read_mask(path, threshold=wrong)


def test_too_many_objects_and_too_high_ids_are_refused(tmp_path):
    squares = np.repeat(np.repeat(np.arange(300).reshape(15, 20), 6, axis=0), 6, axis=1)
    colours = np.dstack([squares // 256 * 7, squares % 256, squares * 0 + 200]).astype(np.uint8)
    assert "300 colours" in refused(save(tmp_path / "rgb.png", colours))
    assert "reach 299" in refused(save(tmp_path / "wide.png", squares.astype(np.uint16)))


def test_unreadable_files_are_refused_in_one_line(tmp_path):
    assert "No such file" in refused(tmp_path / "absent.png")
    assert "cannot read" in refused(tmp_path)
    (tmp_path / "text.png").write_text("not\nan image")
    assert "not an image" in refused(tmp_path / "text.png")
    noise = np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8)
    data = masks.encode_png(noise)
    for kept in (1, 20, 60, 900, len(data) // 2, len(data) - 30):
        (tmp_path / "cut.png").write_bytes(data[:kept])
        refused(tmp_path / "cut.png")
    Image.fromarray(np.eye(4, dtype=np.float32)).save(tmp_path / "f.tif")
    assert "floating-point" in refused(tmp_path / "f.tif")


def test_decode_png_refuses_other_data():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(buffer, "PNG")
    for data in (b"", b"no image", buffer.getvalue()):
        with pytest.raises(MaskError, match="PNG data"):
            masks.decode_png(data)


def test_check_mask():
    labels = blocks([0, 2, 255])
    masks.check_mask(labels, (6, 18), "a.png")
    with pytest.raises(MaskError, match=r"a.png: the mask is 18x6 but the frames are 854x480: give"):
        masks.check_mask(labels, (480, 854), "a.png")
    with pytest.raises(MaskError, match=r"a.png: the mask holds no object"):
        masks.check_mask(blocks([0, 255]), (6, 12), "a.png")


def test_writing_to_no_folder_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        masks.write_mask(tmp_path / "no" / "a.png", blocks([0, 1]))


@pytest.mark.parametrize("wrong", [np.zeros((4, 4)), np.zeros((4, 4, 1), np.uint8), np.zeros((0, 4), np.uint8)])
def test_other_arrays_are_no_label_maps(wrong):
    for call in (masks.encode_png, masks.object_ids, lambda array: masks.one_hot(array, [1])):
        with pytest.raises(ShapeError, match="expected a label map"):
            call(wrong)


@pytest.mark.parametrize("ids", [[0], [255], [1, 1]])
def test_wrong_ids_are_refused(ids):
    with pytest.raises(ShapeError, match="distinct ids"):
        masks.one_hot(blocks([0, 1]), ids)


# --- operations


@quick
@given(label_maps)
def test_png_bytes_round_trip(labels):
    np.testing.assert_array_equal(masks.decode_png(masks.encode_png(labels)), labels)
    transposed = labels.T  # not contiguous
    np.testing.assert_array_equal(masks.decode_png(masks.encode_png(transposed)), transposed)


@quick
@given(label_maps)
def test_object_ids_are_the_values_but_0_and_255(labels):
    assert masks.object_ids(labels.T) == sorted(set(labels.ravel().tolist()) - {0, 255})


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # inside pycocotools
@quick
@given(label_maps)
def test_rle_is_what_pycocotools_reads(labels):
    ids = [*masks.object_ids(labels)[:3], 253]
    encoded = masks.encode_rle(labels, list(dict.fromkeys(ids)))
    for number, rle in encoded.items():
        assert isinstance(rle["counts"], str)
        theirs = coco.decode({"size": rle["size"], "counts": rle["counts"].encode()})
        np.testing.assert_array_equal(theirs, labels == number)


@quick
@given(label_maps)
def test_one_hot_has_one_channel_a_class(labels):
    ids = masks.object_ids(labels)[::-1]
    channels = masks.one_hot(labels, ids)
    assert channels.shape == (1 + len(ids), *labels.shape) and channels.dtype == np.float32
    np.testing.assert_array_equal(channels.sum(axis=0), labels != 255)
    np.testing.assert_array_equal(np.array([0, *ids])[channels.argmax(0)], np.where(labels == 255, 0, labels))


def test_one_hot_takes_unlisted_objects_for_background():
    channels = masks.one_hot(np.array([[0, 1, 2, 255]], np.uint8), [2])
    assert channels[:, 0].tolist() == [[1, 1, 0, 0], [0, 0, 1, 0]]


@quick
@given(label_maps, st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_resize_invents_no_ids(labels, size):
    resized = masks.resize_labels(labels, size)
    assert resized.shape == size and resized.dtype == np.uint8
    assert set(np.unique(resized)) <= set(np.unique(labels))


@quick
@given(label_maps, st.integers(1, 4), st.integers(1, 4))
def test_enlarging_repeats_pixels_and_shrinking_undoes_it(labels, down, across):
    enlarged = masks.resize_labels(labels, (labels.shape[0] * down, labels.shape[1] * across))
    np.testing.assert_array_equal(enlarged, labels.repeat(down, axis=0).repeat(across, axis=1))
    np.testing.assert_array_equal(masks.resize_labels(enlarged, labels.shape), labels)


def test_shrinking_takes_the_majority_and_the_lower_of_equals():
    labels = np.array([[9, 9, 3, 1], [9, 0, 1, 3]], np.uint8)
    assert masks.resize_labels(labels, (1, 2)).tolist() == [[9, 1]]
    with pytest.raises(ShapeError, match="at least 1"):
        masks.resize_labels(labels, (0, 2))


@quick
@given(label_maps)
def test_boxes_are_tight(labels):
    ids = masks.object_ids(labels)
    expected = {}
    for number in ids:
        ys, xs = np.nonzero(labels == number)
        expected[number] = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    absent = [number for number in (100, 101) if number not in ids]
    assert masks.tight_boxes(labels, ids + absent) == expected


def test_importing_loads_no_image_library():
    code = "import sys, matchcut.masks; print({'cv2', 'PIL', 'pycocotools', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- real data


def annotations(folder: str) -> list[Path]:
    root = DATA / folder / "Annotations"
    if not root.is_dir():
        pytest.skip(f"{root} is absent: the shared data sets are not beside this checkout")
    return sorted(root.rglob("*.png"))


def test_davis_2016_masks_are_binary():
    for path in annotations("davis2016-dev-480p")[::20]:
        with Image.open(path) as image:
            expected = np.array(image)
        np.testing.assert_array_equal(masks.read_mask(path), expected, err_msg=str(path))


def test_davis_2017_masks_keep_their_ids_in_every_form(tmp_path):
    ids = np.random.default_rng(0).permutation(np.arange(1, 255)).astype(np.uint8)
    lookup = np.concatenate([[0], ids, [255]]).astype(np.uint8)
    for path in annotations("davis2017-multi-240p")[::20]:
        with Image.open(path) as image:
            assert image.mode == "P"
            expected = np.array(image)
        np.testing.assert_array_equal(masks.read_mask(path), expected, err_msg=str(path))
        assert masks.object_ids(expected) == sorted(set(expected.ravel().tolist()) - {0, 255})
        scattered = lookup[expected]
        np.testing.assert_array_equal(masks.read_mask(save(tmp_path / "grey.png", scattered)), scattered)
        colours = save(tmp_path / "rgb.png", masks.davis_palette()[scattered])
        np.testing.assert_array_equal(masks.read_mask(colours), scattered)


def test_photos_are_refused(tmp_path):
    if not (root := DATA / "davis2016-dev-480p" / "JPEGImages").is_dir():
        pytest.skip(f"{root} is absent: the shared data sets are not beside this checkout")
    for path in sorted(root.rglob("*.jpg"))[::200]:
        assert HINT in refused(path)
        with Image.open(path) as image:
            image.save(tmp_path / "rgb.png", compress_level=1)
            image.convert("L").save(tmp_path / "grey.png", compress_level=1)
        assert HINT in refused(tmp_path / "rgb.png")
        assert HINT in refused(tmp_path / "grey.png")

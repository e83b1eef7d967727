"""Small scenes with known masks, and a guided model of a few lines that imports nothing of the package."""

from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F

SIZE = (48, 64)
COLOURS = [(230, 40, 40), (40, 220, 60), (50, 70, 240), (230, 220, 50), (220, 60, 230)]


def background(size=SIZE):
    return np.random.default_rng(0).integers(90, 120, (*size, 3), dtype=np.uint8)


def scene(index, objects, size=SIZE):
    """(frame, labels): object k, from 1, is a square 16 wide whose left top corner is at `objects[k](index)`.

    None hides it.
    """
    frame, labels = background(size), np.zeros(size, np.uint8)
    for number, where in objects.items():
        at = where(index)
        if at is None:
            continue
        x0, y0, x1, y1 = max(at[0], 0), max(at[1], 0), max(at[0] + 16, 0), max(at[1] + 16, 0)
        frame[y0:y1, x0:x1] = COLOURS[number - 1]
        labels[y0:y1, x0:x1] = number
    return frame, labels


def lossless(path, frames) -> Path:
    """An FFV1 video: what is read is what was written."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return path


def film(path, count, objects, size=SIZE):
    """A video file of a scene and its true label maps."""
    pairs = [scene(index, objects, size) for index in range(count)]
    return lossless(path, [frame for frame, _ in pairs]), [labels for _, labels in pairs]


def right(index):
    """A walk to the right, in the upper half."""
    return index % 48, 6


def low(index):
    """A walk to the left, in the lower half."""
    return 44 - index % 44, 28


def trembles(x, y):
    """A square that stays where it is, more or less."""
    return lambda index: (x, y + index % 4)


FIVE = {1: trembles(2, 2), 2: trembles(22, 2), 3: trembles(42, 2), 4: trembles(2, 24), 5: trembles(22, 24)}


def iou(found, truth, number):
    a, b = found == number, truth == number
    return (a & b).sum() / max(1, (a | b).sum())


class Kept:
    """What the model below remembers of a frame."""

    def __init__(self, features, values, annotated):
        self.features, self.values, self.annotated = features, values, annotated


class Policy:
    """Looks like `MemoryPolicy`; a user's model need not import it."""

    def __init__(self, context=3, annotated=4, start="after"):
        self.context, self.annotated, self.start = context, annotated, start

    def __repr__(self):
        return f"Policy({self.context}, {self.annotated}, {self.start})"


class ColourModel:
    """Carries masks to where the same colour is: pooled colours, affinity to all cells of all references."""

    def __init__(self, policy=None, sharpness=400.0):
        self.policy, self.sharpness = policy or Policy(), sharpness
        self.segmented, self.encoded, self.shapes, self.most = 0, 0, set(), 0

    def encode(self, image):
        self.encoded += 1
        self.shapes.add(tuple(image.shape[2:]))
        return F.avg_pool2d(image, 4, ceil_mode=True)

    def remember(self, features, soft_masks, *, annotated=False):
        return Kept(features, F.interpolate(soft_masks, size=features.shape[2:], mode="area"), annotated)

    def segment(self, features, references, carry=None):
        self.segmented += 1
        self.most = max(self.most, len(references))
        keys = torch.cat([one.features.flatten(2) for one in references], 2)  # (B, C, R)
        values = torch.cat([one.values.flatten(2) for one in references], 2)  # (B, 1 + N, R)
        queries = features.flatten(2)  # (B, C, Q)
        near = (
            2 * keys.transpose(1, 2) @ queries - keys.square().sum(1)[..., None]
        )  # (B, R, Q), -distance^2 + a constant
        soft = values @ (near * self.sharpness).softmax(1)
        return soft.unflatten(2, features.shape[2:]), carry


class CarryModel(ColourModel):
    """Also hands a running mean from frame to frame, so its masks depend on all frames before."""

    def segment(self, features, references, carry=None):
        soft, _ = super().segment(features, references)
        blended = soft if carry is None else 0.7 * soft + 0.3 * carry
        return blended, blended


class SwapModel(ColourModel):
    """Shows objects 1 and 2 in each other's place, and remembers them as they are."""

    def segment(self, features, references, carry=None):
        soft, carry = super().segment(features, references, carry)
        return soft, carry, soft[:, [0, 2, 1]]

"""Label propagation as one would write it in an afternoon, untuned: what quality.py compares the presets with.

Frame and label are padded to a multiple of 8, and ImageNet features L2-normalised on a grid of about that stride. A
cell takes the mean of the labels of the 10 cells most similar to it (temperature 0.07) in the first frame and, at most
12 cells away on both axes, in the 7 frames before; at frame 1 the first is the frame before, and windowed. The soft
labels are enlarged linearly, and the largest is the label. All in float32.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import matchcut
from matchcut.masks import object_ids, one_hot
from matchcut.matching import affinity
from matchcut.tracking.device import pick_device
from matchcut.tracking.timeline import Timeline

CONTEXT, TOP_K, TEMPERATURE, RADIUS = 7, 10, 0.07, 12


class Plain:
    """Fills a timeline as `Tracker` does, but only forwards from frame 0. `size` is the short side it works at."""

    def __init__(self, backbone: str | None = None, size: int | None = None) -> None:
        self.backbone, self.size, self.device = backbone, size or 480, pick_device("auto")
        self.features = features_of(backbone, self.device)

    def fingerprint(self) -> str:
        return repr((self.backbone, self.size))

    @torch.inference_mode()
    def fill(self, timeline: Timeline) -> None:
        timeline.run_by(self.fingerprint())
        video, ((_, made),) = timeline.video, timeline.plan()
        height, width = (round(side * self.size / min(timeline.size)) for side in timeline.size)

        def padded(image: Tensor, mode: str) -> Tensor:
            image = F.interpolate(image[None].to(self.device).float(), size=(height, width), mode=mode)
            return F.pad(image, (0, -width % 8, 0, -height % 8), mode="replicate")

        def encode(frame: int) -> Tensor:
            image = padded(torch.from_numpy(video[frame]).permute(2, 0, 1), "bilinear") / 255
            return F.normalize(self.features(image), dim=1).contiguous()

        ids = object_ids(timeline.annotation(0))
        given = padded(torch.from_numpy(one_hot(timeline.annotation(0), ids)), "nearest")
        keys = encode(0)
        first, context = (keys, F.interpolate(given, size=keys.shape[2:], mode="area")), []
        for frame in range(1, len(video)):
            keys = encode(frame)
            references, labels = zip(first, *context, strict=True)
            radius = [None if context else RADIUS, *[RADIUS] * len(context)]
            match = affinity(keys, references, top_k=TOP_K, temperature=TEMPERATURE, radius=radius, window="square")
            soft = match.apply(torch.stack(labels, 2))
            context = [*context, (keys, soft)][-CONTEXT:]
            large = F.interpolate(soft, size=given.shape[2:], mode="bilinear")[..., :height, :width]
            large = F.interpolate(large, size=tuple(timeline.size), mode="bilinear")
            timeline.put(frame, np.array([0, *ids], np.uint8)[large[0].argmax(0).cpu().numpy()], {}, made)


def features_of(backbone: str | None, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Of an image in [0, 1]: the deepest that the protocols take from another backbone; of the default one, its 80
    channels of stride 16, which the stride left out where it begins brings to 8.

    There a convolution keeps the padding that it had for its stride, below and on the right, so that of 480x856 pixels
    59x106 cells are left. They are taken for the whole frame. That is as such a first version comes out.
    """
    if backbone is not None:
        other = matchcut.load_model(backbone=backbone, stride=8).backbone.eval().to(device)
        return lambda image: other(image)[-1]
    whole = matchcut.load_model(stages=(3,), stride=16).backbone
    block = whole.net.blocks[3][0]
    unstrided = nn.Conv2d(240, 240, 3, groups=240)
    strided = block.conv_dw.convolution
    unstrided.weight, unstrided.bias = strided.weight, strided.bias
    block.conv_dw = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), unstrided)
    whole.eval().to(device)
    net = whole.net
    return lambda image: net.blocks[:4](net.bn1(net.conv_stem((image - whole.mean) / whole.std)))

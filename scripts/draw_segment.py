"""What `matchcut segment` sees and finds: frames of a clip, their optical flow, the probability, the mask.

python scripts/draw_segment.py examples/bunny.mp4 docs/transport_net.jpg 12 24 48
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch

import matchcut
from matchcut.flow.source import FlowSource
from matchcut.models.base import ModelInput
from matchcut.refinement import guided
from matchcut.tracking.automatic import Segmenter, to_image
from matchcut.video.overlay import draw_overlay

clip, target, *chosen = sys.argv[1:]
video, segmenter, rows = matchcut.Video(clip), Segmenter(matchcut.load_model("transport-net")), []
for index in map(int, chosen):
    frame, small = video[index], segmenter.resize(video[index])
    flow, _ = FlowSource().of("", small, segmenter.resize(video[index + 1]))
    with torch.inference_mode():
        seen = ModelInput(to_image(small), index, video.frame_name(index), {"flow": to_image(flow)})
        found = segmenter.model.segment(seen)[0, 0].numpy()
    labels, _ = guided(np.stack([1 - found, found]), [1], frame)
    grey = np.repeat((255 * found).astype(np.uint8)[..., None], 3, 2)
    shown = (frame, flow, grey, draw_overlay(frame, labels, ids=False))
    rows.append(np.concatenate([cv2.resize(one, (320, 320 * frame.shape[0] // frame.shape[1])) for one in shown], 1))
picture = cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR)
cv2.imwrite(str(Path(target)), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])

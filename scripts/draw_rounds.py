"""What matching and R rounds of decoding make of a clip, side by side, frame by frame.

python scripts/draw_rounds.py examples/bunny.mp4 examples/bunny_first.png docs/mask_vos_rounds.jpg 12 24 48
"""

import sys
from pathlib import Path

import cv2
import numpy as np

import matchcut
from matchcut.masks import read_mask
from matchcut.reproduce.mask_vos import ROUNDS
from matchcut.video.overlay import draw_overlay

WIDTH = 300


def main() -> None:
    clip, mask, out, *frames = sys.argv[1:]
    shown, first = [int(one) for one in frames], read_mask(Path(mask))
    model = matchcut.load_model("mask-vos")
    columns = []
    for name, changes in ROUNDS.items():
        video = matchcut.Video(clip, end=max(shown) + 1)
        timeline = matchcut.Timeline(video)
        timeline.annotate(0, first)
        matchcut.Tracker(model.with_settings(**changes)).fill(timeline)
        pictures = [draw_overlay(video[at], timeline.labels(at), ids=False) for at in shown]
        height = WIDTH * pictures[0].shape[0] // pictures[0].shape[1]
        small = [cv2.resize(one, (WIDTH, height), interpolation=cv2.INTER_AREA) for one in pictures]
        cv2.putText(small[0], name, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        columns.append(np.concatenate(small))
    cv2.imwrite(out, cv2.cvtColor(np.concatenate(columns, 1), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()

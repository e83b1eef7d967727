"""Losses of a training run over its steps, from its log.jsonl, as a picture.

python scripts/draw_curves.py runs/a/log.jsonl docs/mask_vos_curves.png
"""

import json
import sys
from pathlib import Path

from matchcut.benchmarks.drawing import COLOURS, bare, new_figure, save

PANELS = (("masks", "dice"), ("iou_carried", "iou"), ("flips",))
TITLES = ("segmentation loss", "IoU of the last frame", "squared distance to the mean over flips")


def main() -> None:
    log, out = (Path(one) for one in sys.argv[1:3])
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure = new_figure(12, 3)
    for panel, names, title in zip(figure.subplots(1, len(PANELS)), PANELS, TITLES, strict=True):
        for name, colour in zip(names, COLOURS, strict=False):
            steps, values = zip(*((one["step"], one[name]) for one in rows if name in one), strict=True)
            panel.plot(steps, values, color=colour, linewidth=0.6, alpha=0.4)
            parts = [values[max(0, at - 4) : at + 5] for at in range(len(values))]
            smooth = [sum(part) / len(part) for part in parts]
            panel.plot(steps, smooth, color=colour, linewidth=1.6, label=name)
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("step", fontsize=8)
        panel.legend(fontsize=8, frameon=False)
        bare(panel)
    figure.tight_layout()
    save(figure, out)


if __name__ == "__main__":
    main()

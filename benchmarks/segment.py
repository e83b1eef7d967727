"""Segmenting with no prompt, from a video to masks on disk, beside the same by other networks and other optical flow.

    python benchmarks/segment.py                                        # a DAVIS sequence of ../shared/data, 480 x 854
    python benchmarks/segment.py --rows default serial --frames 60

default: `matchcut segment`. serial: the same, one thing after the other in a plain loop, as one would write it. raft:
the default network with torchvision's RAFT small as optical flow (random weights: speed only). paper: ResNet-101 and
ResNet-50 at 512 x 512 (random weights). Each row has a process of its own; a frame's time is from the first to the last
mask on disk, divided by the frames between.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from common import in_subprocess, machine, peak_gib, sequence, table

ROWS = {"default": 0, "serial": 0, "raft": 12, "paper": 12}
"""And how many frames are enough; 0: all that were asked for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", help="a video; by default --sequence")
    parser.add_argument("--sequence", default="bus")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.input = options.input or str(sequence(options.sequence)[0])
    if options.case:
        print(json.dumps(measure(options.case, options)))
        return
    found = {row: in_subprocess(__file__, "--case", row, *forwarded(options)) for row in options.rows}
    print(machine("timm", "torchvision"))
    best = found[options.rows[0]]["frames_a_second"]
    rows = [
        [row, *(f"{one[key]:.2f}" for key in ("frames_a_second", "peak")), f"{best / one['frames_a_second']:.1f}"]
        for row, one in found.items()
    ]
    print(table(["", "frames a second", "peak GiB", f"times slower than {options.rows[0]}"], rows))
    for row, one in found.items():
        print(row, "ms a frame:", ", ".join(f"{stage} {1000 * spent:.0f}" for stage, spent in one["stages"].items()))


def forwarded(options: argparse.Namespace) -> list[str]:
    return ["--input", options.input, "--frames", str(options.frames)]


def measure(row: str, options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np
    import torch
    from torchvision.models.optical_flow import raft_small

    import matchcut
    from matchcut.flow.raft import Raft
    from matchcut.masks import write_mask
    from matchcut.models.transport_net import TransportNetSettings, build_transport_net
    from matchcut.refinement import guided
    from matchcut.tracking.automatic import FlowSource, Segmenter, with_motion
    from matchcut.tracking.timeline import Timeline

    network: Any = matchcut.load_model("transport-net")
    if row == "paper":
        network = build_transport_net("paper", TransportNetSettings(size=512, square=True))
    with tempfile.TemporaryDirectory() as folder:
        flow = FlowSource()
        if row == "raft":
            torch.save(raft_small(weights=None).state_dict(), Path(folder) / "raft.pth")
            flow = FlowSource(Raft("raft-small", Path(folder) / "raft.pth"))
        segmenter = Segmenter(network, flow=flow)
        video = matchcut.Video(options.input, end=min(options.frames, ROWS[row] or options.frames))
        times: list[float] = []
        if row == "serial":
            for index, one in with_motion(segmenter._resized(video.frames()), video.frame_name, flow):
                soft = segmenter._probability(index, "", one)
                labels, _ = guided(np.stack([1 - soft, soft]), [1], one.frame)
                write_mask(Path(folder) / f"{index:05d}.png", labels)
                times.append(time.perf_counter())
        else:
            timeline = Timeline(video, Path(folder), correctable=False)
            segmenter.fill(timeline, lambda done, total: times.append(time.perf_counter()))
    pace = (len(times) - 1) / (times[-1] - times[0])
    stages = {stage: spent / len(times) for stage, spent in segmenter.seconds.items()}
    return {"frames_a_second": pace, "peak": peak_gib(), "stages": stages}


if __name__ == "__main__":
    main()

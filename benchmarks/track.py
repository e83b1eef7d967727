"""The whole pipeline, from a video to masks on disk, beside what one would use instead.

    python benchmarks/track.py                                          # a DAVIS sequence of ../shared/data, 480 x 854
    python benchmarks/track.py --input clip.mp4 --mask first.png --frames 60
    python benchmarks/track.py --rows default default-5 sam2 --slow-frames 8

Rows are ours but for three (`instead.py`): `crw-dense`, the protocol of `crw-resnet18` in plain dense form; `sam2` and
`sam2-bf16`, transformers' Sam2VideoModel (hiera-tiny, its own input size of 1024, in float32 and under autocast).
ResNet-18 and SAM 2 have random weights: they are here for their speed.

Each row has a process of its own. Start is from opening the video to the first propagated mask, the model being there;
a frame's time is from that mask to the last one on disk, divided by the frames between. Rows that take seconds a frame
go through --slow-frames frames; SAM 2's memory is full from the 7th, CRW's, which repeats the first frame, at once.

The last column says what the machine was worth when a row ran, since that changes where others use it too: a pass of
torchvision's ResNet-18 over 480 x 854 pixels (float32, channels_last), mean of just before and just after the row.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import in_subprocess, machine, peak_gib, sequence, table

OURS: dict[str, tuple[str | None, bool, int]] = {  # model or preset, whether with a random ResNet-18, objects
    "default": (None, False, 1),
    "default-5": (None, False, 5),
    "rounds-2": (None, False, 1),
    "rounds-2-5": (None, False, 5),
    "label-propagation": ("label-propagation", False, 1),
    "crw": ("crw", False, 1),
    "dino": ("dino", False, 1),
    "vfs": ("vfs", False, 1),
    "mask-vos": ("mask-vos", False, 1),
    "crw-resnet18": ("crw", True, 1),
}
SLOW = {"crw-dense": "crw-resnet18", "sam2": "default", "sam2-bf16": "default"}
"""Not ours, and which of ours they are compared with."""
WHAT = {
    "default": "matchcut, default",
    "default-5": "matchcut, default, 5 objects",
    "rounds-2": "matchcut, default, R = 2",
    "rounds-2-5": "matchcut, default, R = 2, 5 objects",
    "crw-resnet18": "matchcut, crw preset, ResNet-18",
    "crw-dense": "plain dense CRW, ResNet-18",
    "sam2": "Sam2VideoModel tiny, float32",
    "sam2-bf16": "Sam2VideoModel tiny, bfloat16",
}


YARDSTICK = "resnet-18"
"""The case that measures the machine."""


def main() -> None:
    options = parse()
    if options.input is None or options.mask is None:
        frames, masks = sequence(options.sequence)
        options.input = options.input or str(frames)
        options.mask = options.mask or str(sorted(masks.iterdir())[0])
    if options.case == YARDSTICK:
        print(json.dumps({"ms": pass_of_resnet18()}))
        return
    if options.case:
        print(json.dumps(measure(options.case, options)))
        return
    found, passes = {}, [in_subprocess(__file__, "--case", YARDSTICK)["ms"]]
    for row in options.rows:
        given = ["--input", options.input, "--mask", options.mask, "--frames", options.frames]
        found[row] = in_subprocess(__file__, *given, "--slow-frames", options.slow_frames, "--case", row)
        passes.append(in_subprocess(__file__, "--case", YARDSTICK)["ms"])
    shapes = {one["size"] for one in found.values() if "size" in one}
    print(f"\n{Path(options.input).name}, {', '.join(shapes)}, from file to masks on disk\n")
    print(f"{machine('timm', 'transformers')}\n")
    head = ["row", "frames", "ms a frame", "frames a second", "start, s", "peak GiB", "precision", "ratio to ours"]
    around = [f"{(before + after) / 2:.0f}" for before, after in pairwise(passes)]
    rows = [[*line(row, found), one] for row, one in zip(options.rows, around, strict=True)]
    print(table([*head, "ResNet-18, ms"], rows))


def line(row: str, found: dict[str, dict[str, Any]]) -> list[str]:
    one, against = found[row], SLOW.get(row, "default")
    name = WHAT.get(row, f"matchcut, {row} preset")
    if "error" in one:
        return [f"{name}: {one['error']}", *["-"] * 7]
    ours = found.get(against, {}).get("ms")
    ratio = "-" if ours is None else f"{one['ms'] / ours:.2f}" + (f" ({against})" if against != "default" else "")
    numbers = [f"{one['ms']:.0f}", f"{1000 / one['ms']:.2f}", f"{one['start']:.2f}", f"{one['gib']:.2f}"]
    return [name, str(one["frames"]), *numbers, one["precision"], ratio]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", help="video file or folder of frames")
    parser.add_argument("--mask", help="mask of one object on its first frame")
    parser.add_argument("--sequence", default="bus", help="of davis2016-dev-480p, where no --input is given")
    parser.add_argument("--frames", type=int, default=80, help="at most; at least 3")
    parser.add_argument("--slow-frames", type=int, default=12, help="at most, in rows that are not ours; at least 3")
    parser.add_argument("--rows", nargs="+", choices=[*OURS, *SLOW], default=[*OURS, *SLOW], metavar="ROW")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args()


def pass_of_resnet18() -> float:
    """The median of ten, in milliseconds."""
    import torch
    from torchvision.models import resnet18

    network = resnet18().eval().to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, 480, 854).to(memory_format=torch.channels_last)
    times = []
    with torch.inference_mode():
        for _ in range(12):
            started = time.perf_counter()
            network(image)
            times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[2:])


def measure(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row, in this process."""
    import numpy as np

    from matchcut.masks import read_mask
    from matchcut.video.reader import Video

    labels = (read_mask(options.mask) > 0).astype(np.uint8)
    frames = min(options.frames, options.slow_frames) if row in SLOW else options.frames
    if row in SLOW:
        import instead

        run, precision = instead.RUNS[row]()
    else:
        preset, random, objects = OURS[row]
        labels = stripes(labels, objects)
        run, precision = matchcut_run(preset, random, rounds=2 if row.startswith("rounds-2") else None)
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        video = Video(options.input, end=frames)
        if len(video) < 3:
            raise SystemExit("--frames and --slow-frames: expected at least 3 frames")
        run(video, labels, Path(folder) / "out", lambda: times.append(time.perf_counter()))
        ended = time.perf_counter()
        count = len(list((Path(folder) / "out" / "masks").glob("*.png")))
    if count != len(video) or len(times) != count - 1:
        raise SystemExit(f"{row}: {count} masks of {len(video)} frames")
    ms = (ended - times[0]) / (count - 2) * 1000
    size = f"{video.size[0]} x {video.size[1]}"
    start = times[0] - started
    return {"ms": ms, "start": start, "gib": peak_gib(), "frames": count, "size": size, "precision": precision}


def stripes(labels: Any, count: int) -> Any:
    """An object cut across its longer side into parts of equal area, with ids 1 to count."""
    import numpy as np

    places = np.argwhere(labels)
    axis = int(np.ptp(places[:, 1]) > np.ptp(places[:, 0]))
    order = np.argsort(places[:, axis], kind="stable")
    result = np.zeros_like(labels)
    result[tuple(places[order].T)] = 1 + np.arange(len(places)) * count // len(places)
    return result


def matchcut_run(preset: str | None, random: bool, rounds: int | None) -> tuple[Callable[..., None], str]:
    """As `matchcut track` does it: what runs, and the precision of its features."""
    from instead import random_resnet18
    from matchcut import Tracker, api
    from matchcut.models.label_propagation import LabelPropagation
    from matchcut.tracking.outputs import Outputs

    model = api.load_model(preset) if preset == "label-propagation" else api.load_model(preset=preset)
    if rounds is not None:
        model = model.with_settings(rounds=rounds)
    if random:
        model = LabelPropagation(random_resnet18(), preset or "crw")
    tracker = Tracker(model, device="cpu")

    def run(video: Any, labels: Any, folder: Path, done: Callable[[], None]) -> None:
        outputs = Outputs(folder, video.size, video.frame_rate)
        api.run(video, tracker, folder, outputs, {0: labels}, passes=api.Passes(progress=lambda *_: done()))

    return run, str(tracker.dtype).removeprefix("torch.")


if __name__ == "__main__":
    main()

"""Label propagation alone, `matchcut.matching.affinity` beside a plain dense form of the same protocol.

    python benchmarks/affinity.py                       # 60 x 107 x 256, 8 references, features of real frames if any
    python benchmarks/affinity.py --data random --grid 30 54 --repeats 5

Both protocols (systems.md section 0), with float32 features and the labels of one object and the background:

* crw: the first reference unrestricted, the others within a disc of 12 cells, top-k 10, temperature 0.05;
* dino: all within a square of 12, top-k 5, temperature 0.1.

The dense forms are ours, in the manner of the research scripts: scores of all cells with all, a mask over them, then
top-k. The mask is made before the clock starts, since those scripts make it once a video. Time is the median of
--repeats after one run that does not count; memory is the peak above what the process held with the inputs loaded.
Each line has a process of its own; that the answers agree is checked in one more.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import DATA, forget_peak, in_subprocess, machine, must, peak_gib, sequence, table

PROTOCOLS: dict[str, dict[str, Any]] = {
    "crw": {"top_k": 10, "temperature": 0.05, "window": "disc", "first": None},
    "dino": {"top_k": 5, "temperature": 0.1, "window": "square", "first": 12},
}
RADIUS = 12


def main() -> None:
    options = parse()
    if options.case:
        case, protocol, inputs = options.case
        print(json.dumps(CASES[case](protocol, inputs, options)))
        return
    if options.data is None:
        options.data = "real" if (DATA / "davis2016-dev-480p").is_dir() else "random"
    height, width = options.grid
    common = ["--grid", height, width, "--channels", options.channels, "--references", options.references]
    common += ["--repeats", options.repeats, "--data", options.data]
    size = f"{height} x {width} x {options.channels}"
    print(f"\nPropagation alone, {size} grid, {options.references} references, {options.data} features\n")
    print(f"{machine()}\n")
    lines, checks = [], []
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.safetensors"
        must(in_subprocess(__file__, *common, "--case", "make", "crw", inputs))
        for protocol in options.protocols:
            ours, dense = (
                must(in_subprocess(__file__, *common, "--case", case, protocol, inputs)) for case in ("ours", "dense")
            )
            for name, one in (("matchcut", ours), ("plain dense", dense)):
                ratios = [f"{one['ms'] / ours['ms']:.1f}", f"{one['gib'] / max(ours['gib'], 1e-3):.1f}"]
                lines.append([f"{protocol}, {name}", f"{one['ms']:.1f}", ratios[0], f"{one['gib']:.2f}", ratios[1]])
            found = must(in_subprocess(__file__, *common, "--case", "check", protocol, inputs))
            checks.append(f"{protocol}: {found['text']}")
    print(table(["protocol, form", "median ms", "times ours", "extra peak GiB", "times ours"], lines))
    print("\n" + "\n".join(checks))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", nargs=2, type=int, default=(60, 107), metavar=("H", "W"))
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--references", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--data", choices=("real", "random"), help="real where ../shared/data is present")
    parser.add_argument("--protocols", nargs="+", choices=list(PROTOCOLS), default=list(PROTOCOLS))
    parser.add_argument("--case", nargs=3, metavar=("CASE", "PROTOCOL", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def make(_: str, path: str, options: argparse.Namespace) -> dict[str, Any]:
    """Features (T + 1, C, H, W), the query last, and labels (T, 2, H, W), for all cases to read."""
    import torch
    import torch.nn.functional as F
    from safetensors.torch import save_file

    height, width = options.grid
    count = options.references + 1
    generator = torch.Generator().manual_seed(0)
    if options.data == "random":
        features = torch.randn(count, options.channels, height, width, generator=generator)
    else:
        features = real(count, (height, width), options.channels, generator)
    object_ = F.avg_pool2d(torch.rand(options.references, 1, height, width, generator=generator), 5, 1, 2)
    labels = torch.cat([1 - object_, object_], 1)
    save_file({"features": F.normalize(features, dim=1).contiguous(), "labels": labels.contiguous()}, path)
    return {}


def real(count: int, grid: tuple[int, int], channels: int, generator: Any) -> Any:
    """All depths of the default backbone on the first frame and consecutive later ones, projected to `channels`."""
    import cv2
    import torch
    import torch.nn.functional as F

    from matchcut import Video, load_model

    model = load_model(stages=(1, 2, 3, 4)).eval()
    maps = []
    with torch.inference_mode(), Video(sequence("bus")[0]) as video:
        for index in [0, *range(20, 19 + count)]:
            frame = cv2.resize(video[index], (grid[1] * 8, grid[0] * 8), interpolation=cv2.INTER_AREA)
            maps.append(model.encode(torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255))
        joined = torch.cat(maps)
        projection = torch.randn(channels, joined.shape[1], 1, 1, generator=generator)
        return F.conv2d(joined, projection).clone()


def load(path: str) -> tuple[Any, list[Any], Any]:
    """query (1, C, H, W), T references (1, C, H, W), labels (1, 2, T, H, W)."""
    import torch
    from safetensors.torch import load_file

    stored = load_file(path)
    frames = [one[None].contiguous(memory_format=torch.channels_last) for one in stored["features"]]
    return frames[-1], frames[:-1], stored["labels"].transpose(0, 1)[None].contiguous()


def ours_of(protocol: str, path: str) -> Callable[[], tuple[Any, Any]]:
    """Carries the labels: (2, Q), and the cells (Q, K) they came from."""
    from matchcut.matching import affinity

    query, references, labels = load(path)
    settings = dict(PROTOCOLS[protocol])
    radius = [settings.pop("first"), *[RADIUS] * (len(references) - 1)]

    def run() -> tuple[Any, Any]:
        match = affinity(query, references, radius=radius, **settings)
        return match.apply(labels)[0].flatten(1), match.indices[0]

    return run


def dense_of(protocol: str, path: str) -> Callable[[], tuple[Any, Any]]:
    """As `ours_of`, from all scores at once."""
    import torch

    import dense

    query, references, labels = load(path)
    target, sources = query[0].flatten(1).contiguous(), torch.stack([one[0].flatten(1) for one in references])
    values = labels[0].flatten(1)  # (2, T * N)
    form = {"crw": dense.crw, "dino": dense.dino}[protocol](*query.shape[2:])
    return lambda: form(target, sources, values)


def measure(run: Callable[[], Any], repeats: int) -> dict[str, Any]:
    import torch

    with torch.inference_mode():
        before = forget_peak()
        run()
        spent = []
        for _ in range(repeats):
            started = time.perf_counter()
            run()
            spent.append(time.perf_counter() - started)
    return {"ms": statistics.median(spent) * 1000, "gib": peak_gib() - before}


def check(protocol: str, path: str) -> dict[str, Any]:
    """Whether the cells are the same but for ties, and the labels carried to all others equal to 1e-5.

    A tie is what float32 cannot tell apart: a difference, in float64, of at most 2e-6 of a cosine.
    """
    import torch

    query, references, _ = load(path)
    with torch.inference_mode():
        (out, index), (truth, true_index) = ours_of(protocol, path)(), dense_of(protocol, path)()
        other = (index.sort(1).values != true_index.sort(1).values).any(1)
        differ = other.nonzero().flatten()
        rows = query[0].flatten(1).t()[differ].double()
        keys = torch.cat([one[0].flatten(1).t() for one in references])
        scores = [(keys[one[differ]].double() * rows[:, None]).sum(2).sort(1).values for one in (index, true_index)]
    gap = float((scores[0] - scores[1]).abs().max()) if len(differ) else 0.0
    error = float((out - truth)[:, ~other].abs().max())
    verdict = "equal" if gap <= 2e-6 and error < 1e-5 else "WRONG"
    return {
        "text": f"{len(differ)} of {len(index)} cells have other top-k indices, by at most {gap:.0e} in score (ties); "
        f"outputs of the others differ by at most {error:.0e}: {verdict}"
    }


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "make": make,
    "ours": lambda protocol, path, options: measure(ours_of(protocol, path), options.repeats),
    "dense": lambda protocol, path, options: measure(dense_of(protocol, path), options.repeats),
    "check": lambda protocol, path, _: check(protocol, path),
}

if __name__ == "__main__":
    main()

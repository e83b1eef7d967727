"""J and F on the development sequences, beside the plainest form of label propagation.

    python benchmarks/quality.py                                       # the default model, and `plain`
    python benchmarks/quality.py --preset label-propagation coarse matched-finer round-1 along-edges   # step by step
    python benchmarks/quality.py --preset all -o results               # and each preset; keeps the masks
    python benchmarks/quality.py --preset all -o results --resume      # goes on after an interruption
    python benchmarks/quality.py --preset dino --backbone resnet18 --size 240 --sequences bus flamingo

DAVIS-2016 development sequences: one object, J and F a sequence. schoolgirls (DAVIS-2017): several, J and F of each
object, averaged over the objects. First and last frame left out, as the official evaluation does (systems.md, 5). A
last line gives F by a tolerance a quarter of the official one.

`plain` (plain.py) is what one would write in an afternoon, untuned: the 80 channels of the default backbone at about
stride 8 (the deepest stage used of another --backbone), context 7, top-k 10, temperature 0.07, a square window of 12,
linear enlargement, always float32. Differences are to it.

With -o, masks go to OUT/<preset>/<set>/<sequence>/masks and replace what stands there. With --resume as well, a
sequence is taken from its score.json if that was made by the same settings, versions, source code and data files.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import matchcut
from common import DATA, machine, table
from matchcut.api import versions
from matchcut.masks import object_ids, read_mask
from matchcut.metrics import boundary_f, jaccard
from matchcut.models.label_propagation import PRESETS
from matchcut.reproduce.mask_vos import ROUNDS
from matchcut.tracking.timeline import Timeline
from matchcut.weights.records import WEIGHTS
from matchcut.weights.store import packaged_file
from plain import Plain

TIGHT = 0.002
"""Of the diagonal, 2 pixels at 480 x 854: a second F, which sees what that of DAVIS (8 pixels) lets pass."""
SINGLE, MULTI = "davis2016-dev-480p", "davis2017-multi-240p"
VARIANTS = {name.replace(" ", "-"): settings for name, settings in ROUNDS.items()} | {"no-decoder": {"blend": 1.0}}
"""Of mask-vos, step by step; `pixels` is the default, and `no-decoder` that without what was learned."""
LEARNED = "-learned"
"""Label propagation by the settings so named, with the features that Mask-VOS learned."""
CHOICES = [
    *("default", "label-propagation", *VARIANTS, *PRESETS, "plain"),
    *(one + LEARNED for one in ("label-propagation", *PRESETS)),
]


def main() -> None:
    options = parse()
    code_hash()
    sequences = [(root, one) for root in (SINGLE, MULTI) for one in folders(options.data / root / "JPEGImages")]
    if options.sequences:
        unknown = set(options.sequences) - {one for _, one in sequences}
        if unknown:
            raise SystemExit(
                f"no sequence {', '.join(sorted(unknown))}; there are {', '.join(o for _, o in sequences)}"
            )
        sequences = [one for one in sequences if one[1] in options.sequences]
    if not sequences:
        raise SystemExit(f"{options.data}: no {SINGLE} or {MULTI} with JPEGImages and Annotations; give --data")
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for preset in options.preset:
        tracker = tracker_of(preset, options)
        found[preset] = {(root, one): score_of(preset, root, one, tracker, options) for root, one in sequences}
    print(f"\n{machine('timm')}")
    for root in dict.fromkeys(root for root, _ in sequences):
        print(f"\n{root}, backbone {options.backbone or 'default'}, size {options.size or 'of the preset'}\n")
        report(root, [one for one in sequences if one[0] == root], found)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["default", "plain"], choices=[*CHOICES, "all"])
    parser.add_argument("--backbone", help="any timm model instead of the default one; timm gets its weights")
    parser.add_argument("--weights", help="of mask-vos, a training run's, instead of the shipped ones")
    parser.add_argument("--size", type=int, help="short side it works at")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--sequences", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--data", type=Path, default=DATA, help=f"holds {SINGLE} and {MULTI}")
    parser.add_argument("-o", "--out", type=Path, help="where masks and scores go")
    parser.add_argument("--resume", action="store_true", help="keep sequences that -o holds of the same settings")
    options = parser.parse_args()
    if options.resume and options.out is None:
        parser.error("--resume needs -o")
    options.preset = CHOICES if "all" in options.preset else list(dict.fromkeys(options.preset))
    return options


def tracker_of(preset: str, options: argparse.Namespace) -> matchcut.Tracker | Plain:
    if preset == "plain":
        return Plain(options.backbone, options.size)
    if preset in VARIANTS:
        model: Any = matchcut.load_model("mask-vos", weights=options.weights).with_settings(**VARIANTS[preset])
    elif preset == "default" and options.weights is not None:
        model = matchcut.load_model("mask-vos", weights=options.weights)
    elif preset in ("default", "label-propagation"):
        model = matchcut.load_model(None if preset == "default" else preset, backbone=options.backbone)
    elif preset.endswith(LEARNED):
        name = preset.removesuffix(LEARNED)
        weights = options.weights or str(packaged_file(WEIGHTS["mask-vos-small"]))
        model = matchcut.load_model("label-propagation", preset=name if name in PRESETS else None, weights=weights)
    else:
        model = matchcut.load_model(preset=preset, backbone=options.backbone)
    return matchcut.Tracker(model, size=options.size, precision=options.precision)


def folders(root: Path) -> list[str]:
    return sorted(one.name for one in root.iterdir() if one.is_dir()) if root.is_dir() else []


def score_of(
    preset: str, root: str, sequence: str, tracker: matchcut.Tracker | Plain, options: argparse.Namespace
) -> dict[str, Any]:
    """J and F of a sequence's objects, computed or, with --resume, taken from what the same settings left."""
    frames, truth = (options.data / root / part / sequence for part in ("JPEGImages", "Annotations"))
    masks = sorted(truth.glob("*.png"))
    video = matchcut.Video(frames)
    if [one.stem for one in masks] != list(video.names()):
        raise SystemExit(f"{truth}: the masks are not those of the {len(video)} frames in {frames}")
    timeline = Timeline(video)
    first = without_void(read_mask(masks[0]))
    timeline.annotate(0, first)
    made_from = {
        "tracker": timeline.fingerprint(tracker.fingerprint()),
        "code": code_hash(),
        "preset": preset,
        **versions(),
    }
    files = [(str(one.resolve()), one.stat().st_size, one.stat().st_mtime_ns) for one in (*frames.iterdir(), *masks)]
    made_from["data"] = hashlib.sha256(repr(sorted(files)).encode()).hexdigest()
    folder = options.out / preset / root / sequence if options.out is not None else None
    record = folder / "score.json" if folder is not None else None
    if options.resume and record is not None and record.exists():
        kept: dict[str, Any] = json.loads(record.read_text())
        if kept.pop("made_from") == made_from:
            print(f"{preset}, {sequence}: taken from {record}", flush=True)
            return kept
    if record is not None:
        record.unlink(missing_ok=True)
    started = time.perf_counter()
    tracker.fill(timeline)
    seconds = time.perf_counter() - started
    result = {"frames": len(video), "seconds": round(seconds, 2), **scores(timeline, masks, object_ids(first))}
    if folder is not None and record is not None:
        for old in (folder / "masks").glob("*.png"):
            old.unlink()
        timeline.save(folder, preset=preset, **versions())
        record.write_text(json.dumps({**result, "made_from": made_from}, indent=1) + "\n")
    print(f"{preset}, {sequence}: J {mean(result['j']):.1f}, F {mean(result['f']):.1f}", flush=True)
    return result


def scores(timeline: Timeline, masks: list[Path], ids: list[int]) -> dict[str, Any]:
    """J, F and the tight F of each object, in percent: the mean over all frames but the first and the last."""
    j, f, tight = np.zeros((3, len(ids)))
    inner = range(1, len(masks) - 1)
    for index in inner:
        truth, shown = without_void(read_mask(masks[index])), timeline.labels(index)
        assert shown is not None
        j += [jaccard(truth == one, shown == one) for one in ids]
        f += [boundary_f(truth == one, shown == one) for one in ids]
        tight += [boundary_f(truth == one, shown == one, TIGHT) for one in ids]
    return {name: list(100 * sums / len(inner)) for name, sums in (("j", j), ("f", f), ("tight", tight))}


def report(
    root: str, sequences: list[tuple[str, str]], found: dict[str, dict[tuple[str, str], dict[str, Any]]]
) -> None:
    """Sequences x (J, F) of each preset, their mean, and what one would use instead."""
    head = ["sequence", *(f"{preset} {what}" for preset in found for what in ("J", "F"))]
    values = {
        preset: [(mean(found[preset][o]["j"]), mean(found[preset][o]["f"])) for o in sequences] for preset in found
    }
    if root == MULTI:
        objects = len(found[next(iter(found))][sequences[0]]["j"])
        head[0] = f"sequence ({objects} objects)" if len(sequences) == 1 else "sequence"
    rows = [
        [name, *(f"{number:.1f}" for preset in found for number in values[preset][row])]
        for row, (_, name) in enumerate(sequences)
    ]
    means = {preset: [mean(column) for column in zip(*values[preset], strict=True)] for preset in found}
    rows.append(["mean", *(f"{number:.1f}" for preset in found for number in means[preset])])
    if plain := means.get("plain"):
        gain = [f"{ours - base:+.1f}" for one in found for ours, base in zip(means[one], plain, strict=True)]
        rows.append(["to plain", *gain])
    print(table(head, rows))
    print("\nJ&F: " + ", ".join(f"{preset} {mean(both):.1f}" for preset, both in means.items()))
    tight = {preset: mean(mean(found[preset][o]["tight"]) for o in sequences) for preset in found}
    print(f"F within {100 * TIGHT:.1f}% of the diagonal: " + ", ".join(f"{one} {f:.1f}" for one, f in tight.items()))


def without_void(labels: Any) -> Any:
    """The guided task counts void (255) as background."""
    return np.where(labels == 255, 0, labels).astype(np.uint8)


@cache
def code_hash() -> str:
    """Of the source of the package, this and `plain`, as it was when the run began: other code may give other masks."""
    here = [Path(__file__), Path(__file__).with_name("plain.py")]
    sources = [*sorted(Path(matchcut.__file__).parent.rglob("*.py")), *here]
    return hashlib.sha256(b"".join(one.read_bytes() for one in sources)).hexdigest()


def mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


if __name__ == "__main__":
    main()

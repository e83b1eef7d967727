"""`matchcut.matching.regions` beside what is used instead: pycocotools, torchvision, and loops over masks.

    python benchmarks/regions.py                          # 50 full-frame masks of 480 x 854, real ones if any
    python benchmarks/regions.py --data random --masks 20

IoU is that of all pairs of the masks; pooling is over a feature map of 60 x 107 x 512, in the boxes by 14 x 14 bins of
2 x 2 samples. pycocotools is timed with and without the encoding of the masks. Time is the median of --repeats after
one run that does not count; slow forms run once. Everything runs in one process, one after the other.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from common import DATA, machine, table

GRID, CHANNELS, STRIDE = (60, 107), 512, 8


def main() -> None:
    options = parse()
    import numpy as np
    import torch
    import torchvision
    from pycocotools import mask as coco

    from matchcut.matching.regions import masks_to_boxes, pool, pool_boxes, soft_iou

    torch.set_grad_enabled(False)
    present = (DATA / "davis2016-dev-480p").is_dir()
    data = options.data or ("real" if present else "random")
    masks = (real if data == "real" else random)(options.masks)  # (N, 480, 854) bool
    soft = masks.float()
    features = torch.randn(1, CHANNELS, *GRID, generator=torch.Generator().manual_seed(0))
    around = masks_to_boxes(masks)
    # What encoders take: (H, W, N) in Fortran's order.
    bytes_ = np.asfortranarray(masks.permute(1, 2, 0).numpy().astype(np.uint8))
    encoded = coco.encode(bytes_)
    crowd = [0] * len(masks)

    def pairs(one: Any) -> Any:
        found = torch.zeros(len(one), len(one))
        for i, a in enumerate(one):
            for j, b in enumerate(one):
                found[i, j] = (a & b).sum() / (a | b).sum().clamp(min=1)
        return found

    def soft_pairs(one: Any) -> Any:
        found = torch.zeros(len(one), len(one))
        for i, a in enumerate(one):
            for j, b in enumerate(one):
                both = (a * b).sum()
                found[i, j] = both / (a.sum() + b.sum() - both).clamp(min=1)
        return found

    def pooled_one_by_one() -> Any:
        rows = []
        for mask in soft:
            small = torch.nn.functional.interpolate(mask[None, None], GRID, mode="area")[0]
            rows.append((features[0] * small).sum((1, 2)) / small.sum().clamp(min=1e-9))
        return torch.stack(rows)

    def aligned() -> Any:
        found = torchvision.ops.roi_align(features, [around], 14, 1 / STRIDE, 2, aligned=True).mean((2, 3))
        return found * (around[:, 2] > around[:, 0])[:, None]

    def there(found: Any) -> Any:
        """Only masks that are not empty, of which torchvision has no boxes."""
        return found[around[:, 2] > 0]

    edge = torch.tensor([0, 0, 1, 1])
    rows: list[tuple[str, str, Callable[[], Any], list[tuple[str, Callable[[], Any]]]]] = [
        (
            "IoU, bool",
            "soft_iou",
            lambda: soft_iou(masks[None], masks[None])[0],
            [
                (
                    "pycocotools, encoding and IoU",
                    lambda: torch.from_numpy(coco.iou(*[coco.encode(bytes_)] * 2, crowd)),
                ),
                ("pycocotools, masks encoded before", lambda: torch.from_numpy(coco.iou(encoded, encoded, crowd))),
                ("a loop over pairs", lambda: pairs(masks)),
            ],
        ),
        (
            "IoU, float32",
            "soft_iou",
            lambda: soft_iou(soft[None], soft[None])[0],
            [("a loop over pairs", lambda: soft_pairs(soft))],
        ),
        (
            "boxes",
            "boxes",
            lambda: there(masks_to_boxes(masks)),
            [("torchvision.ops.masks_to_boxes", lambda: torchvision.ops.masks_to_boxes(there(masks)) + edge)],
        ),
        (
            "pooled masks",
            "pool",
            lambda: pool(features, masks[None])[0],
            [("a loop over masks", pooled_one_by_one)],
        ),
        (
            "pooled boxes",
            "pool_boxes",
            lambda: pool_boxes(features, around[None], scale=1 / STRIDE)[0],
            [("torchvision.ops.roi_align, mean", aligned)],
        ),
    ]
    lines = []
    for what, name, ours, others in rows:
        mine, answer = timed(ours, options.repeats)
        lines.append([what, f"matchcut, {name}", f"{mine:.1f}", "1.0", "0"])
        for other_name, other in others:
            spent, theirs = timed(other, options.repeats)
            apart = float((answer.double() - theirs.double()).abs().max())
            lines.append([what, other_name, f"{spent:.1f}", f"{spent / mine:.1f}", f"{apart:.0e}"])
    print(f"\n{len(masks)} masks of {masks.shape[1]} x {masks.shape[2]}, {data}\n")
    print(f"{machine('torchvision', 'pycocotools')}\n")
    print(table(["what", "form", "ms", "times ours", "largest difference"], lines))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--data", choices=("real", "random"), help="real where ../shared/data is present")
    return parser.parse_args()


def real(count: int) -> Any:
    """Ground truths of DAVIS-2016 sequences, evenly spread over all of them."""
    import numpy as np
    import torch
    from PIL import Image

    paths = sorted((DATA / "davis2016-dev-480p" / "Annotations").glob("*/*.png"))
    chosen = [paths[i * len(paths) // count] for i in range(count)]
    return torch.stack([torch.from_numpy(np.array(Image.open(path)) > 0) for path in chosen])


def random(count: int) -> Any:
    """Discs."""
    import torch

    numbers = torch.rand(3, count, 1, 1, generator=torch.Generator().manual_seed(0))
    y, x = torch.arange(480)[:, None], torch.arange(854)
    return (y - 480 * numbers[0]).square() + (x - 854 * numbers[1]).square() < (20 + 150 * numbers[2]).square()


def timed(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Milliseconds, and what came out; once where it takes above a second."""
    started = time.perf_counter()
    answer = run()
    first = time.perf_counter() - started
    spent = []
    for _ in range(repeats if first < 1 else 0):
        started = time.perf_counter()
        run()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent or [first]) * 1000, answer


if __name__ == "__main__":
    main()

"""`matchcut.matching.deform.deform_conv2d` beside torchvision's operator and sampling by `grid_sample` tap by tap.

    python benchmarks/deform.py                                   # 1 x 64 x 120 x 214 to 32 channels, 3 x 3
    python benchmarks/deform.py --shape 64 60 107 --out 128       # another one
    python benchmarks/deform.py --device cuda                     # there ours is torchvision's operator

Offsets are normal with a standard deviation of 2 cells. Time is the median of --repeats after one run that does not
count, without a graph, and with the gradients of all inputs; memory is the peak above what the process held with the
inputs loaded. Each form has a process of its own; that the answers agree is checked in one more.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from common import forget_peak, in_subprocess, machine, must, peak_gib, table

FORMS = {"ours": "matchcut", "torchvision": "torchvision.ops.deform_conv2d", "taps": "grid_sample, a product a tap"}


def main() -> None:
    options = parse()
    if options.case:
        print(json.dumps(CASES[options.case](options)))
        return
    channels, height, width = options.shape
    common = ["--shape", *options.shape, "--out", options.out, "--repeats", options.repeats, "--device", options.device]
    size = f"1 x {channels} x {height} x {width} to {options.out} channels"
    print(f"\nDeformable convolution, {size}, 3 x 3, {options.device}\n")
    print(f"{machine('torchvision')}\n")
    found = {form: must(in_subprocess(__file__, *common, "--case", form)) for form in FORMS}
    lines = []
    for form, name in FORMS.items():
        row = [name]
        for key in ("forward", "both", "mib"):
            row += [f"{found[form][key]:.0f}", f"{found[form][key] / max(found['ours'][key], 1e-3):.1f}"]
        lines.append(row)
    head = ["form", "forward, ms", "times ours", "with backward, ms", "times ours", "extra peak MiB", "times ours"]
    print(table(head, lines))
    print(f"\n{must(in_subprocess(__file__, *common, '--case', 'check'))['text']}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs=3, type=int, default=(64, 120, 214), metavar=("C", "H", "W"))
    parser.add_argument("--out", type=int, default=32, help="channels of the output")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args()


def inputs(options: argparse.Namespace) -> list[Any]:
    """values (1, C, H, W), offset (1, 18, H, W), weight (O, C, 3, 3), bias (O,)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    channels, height, width = options.shape
    shapes = [(1, channels, height, width), (1, 18, height, width), (options.out, channels, 3, 3), (options.out,)]
    scales = (1, 2, (9 * channels) ** -0.5, 1)
    made = [torch.randn(*shape, generator=generator) * scale for shape, scale in zip(shapes, scales, strict=True)]
    return [one.to(options.device).requires_grad_() for one in made]


def form_of(name: str) -> Callable[..., Any]:
    import torch
    import torch.nn.functional as F
    import torchvision

    from matchcut.matching.deform import deform_conv2d

    def taps(values: Any, offset: Any, weight: Any, bias: Any) -> Any:
        height, width = values.shape[2:]
        y, x = (torch.arange(size, device=values.device) for size in (height, width))
        made = bias[:, None, None]
        for tap in range(9):
            rows = (y[:, None] + offset[:, 2 * tap] + tap // 3 - 1) * 2 / (height - 1) - 1
            columns = (x + offset[:, 2 * tap + 1] + tap % 3 - 1) * 2 / (width - 1) - 1
            sampled = F.grid_sample(values, torch.stack((columns, rows), -1), align_corners=True)
            made = made + (weight[:, :, tap // 3, tap % 3] @ sampled.flatten(2)).unflatten(2, (height, width))
        return made

    if name == "taps":
        return taps
    form = {"ours": deform_conv2d, "torchvision": torchvision.ops.deform_conv2d}[name]
    return lambda *given: form(*given, padding=1)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    form, given = form_of(name), inputs(options)
    cuda = options.device.startswith("cuda")

    def forward() -> None:
        with torch.no_grad():
            form(*given)

    def both() -> None:
        torch.autograd.grad(form(*given).sum(), given)

    before = forget_peak()
    found = {key: median(run, options.repeats, cuda) for key, run in (("forward", forward), ("both", both))}
    mib = torch.cuda.max_memory_allocated() / 2**20 if cuda else (peak_gib() - before) * 1024
    return {**found, "mib": mib}


def median(run: Callable[[], None], repeats: int, cuda: bool) -> float:
    """Milliseconds."""
    import torch

    spent = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent[1:]) * 1000


def check(options: argparse.Namespace) -> dict[str, Any]:
    """The largest differences to torchvision, of outputs and of gradients in relation to the largest gradient."""
    import torch

    given = inputs(options)
    made = {name: form_of(name)(*given) for name in FORMS}
    weight = torch.randn(made["ours"].shape, generator=torch.Generator().manual_seed(1)).to(options.device)
    grads = {name: torch.autograd.grad((one * weight).sum(), given) for name, one in made.items()}
    texts = []
    for name in ("ours", "taps"):
        output = float((made[name] - made["torchvision"]).abs().max())
        pairs = zip(grads[name], grads["torchvision"], strict=True)
        gradient = max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)
        texts.append(f"{FORMS[name]}: outputs by {output:.0e}, gradients by {gradient:.0e} of the largest")
    verdict = "equal to 1e-5" if float((made["ours"] - made["torchvision"]).abs().max()) < 1e-5 else "WRONG"
    return {"text": f"Largest difference to torchvision, {'; '.join(texts)}. Ours: {verdict}."}


CASES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    **{name: lambda options, name=name: measure(name, options) for name in FORMS},
    "check": check,
}

if __name__ == "__main__":
    main()

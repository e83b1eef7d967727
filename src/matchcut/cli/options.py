"""Options that several commands take, each written once, and the groups that `--help` shows them in."""

from pathlib import Path
from typing import Annotated, Any

import typer

PROMPT, MODEL, RANGE, OUTPUT = "Prompt", "Model", "Range", "Output"


def option(*names: str, group: str, help: str, **more: Any) -> Any:
    """A `typer.Option` in a group of `--help`."""
    return typer.Option(*names, help=help, rich_help_panel=group, **more)


# --- the model and where it runs
Model = Annotated[str | None, option(group=MODEL, help="See `matchcut models`.")]
Preset = Annotated[str | None, option(group=MODEL, help="A published protocol: crw, dino, vfs or mask-vos.")]
Backbone = Annotated[str | None, option(group=MODEL, help="Any timm model instead of the default backbone.")]
Weights = Annotated[
    Path | None, option(group=MODEL, help="A local file: a training run's weights, or the --backbone's.")
]
Device = Annotated[str, option(group=MODEL, help="cpu, cuda, mps or auto.")]
Precision = Annotated[str, option(group=MODEL, help="float32, bfloat16 or auto.")]
Size = Annotated[int | None, option(group=MODEL, help="Short side it works at; masks have full size anyway.", min=32)]

# --- the frames
Start = Annotated[int, option(group=RANGE, help="First frame.", min=0)]
End = Annotated[int | None, option(group=RANGE, help="Frame to stop before.", min=1)]
Stride = Annotated[int, option(group=RANGE, help="Every n-th frame.", min=1)]
AllowTruncated = Annotated[
    bool, option("--allow-truncated", group=RANGE, help="Go on with the frames of a video that ends early.")
]

# --- what is written
Out = Annotated[
    Path, option("--out", "-o", group=OUTPUT, help="Folder for the results; of several inputs, one in it each.")
]
Overlay = Annotated[bool, option("--overlay", group=OUTPUT, help="Also overlay.mp4: the video with the masks on it.")]
Cutout = Annotated[
    str | None,
    option(group=OUTPUT, help='Also the objects cut out: "png" (a folder of RGBA) or "mov" (ProRes 4444).'),
]
Coco = Annotated[bool, option("--coco", group=OUTPUT, help="Also coco.json: the masks as run lengths.")]
Overwrite = Annotated[bool, option("--overwrite", group=OUTPUT, help="Replace what an earlier run left in -o.")]
Resume = Annotated[bool, option("--resume", group=OUTPUT, help="Go on with an interrupted run in -o.")]
Compare = Annotated[Path | None, option(group=OUTPUT, help="OUT of another run, to be put beside this one.")]

# --- the benchmark
Root = Annotated[Path, typer.Option(help="Root of the benchmark, as published.")]
Split = Annotated[str | None, option(group=RANGE, help="By default the one that papers report.")]
Sequences = Annotated[list[str] | None, option(group=RANGE, help="Only these: --sequences bus flamingo.")]
More = Annotated[list[str] | None, typer.Argument(hidden=True)]
"""Sequences after the first of --sequences, which typer takes for arguments."""

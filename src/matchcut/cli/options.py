"""Options that several commands take, each written once."""

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; of several inputs, one in it each.")]

# --- the network and where it runs
Model = Annotated[str | None, typer.Option(help="See `matchcut models`.")]
Preset = Annotated[str | None, typer.Option(help="A published protocol: crw, dino, vfs or mask-vos.")]
Backbone = Annotated[str | None, typer.Option(help="Any timm model instead of the default backbone.")]
Weights = Annotated[Path | None, typer.Option(help="A local file: a training run's weights, or the --backbone's.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]
Precision = Annotated[str, typer.Option(help="float32, bfloat16 or auto.")]
Size = Annotated[int | None, typer.Option(help="Short side it works at; masks have full size anyway.", min=32)]

# --- the frames
Start = Annotated[int, typer.Option(help="First frame.", min=0)]
End = Annotated[int | None, typer.Option(help="Frame to stop before.", min=1)]
Stride = Annotated[int, typer.Option(help="Every n-th frame.", min=1)]
AllowTruncated = Annotated[
    bool, typer.Option("--allow-truncated", help="Go on with the frames of a video that ends early.")
]

# --- what is written
Overlay = Annotated[bool, typer.Option("--overlay", help="Also overlay.mp4: the video with the masks on it.")]
Cutout = Annotated[
    str | None, typer.Option(help='Also the objects cut out: "png" (a folder of RGBA) or "mov" (ProRes 4444).')
]
Coco = Annotated[bool, typer.Option("--coco", help="Also coco.json: the masks as run lengths.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run left in -o.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run in -o.")]

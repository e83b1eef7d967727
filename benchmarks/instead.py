"""What one would use instead of matchcut, from a video to masks on disk: the rows of `track.py` that are not ours.

Each function returns what runs and the precision it has. `run(video, labels, folder, done)` writes the masks of a video
whose first frame shows the object of `labels` to `folder / "masks"` and calls `done()` after each propagated one.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import dense
from matchcut.masks import one_hot, write_mask
from matchcut.models.backbones import Backbone

Done = Callable[[], None]
Run = Callable[[Any, Any, Path, Done], None]


def random_resnet18() -> Backbone:
    """ResNet-18 up to CRW's 256 channels at stride 8, with random weights as torchvision draws them.

    timm begins the last norm of each block at 0, which leaves a chain of shortcuts whose features hardly differ.
    """
    net = Backbone("resnet18", stages=(3,), stride=8)
    for name, weight in net.named_parameters():
        if name.endswith("bn2.weight"):
            torch.nn.init.ones_(weight)
    return net


def dense_crw() -> tuple[Run, str]:
    """CRW's protocol with all scores at once: float32, context 20, one step after the other."""
    net = random_resnet18().eval()

    def keys_of(frame: Any) -> Any:
        image = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
        return F.normalize(net(image)[0], dim=1)

    @torch.inference_mode()
    def run(video: Any, labels: Any, folder: Path, done: Done) -> None:
        frames = video.frames()
        first = keys_of(next(frames)[1])
        height, width = first.shape[2:]
        carry = dense.crw(height, width)
        soft = F.interpolate(torch.from_numpy(one_hot(labels, [1]))[None], (height, width), mode="bilinear")
        memory = [(first.flatten(2), soft.flatten(2))] * 21  # the first frame, and as often as the context is long
        save(folder, video.frame_name(0), labels)
        for index, frame in frames:
            keys = keys_of(frame).flatten(2)
            sources, values = (torch.cat([one[part] for one in memory]) for part in (0, 1))
            soft, _ = carry(keys[0], sources, values.transpose(0, 1).flatten(1))
            memory = [memory[0], *memory[2:], (keys, soft[None])]
            large = F.interpolate(soft.view(1, -1, height, width), video.size, mode="bilinear")
            save(folder, video.frame_name(index), large[0].argmax(0).byte().numpy())
            done()

    return run, "float32"


def sam2(bfloat16: bool = False) -> tuple[Run, str]:
    """The streaming use of transformers' SAM 2, prompted with the first mask."""
    from transformers import Sam2VideoConfig, Sam2VideoModel
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    model = Sam2VideoModel(Sam2VideoConfig()).eval()  # a config's defaults are hiera-tiny's
    side = model.config.image_size
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    @torch.inference_mode()
    @torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)
    def run(video: Any, labels: Any, folder: Path, done: Done) -> None:
        session = Sam2VideoInferenceSession(video_height=video.size[0], video_width=video.size[1], dtype=torch.float32)
        prompt = F.interpolate(torch.from_numpy(labels)[None, None].float(), (side, side), mode="nearest")
        session.add_mask_inputs(session.obj_id_to_idx(1), 0, prompt)
        session.obj_with_new_inputs = [1]
        for index, frame in video.frames():
            image = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
            image = F.interpolate(image, (side, side), mode="bilinear", antialias=True)
            found = model(session, frame=(image - mean) / std)
            large = F.interpolate(found.pred_masks.float(), video.size, mode="bilinear")
            save(folder, video.frame_name(index), (large[0, 0] > 0).byte().numpy())
            if index:
                done()

    return run, "bfloat16" if bfloat16 else "float32"


def save(folder: Path, name: str, labels: Any) -> None:
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    write_mask(folder / "masks" / f"{name}.png", labels)


RUNS: dict[str, Callable[[], tuple[Run, str]]] = {
    "crw-dense": dense_crw,
    "sam2": sam2,
    "sam2-bf16": partial(sam2, bfloat16=True),
}

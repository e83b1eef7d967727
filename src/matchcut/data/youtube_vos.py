"""YouTube-VOS 2018 and 2019 (Xu et al., ECCV 2018).

Layout: youtube-vos.org's archives as hkchengrex/STCN and XMem (`valid`, `all_frames`), visionml/pytracking
(`meta.json`) and andr345/frtm-vos (`valid_all_frames`) describe them.
"""

import json
from pathlib import Path
from typing import Any

from matchcut.data.listing import images_in, singles
from matchcut.data.sequence import ObjectInfo, Sequence
from matchcut.errors import DatasetError

ALL_FRAMES = "_all_frames"


def youtube_vos(root: Path, split: str) -> list[Sequence]:
    """`<split>/JPEGImages/<video>/<frame>.jpg`, `<split>/Annotations/<video>/<frame>.png` (ids, with gaps),
    `<split>/meta.json`: `videos`, `<video>`, `objects`, `<id>`, `category` and `frames`.

    `train`, `valid` and `test` hold every 5th frame. `valid_all_frames` (or `all_frames/valid_all_frames`) holds the
    images of all; masks and meta.json are then those of `valid`. Masks are where they stand: in valid only at frames
    where objects enter, and a video's first frame may hold none. An object's category is seen if train's meta.json,
    under the same root, has it; published lists of the unseen ones could not be verified, so without it `seen` is None.

    Raises:
        DatasetError: meta.json is missing, damaged, of another form, or names no video.
    """
    base = split.removesuffix(ALL_FRAMES)
    images_at = root / split
    if split.endswith(ALL_FRAMES) and not images_at.is_dir():
        images_at = root / "all_frames" / split
    videos = _videos(root / base / "meta.json")
    train = root / "train" / "meta.json"
    seen = {one.category for video in _videos(train).values() for one in video.values()} if train.is_file() else None
    made = []
    for name, objects in videos.items():
        if seen is not None:
            objects = {i: ObjectInfo(o.category, o.frames, o.category in seen) for i, o in objects.items()}
        problems: list[str] = []
        images = images_in(images_at / "JPEGImages" / name, problems)
        masks = images_in(root / base / "Annotations" / name, problems)
        frames = {frame for one in objects.values() for frame in one.frames}
        if images and (missing := sorted(frames - images.keys() - masks.keys())):
            folder = images_at / "JPEGImages" / name
            problems.append(f"{folder}: frames {', '.join(missing)} of meta.json are missing; restore them")
        made.append(
            Sequence(name, images, singles(masks), "ids", enters_later=True, objects=objects, problems=tuple(problems))
        )
    return made


def _videos(path: Path) -> dict[str, dict[int, ObjectInfo]]:
    try:
        content = json.loads(path.read_bytes())
        videos = {name: _objects(video["objects"]) for name, video in content["videos"].items()}
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read; check the root and the split") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: not the meta.json of YouTube-VOS ({error!r}); replace it") from error
    if not videos:
        raise DatasetError(f"{path}: the split is empty; replace it by the published file")
    return videos


def _objects(objects: dict[str, Any]) -> dict[int, ObjectInfo]:
    return {int(i): ObjectInfo(o.get("category", ""), tuple(o.get("frames", ()))) for i, o in objects.items()}

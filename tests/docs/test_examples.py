"""Every example in the docs is code that runs, every command line is understood, every link leads somewhere."""

import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from matchcut.benchmarks.protocols import PROTOCOLS
from matchcut.cli import app
from matchcut.data.readers import DATASETS, SPLITS
from matchcut.masks import read_mask, write_mask
from matchcut.models.catalogue import MODELS
from matchcut.training.objectives import OBJECTIVES
from matchcut.video.reader import Video
from matchcut.video.writer import VideoWriter

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "examples/README.md", *sorted(f"{one.relative_to(ROOT)}" for one in ROOT.glob("docs/**/*.md"))]
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
BLOCKS = {page: re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE) for page, text in TEXTS.items()}
LINKS = {page: re.findall(r"\]\((?!https?://)([^)\s]+)\)", text) for page, text in TEXTS.items()}
FRAMES = {"README.md": 2}
"""Of the sample clip, where not the 12 that examples name: what runs at full size takes longer."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Makes a folder with what examples name: the sample clip, shorter, its mask, and two small benchmarks."""

    @cache
    def prepare(count: int) -> Path:
        place = tmp_path_factory.mktemp("prepared")
        (place / "examples").mkdir()
        given = shutil.copy(ROOT / "examples/bunny_first.png", place / "examples")
        clip = Video(ROOT / "examples/bunny.mp4", end=count)
        with VideoWriter(place / "examples/bunny.mp4", source=clip) as writer:
            for frame in clip:
                writer.write(frame)
        small = np.ascontiguousarray(read_mask(given)[::4, ::4])
        for frames, masks in (("DAVIS/JPEGImages", "DAVIS/Annotations"), ("PETS/video", "PETS/truth")):
            for index in range(3):
                for folder in (frames, masks):
                    (place / folder / "bunny").mkdir(parents=True, exist_ok=True)
                frame = Image.fromarray(clip[min(index, count - 1)]).resize((160, 90))
                frame.save(place / frames / f"bunny/{index:05d}.png")
                write_mask(place / masks / f"bunny/{index:05d}.png", small)
        return place

    return prepare


@pytest.fixture
def workplace(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    prepared: Callable[[int], Path],
) -> Path:
    """The working directory of an example."""
    count = FRAMES.get(getattr(request, "param", ""), 12)
    shutil.copytree(prepared(count), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("page", "workplace"), [(page, page) for page, blocks in BLOCKS.items() if blocks], indirect=["workplace"]
)
def test_python_blocks_of_a_page_run_one_after_the_other(page: str, workplace: Path) -> None:
    names: dict[str, Any] = {"__name__": "example"}
    tables = (MODELS, DATASETS, SPLITS, PROTOCOLS, OBJECTIVES)  # examples enter theirs
    before = [dict(one) for one in tables]
    try:
        for block in BLOCKS[page]:
            exec(compile(block, page, "exec"), names)
    finally:
        for table, kept in zip(tables, before, strict=True):
            table.clear()
            table.update(kept)  # type: ignore[arg-type]


def run_script(name: str, out: Path) -> dict[str, Any]:
    with patch.object(sys, "argv", [name, str(out)]):
        return runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_the_example_of_corrections_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_script("track_and_correct.py", workplace / "out")
    assert "6 frames are stale" in capsys.readouterr().out
    assert len(list((workplace / "out/masks").glob("*.png"))) == 12
    assert (workplace / "out/overlay.mp4").stat().st_size > 0


def test_the_model_of_ones_own_is_the_page_s_and_keeps_the_object(workplace: Path) -> None:
    run_script("own_model.py", workplace / "out")
    source = (ROOT / "examples/own_model.py").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^class Patches.*?\n\n\n", source, re.DOTALL | re.MULTILINE)
    assert shown.strip() in TEXTS["docs/add_a_model.md"]
    first, last = (read_mask(workplace / f"out/masks/{name}.png") > 0 for name in ("00000", "00011"))
    assert 0.7 < last.sum() / first.sum() < 1.5  # it moves and stretches
    assert (first & last).sum() > 0.6 * first.sum()


def slugs(text: str) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    heads = [re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in re.findall(r"^#+ (.*)$", text, re.M)]
    return {*heads, *re.findall(r'name="([^"]+)"', text)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in LINKS[page]:
        target, _, anchor = link.partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in slugs(path.read_text(encoding="utf-8")), f"{page} links to {link}"


def test_every_page_can_be_reached_from_the_first() -> None:
    reached, ahead = set(), ["README.md"]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        paths = [((ROOT / page).parent / link.partition("#")[0]).resolve() for link in LINKS[page]]
        found = [str(one.relative_to(ROOT)) for one in paths if one.suffix == ".md"]
        ahead += [one for one in found if one not in reached and one in LINKS]
    assert reached == set(PAGES)


def test_the_reference_is_what_the_docstrings_say() -> None:
    script = runpy.run_path(str(ROOT / "scripts/write_reference.py"))
    assert script["reference"]() == TEXTS["docs/reference.md"], "run python scripts/write_reference.py"


def commands(text: str) -> list[str]:
    """The command lines of a page."""
    blocks = re.findall(r"```(?:sh|bash|console)?\n(.*?)```", text.replace("\\\n", " "), re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    lines = [re.sub(r"^torchrun .* -m matchcut\.cli", "matchcut", line) for line in lines]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("matchcut ")]


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_are_understood(page: str) -> None:
    group: Any = get_command(app)
    for line in commands(TEXTS[page]):
        name, *words = shlex.split(line)[1:]
        if words and "..." not in words and "--help" not in words:
            group.commands[name].make_context(name, words)  # raises for what it does not know; runs nothing

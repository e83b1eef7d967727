"""Every example in the docs is code that runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from matchcut.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))


def test_the_example_script_runs(tmp_path: Path) -> None:
    command = [sys.executable, "examples/track_and_correct.py", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "18 frames are stale" in done.stdout
    assert len(list((tmp_path / "masks").glob("*.png"))) == 60
    assert (tmp_path / "overlay.mp4").stat().st_size > 0


@pytest.mark.parametrize("page", ["affinity", "assignment", "deform", "regions", "transport"])
def test_python_blocks_of_the_matching_pages_run(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, f"docs/{page}.md", "exec"), {})


@pytest.mark.parametrize("page", [*PAGES, "README.md"])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def commands(page: Path) -> list[str]:
    """The command lines of a page."""
    blocks = re.findall(r"```(?:sh|bash|console)?\n(.*?)```", page.read_text().replace("\\\n", " "), re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("matchcut ")]


@pytest.mark.parametrize("page", [*PAGES, "README.md"])
def test_commands_of_a_page_are_understood(page: str) -> None:
    group: Any = get_command(app)
    for line in commands(ROOT / page):
        name, *words = shlex.split(line)[1:]
        if words and "..." not in words and "--help" not in words:
            group.commands[name].make_context(name, words)  # raises for what it does not know; runs nothing

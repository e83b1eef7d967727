"""A run knows the files that it wrote; nothing else in its folder is ever removed or replaced."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from matchcut.disk import check_apart, is_inside, is_plain_name
from matchcut.errors import OutputError
from matchcut.files import atomic_path
from matchcut.manifest import MANIFEST, Manifest, noted_in, run_folder

KIND = "a test"


def write(path, text="ours", **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, **how) as temporary:
        temporary.write_text(text)


def run(folder, *names, text="ours", **how):
    with run_folder(folder, KIND, names, **how):
        for name in names:
            write(folder / name, text)


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_overwrite_removes_what_a_run_wrote_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    run(out, "masks/0.png", "masks/1.png", "plots/deep/a.png", "record.json")
    for name in ("masks/mine.png", "plots/mine.png", "mine.json"):
        (out / name).write_text("mine")
    with pytest.raises(OutputError, match=r"is not empty \(it holds masks|mine"):
        run(out, "masks/5.png")
    run(out, "masks/5.png", overwrite=True)
    held = tree(out)
    assert held.pop(MANIFEST)
    assert held == {"masks/5.png": "ours", "masks/mine.png": "mine", "plots/mine.png": "mine", "mine.json": "mine"}
    assert not (out / "plots/deep").exists()
    assert Manifest(out).files() == ["masks/5.png"]


@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize("whose", ["never written by a run", "changed since", "a link in its place"])
def test_a_file_of_the_users_in_the_way_is_named_and_nothing_is_touched(tmp_path, how, whose):
    out = tmp_path / "out"
    run(out, "a", "b") if whose != "never written by a run" else (out.mkdir(), (out / "a").write_text("ours"))
    (out / "b").unlink(missing_ok=True)
    (out / "b").write_text("by hand") if "link" not in whose else (out / "b").symlink_to(out / "a")
    before = tree(out)
    with pytest.raises(OutputError, match=r"out/[ab]: is in the way.* move it"):
        run(out, "a", "b", text="new", **how)
    assert tree(out) == before


def test_even_if_it_comes_there_while_the_run_goes_on(tmp_path):
    out = tmp_path / "out"
    with run_folder(out, KIND):
        write(out / "a")
        write(out / "a", "written again")
        (out / "a").write_text("mended by hand")
        (out / "b").write_text("by hand")
        for name in "ab":
            with pytest.raises(OutputError, match=f"{name}: is in the way"):
                write(out / name)
    assert (out / "a").read_text() == "mended by hand" and (out / "b").read_text() == "by hand"


def test_what_is_written_after_a_run_is_not_the_runs(tmp_path):
    out = tmp_path / "out"
    run(out, "a")
    write(out / "b", "by a script of the user's")
    write(out / "a", "mended by a script of the user's")
    with pytest.raises(OutputError, match="out/a: is in the way"):
        run(out, "c", overwrite=True)
    (out / "a").unlink()
    run(out, "c", overwrite=True)
    assert (out / "b").exists()


def test_what_a_killed_run_wrote_is_known(tmp_path):
    """In a process of its own that ends between two files, and in the middle of a third."""
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; out = Path(sys.argv[1])\n"
        "from test_manifest import *\n"
        "with run_folder(out, KIND, ['a', 'b', 'c']):\n"
        "    write(out / 'a'); write(out / 'b', note='name')\n"
        "    with atomic_path(out / 'c') as temporary: temporary.write_text('hal'); os._exit(9)\n"
    )
    out = tmp_path / "out"
    words = [sys.executable, "-c", script, str(out), os.path.dirname(__file__)]  # noqa: PTH120
    assert subprocess.run(words, check=False).returncode == 9
    assert len(tree(out)) == 4  # with the list, and the half
    (out / ".matchcut.mine").write_text("mine")
    (out / "b").write_text("a checkpoint is ours, whatever is in it")
    with (out / MANIFEST).open("a") as file:
        file.write('\n{"file": "a')  # as if it was killed while it wrote this
    run(out, "a", "d", resume=True)
    assert Manifest(out).files() == ["a", "d"]
    assert sorted(tree(out)) == [".matchcut.jsonl", ".matchcut.mine", "a", "b", "d"]
    run(out, overwrite=True)
    assert sorted(tree(out)) == [".matchcut.mine"]


def test_a_list_cannot_name_what_lies_elsewhere(tmp_path):
    out, victim = tmp_path / "out", tmp_path / "victim"
    run(out, "a")
    victim.mkdir()
    (victim / "a").write_text("ours")  # even of the very content
    (out / "linked").symlink_to(victim, target_is_directory=True)
    digest = json.loads((out / MANIFEST).read_text().splitlines()[-1])["hash"]
    with (out / MANIFEST).open("a") as file:
        for name in ("../victim/a", str(victim / "a"), "linked/a", "..", "x/../../victim/a"):
            file.write("\n" + json.dumps({"file": name, "hash": digest}))
    Manifest(out).remove()
    assert (victim / "a").exists() and not (out / "a").exists()


@pytest.mark.parametrize("content", ["", "{", "[]\n3\nnull", '{"file": 3}\n{"file": "a", "hash": []}', "\0\1\udcff"])
def test_an_odd_list_makes_nothing_ours(tmp_path, content):
    (tmp_path / "a").write_text("mine")
    (tmp_path / MANIFEST).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(OutputError, match="a: is in the way"):
        run(tmp_path, "a", overwrite=True)


def test_a_run_of_another_kind_is_not_taken(tmp_path):
    """`track --overwrite` into the folder of a training would remove what took days."""
    run(tmp_path / "out", "weights")
    for how in ({"overwrite": True}, {"resume": True}):
        with (
            pytest.raises(OutputError, match="holds a test: give another folder"),
            run_folder(tmp_path / "out", "another", **how),
        ):
            pass
    assert (tmp_path / "out/weights").exists()


def test_a_copied_folder_is_known_as_well(tmp_path):
    """Whatever becomes of times of change."""
    run(tmp_path / "out", "a")
    shutil.copytree(tmp_path / "out", tmp_path / "copy", copy_function=shutil.copyfile)
    run(tmp_path / "copy", "a", text="new", overwrite=True)
    assert (tmp_path / "copy/a").read_text() == "new"


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), run_folder(tmp_path / "out", KIND):
        (tmp_path / "out/masks").mkdir()
        raise ZeroDivisionError
    assert not (tmp_path / "out").exists()


def test_hidden_files_of_the_system_do_not_make_a_folder_full(tmp_path):
    (tmp_path / ".DS_Store").write_text("Bud1")
    run(tmp_path, "a")
    assert tree(tmp_path)[".DS_Store"] == "Bud1"


def test_the_innermost_folder_notes(tmp_path):
    with run_folder(tmp_path / "out", KIND), run_folder(tmp_path / "out/inner", "another"):
        write(tmp_path / "out/a")
        write(tmp_path / "out/inner/b")
        with noted_in(tmp_path / "out/inner"):
            pass
        write(tmp_path / "out/inner/c")
    assert Manifest(tmp_path / "out").files() == ["a"]
    assert Manifest(tmp_path / "out/inner").files() == ["b", "c"]


# --- outputs and inputs


def same(path, tmp_path):
    """Other names of a file or folder."""
    (tmp_path / "link").symlink_to(path.parent, target_is_directory=True)
    yield path
    yield tmp_path / "link" / path.name
    yield path.parent / "nowhere" / ".." / path.name if (path.parent / "nowhere").mkdir() is None else path
    if path.is_file():
        (tmp_path / "hard").hardlink_to(path)
        yield tmp_path / "hard"
    if (path.parent / path.name.upper()).exists():  # where the file system takes both for one
        yield path.parent / path.name.upper()


def test_an_output_on_an_input_is_found_by_whatever_name(tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "clip.mp4"
    path.write_text("mine")
    for other in same(path, tmp_path):
        for output, read in ((other, path), (path, other)):
            with pytest.raises(OutputError, match="which is read: give another folder"):
                check_apart([tmp_path / "free", output], [read])
    check_apart([tmp_path / "in" / "other.mp4"], [path, tmp_path / "gone"])


def test_an_output_in_a_folder_that_is_read_is_found(tmp_path):
    folder = tmp_path / "in" / "frames"
    folder.mkdir(parents=True)
    for other in same(folder, tmp_path):
        with pytest.raises(OutputError, match="would lie in"):
            check_apart([other / "00000.png"], [folder])
        assert is_inside(other / "deep" / "er", folder) and is_inside(other, folder)
    check_apart([folder / "out" / "00000.png"], [folder])
    assert not is_inside(tmp_path, folder) and not is_inside(tmp_path / "frames", folder)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "..\\a", "a\\b", "C:", "c:a", "a\0b", None, 3])
def test_names_that_lead_elsewhere(name):
    assert not is_plain_name(name)


@pytest.mark.parametrize("name", ["a", "00000", "bike packing", "...", "a..b", "日本", "x" * 255, "~", "-"])
def test_names_that_do_not(name):
    assert is_plain_name(name)

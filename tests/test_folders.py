"""Which files of a folder count: the user's own, whatever systems and tools put beside them."""

import pytest

from matchcut.errors import MatchcutError
from matchcut.folders import IMAGES, VIDEOS, counts, entries, files_in, folders_in

STRANGERS = (
    ".DS_Store",
    "._clip.mp4",
    "._00001.png",
    ".00001.x3f9.png",
    "Thumbs.db",
    "THUMBS.DB",
    "desktop.ini",
    "~$00001.png",
    "Icon\r",
)


def test_what_systems_and_tools_put_there_never_counts(tmp_path):
    for name in STRANGERS:
        (tmp_path / name).write_bytes(b"x")
    for name in ("@eaDir", "__MACOSX", ".git", "#recycle", "$RECYCLE.BIN", "System Volume Information"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "00000.png").write_bytes(b"x")
    assert entries(tmp_path) == [] and files_in(tmp_path, IMAGES | VIDEOS) == [] and folders_in(tmp_path) == []


def test_suffixes_of_any_case_in_natural_order(tmp_path):
    for name in ("10.png", "2.PNG", "1.Jpg", "clip.MP4", "notes.txt", "~ok.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "3.png").mkdir()
    assert [one.name for one in files_in(tmp_path, IMAGES)] == ["1.Jpg", "2.PNG", "10.png", "~ok.png"]
    assert [one.name for one in files_in(tmp_path, VIDEOS)] == ["clip.MP4"]
    assert [one.name for one in folders_in(tmp_path)] == ["3.png"]
    assert counts("my.folder") and counts("a@b.png") and not counts("@eaDir")


def test_a_link_to_nothing_counts_as_a_file_so_that_it_is_told(tmp_path):
    (tmp_path / "1.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "notes").symlink_to(tmp_path / "gone.txt")
    assert [one.name for one in files_in(tmp_path, IMAGES)] == ["1.png"]
    assert folders_in(tmp_path) == []


def test_no_folder_holds_nothing_and_one_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    assert entries(tmp_path / "absent") == []

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)  # root may list any folder, so the system cannot be made to
    with pytest.raises(MatchcutError, match="cannot be listed"):
        entries(tmp_path)

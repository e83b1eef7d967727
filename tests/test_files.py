"""Files are written whole or not at all, with the user's rights, whatever their names."""

import os
from pathlib import Path

import pytest

from matchcut.errors import OutputError
from matchcut.files import atomic_path


def test_a_file_appears_whole_and_what_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("one")
        assert not path.exists() and temporary.parent == tmp_path and temporary.suffix == ".txt"
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("two")
        raise ZeroDivisionError
    assert path.read_text() == "one" and os.listdir(tmp_path) == ["a.txt"]  # noqa: PTH208


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, flushed = tmp_path / "a.txt", []
    sync = os.fsync

    def see(handle):
        flushed.append((os.pread(handle, 9, 0), path.exists()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", see)
    with atomic_path(path) as temporary:
        temporary.write_text("all of it")
    assert flushed == [(b"all of it", False)]


def test_files_have_the_rights_that_the_umask_says_and_it_stays_as_it_is(tmp_path, monkeypatch):
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.delattr(os, "umask")  # a second thread would make its files meanwhile
            with atomic_path(tmp_path / "a.txt") as temporary:
                temporary.write_text("mine")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["f" * 251 + ".png", "f" * 255, "f." + "e" * 253])
def test_a_name_may_be_as_long_as_the_system_takes(tmp_path, name):
    with atomic_path(tmp_path / name) as temporary:
        temporary.write_text("long")
    assert (tmp_path / name).read_text() == "long"


def test_a_name_that_is_too_long_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot write"), atomic_path(tmp_path / ("f" * 256)) as temporary:
        Path(temporary).write_text("too long")
    assert not any(tmp_path.iterdir())

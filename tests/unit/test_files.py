"""Whole or absent: what shared.files promises of a file, and each extra property."""

import os
import stat
from pathlib import Path

import pytest

from shared.files import whole_file, whole_folder, write_synced


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_file_has_its_name_only_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    with whole_file(path) as file:
        file.write(b"all")
        assert not path.exists()
    assert path.read_bytes() == b"all"
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        file.write(b"half %d" % (1 // 0))
    assert path.read_bytes() == b"all"
    assert names_in(path.parent) == ["file"]


def test_a_file_has_exactly_its_mode_and_is_closed_until_then(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with whole_file(path, 0o444) as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
    assert mode_of(path) == 0o444
    write_synced(path, b"again", 0o444)  # replaced, though nobody may write to it
    assert path.read_bytes() == b"again"


def test_what_a_killed_process_of_this_number_left_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / f".file.{os.getpid()}.tmp"
    left.write_bytes(b"half")
    left.chmod(0o400)
    write_synced(tmp_path / "file", b"all", 0o400)
    assert (tmp_path / "file").read_bytes() == b"all"
    assert names_in(tmp_path) == ["file"]


def test_a_file_is_written_once_where_links_are_known_and_where_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError("no links here")

    write_synced(tmp_path / "linked", b"first", once=True)
    with pytest.raises(FileExistsError):
        write_synced(tmp_path / "linked", b"second", once=True)
    monkeypatch.setattr(os, "link", no_links)
    write_synced(tmp_path / "renamed", b"first", once=True)
    with pytest.raises(FileExistsError):
        write_synced(tmp_path / "renamed", b"second", once=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        "linked": b"first",
        "renamed": b"first",
    }


def test_a_folder_has_its_name_only_when_it_is_filled(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "folder", 0o700) as inside:
        write_synced(inside / "one", b"1")
        assert not (tmp_path / "folder").exists()
    assert mode_of(tmp_path / "folder") == 0o700
    with pytest.raises(OSError, match="not empty"), whole_folder(tmp_path / "folder"):
        pass
    assert names_in(tmp_path) == ["folder"]
    assert names_in(tmp_path / "folder") == ["one"]

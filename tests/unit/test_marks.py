"""The marks of the bus on a service's disk: a damaged file is set aside, and prevents no start."""

import json
from pathlib import Path

import pytest

from shared.bus.marks import Marks


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"half', "[]", "7", "null", '{"JOBS": 3}', '{"JOBS": ["x", "y"]}', "\x00" * 9],
)
def test_a_damaged_file_is_set_aside_and_a_new_one_is_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "marks.json"
    path.write_text(text)
    marks = Marks(path)
    assert marks.marks == {}
    assert (tmp_path / "marks.json.damaged").read_text() == text
    marks.note("JOBS", 7, "a-nonce")
    assert json.loads(path.read_text()) == {"JOBS": [7, "a-nonce"]}
    assert Marks(path).marks == {"JOBS": (7, "a-nonce")}


def test_bytes_that_are_not_text_are_set_aside_too(tmp_path: Path) -> None:
    path = tmp_path / "marks.json"
    path.write_bytes(b"\xff\xfe{")
    assert Marks(path).marks == {}
    assert not path.exists()

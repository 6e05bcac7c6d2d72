"""What is written beside a file about the rows that its plan leaves out."""

from pathlib import Path

from services.ingest.outcome.plan_report import add_lines, copy_chosen
from shared.formats.dataset import DATA


def test_rows_found_bad_late_follow_those_found_bad_early_once(tmp_path: Path) -> None:
    (tmp_path / DATA).write_bytes(b"one\ntwo\nthree\n")
    copy_chosen(tmp_path, [0, 2], tmp_path / "late")
    assert (tmp_path / "late").read_bytes() == b"one\nthree\n"
    beside = tmp_path / "x.jsonl.bad.jsonl"
    add_lines(tmp_path / "late", beside)
    assert beside.read_bytes() == b"one\nthree\n"
    beside.write_bytes(b"{early")
    for _ in range(2):
        add_lines(tmp_path / "late", beside)
        assert beside.read_bytes() == b"{early\none\nthree\n"

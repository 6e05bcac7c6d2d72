"""Previews: what would become of a file, with a bounded sample of its rows, and nothing kept."""

import errno
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.ingest.inbox import upload
from services.ingest.inbox.inbox import Inbox, TakenFrom
from services.ingest.ingest import Ingest
from services.ingest.outcome import job_settings
from services.ingest.outcome.preview import MOST_WAITING, Previews
from services.ingest.reading import sample
from services.ingest.reading.parser import Parser
from shared.answers.ingest import Preview
from shared.errors import DuramenError
from shared.ledger.jobs import Table

GOOD = [{"prompt": f"What is {n}?", "completion": f"It is {n}.", "id": n} for n in range(1000)]


class QuietTable(Table):
    """A queue that nobody writes to."""

    async def update(self, bus: Any) -> bool:
        return False


class KeptParser(Parser):
    """A parser that is not ended after each file: starting one takes half a second."""

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    kept = KeptParser()
    yield kept
    Parser.close(kept)


@pytest.fixture
def previews(tmp_path: Path, parser: Parser) -> Previews:
    nothing: Any = None
    ingest = Ingest(nothing, nothing, Inbox(tmp_path / "inbox"), QuietTable())
    made = Previews(ingest, tmp_path / "previews", 1 << 20)
    made.reader.parser = parser
    return made


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


async def look(previews: Previews, data: bytes, name: str = "a.jsonl", **given: Any) -> Preview:
    origin = TakenFrom("ab" * 16, name, "normal", "main", "train", None, **given)
    async with previews.place_for(origin) as taken:
        taken.path.write_bytes(data)
        answer = upload.answered(await previews.preview(taken))
    return Preview.model_validate_json(bytes(answer.body))


async def test_a_good_file_would_be_queued_and_nothing_of_it_is_kept(previews: Previews) -> None:
    found = await look(previews, lines([*GOOD, GOOD[0]]), settings={"epochs": "2"})
    report = found.report
    assert (report.outcome, report.settings) == ("queued", {"epochs": 2})
    assert report.why.startswith("would be queued as job ")
    assert report.contents is not None
    assert report.contents.ignored_fields == {"id": 1001}
    assert (report.contents.rows, report.contents.duplicate_lines) == (1000, [1001])
    numbers = [row.row for row in found.rows]
    assert numbers[:5] == [1, 2, 3, 4, 9]
    assert (len(numbers), numbers[-1], found.rows[-1].line) == (200, 995, 995)
    assert json.loads(found.rows[0].data or "")["messages"][1]["content"] == "It is 0."
    assert list(previews.folder.iterdir()) == []
    assert previews.ingest.inbox.taken() == []


@pytest.mark.parametrize(
    ("data", "given", "rules", "rows"),
    [
        (lines([*GOOD[:4], 7, []]), {}, ["not_an_object"] * 2, 4),
        (b"just words\n", {}, None, 0),
        (b"", {}, ["no_rows"], 0),
        (lines(GOOD[:4]), {"sidecar": "lora_r: 3\nepochs: 2"}, ["of_lineage"], 4),
        (lines(GOOD[:4]), {"sidecar": "epochs: [1, 2]"}, ["yaml"], 0),
        (lines([*GOOD[:2], 7]), {"sidecar": "epoch: 2"}, ["unknown_setting", "not_an_object"], 2),
    ],
)
async def test_a_refused_file_says_why_and_shows_its_good_rows(
    previews: Previews, data: bytes, given: dict[str, Any], rules: list[str] | None, rows: int
) -> None:
    found = await look(previews, data, **given)
    assert found.report.outcome == "refused"
    assert found.report.why
    assert found.report.next_step
    if rules is not None:
        assert [p.rule for p in found.report.problems] == rules
    assert len(found.rows) == rows
    assert list(previews.folder.iterdir()) == []


async def test_settings_that_are_understood_are_named_beside_those_that_are_not(
    previews: Previews,
) -> None:
    found = await look(previews, lines(GOOD[:4]), sidecar="lora_r: 3\nepochs: 2\nallow_bad: 1")
    assert found.report.settings["epochs"] == 2
    assert "lora_r" in found.report.why


async def test_bad_rows_that_may_be_left_out_are_listed_in_a_file_that_would_be_queued(
    previews: Previews,
) -> None:
    found = await look(previews, lines([*GOOD[:4], 7]), sidecar="allow_bad: 20%")
    assert found.report.outcome == "queued"
    assert [p.line for p in found.report.problems] == [5]


@pytest.mark.parametrize(
    ("sizes", "sent"),
    [
        ([40] * 5, 5),
        ([sample.ROW_BYTES + 1] * 5, 0),
        ([60_000] * 400, 27),
        ([60_000] * 3, 3),
    ],
)
async def test_the_sample_is_bounded_in_bytes(
    previews: Previews, sizes: list[int], sent: int
) -> None:
    rows = [{"text": f"{n} " + "é" * (size // 2)} for n, size in enumerate(sizes)]
    data = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    found = (await look(previews, data)).rows
    assert len([row for row in found if row.data is not None]) == sent
    assert [row.row for row in found[:3]] == [1, 2, 3]
    assert sum(len((row.data or "").encode()) for row in found) <= sample.ALL_BYTES


async def test_a_large_file_is_previewed_in_bounded_time_and_memory(tmp_path: Path) -> None:
    nothing: Any = None
    ingest = Ingest(nothing, nothing, Inbox(tmp_path / "inbox"), QuietTable())
    previews = Previews(ingest, tmp_path / "previews", 1 << 20)
    previews.reader.parser = Parser(memory_bytes=256 << 20)
    block = b"".join(b'{"prompt":"%d","completion":"%b"}\n' % (n, b"w " * 5000) for n in range(100))
    rows = b"".join(block.replace(b'"prompt":"', b'"prompt":"%d ' % n) for n in range(100))
    assert len(rows) > 100e6
    began = time.monotonic()
    found = await look(previews, rows)
    assert time.monotonic() - began < 30
    assert found.report.contents is not None
    assert found.report.contents.rows == 10_000
    assert len(found.rows) > 100


async def test_a_file_that_ends_the_parser_is_refused_and_removed(
    previews: Previews,
) -> None:
    previews.reader.parser = Parser(memory_bytes=1 << 20)
    found = await look(previews, lines(GOOD * 10))
    assert [p.rule for p in found.report.problems] == ["parser"]
    assert list(previews.folder.iterdir()) == []


async def test_only_so_many_files_wait_for_their_preview(previews: Previews) -> None:
    previews.present = MOST_WAITING
    with pytest.raises(DuramenError, match="Try again"):
        await look(previews, b"{}")
    assert list(previews.folder.iterdir()) == []


async def test_a_full_disk_is_told_as_one_and_leaves_nothing(previews: Previews) -> None:
    async def body() -> Any:
        yield b"x" * 10
        raise OSError(errno.ENOSPC, "No space left on device")

    origin = TakenFrom("ab" * 16, "a.jsonl", "normal", "main", "train", None)
    with pytest.raises(upload.TooLarge, match="disk of ingest is full") as caught:
        async with previews.place_for(origin) as taken:
            await upload.receive(body(), taken.path, 100, None)
    assert caught.value.status == 507
    assert list(previews.folder.iterdir()) == []
    with pytest.raises(upload.TooLarge, match="almost full"):
        upload.check_size(1 << 60, previews.folder, 1 << 61, copies=2)


def test_settings_that_cannot_be_taken_do_not_hide_the_others() -> None:
    asked, wrong = job_settings.taken_settings({"epochs": 2, "lora_r": 4, "again": "true"})
    assert (asked.settings.epochs, asked.again) == (2, True)
    assert [w.field for w in wrong] == ["lora_r"]

"""ingest as a process on real servers: each file that is dropped ends where it should, once."""

import asyncio
import gzip
import json
import os
from pathlib import Path

import httpx

from shared.files import sha256_bytes, sha256_file
from shared.formats.report import Report
from shared.store.place import PRECIOUS
from tests import hostile_files
from tests.inbox import SECONDS, Box, row, rows
from tests.services import until

# ---- good files ----------------------------------------------------------------------------------


async def test_a_good_file_of_each_layout_is_stored_queued_and_done(box: Box) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": box.lineage}]
    files = {
        "low/m.jsonl": json.dumps({"messages": messages}).encode() + b"\n",
        "priority/a.jsonl": b'{"instruction":"a","input":"b","output":"%b"}\n'
        % box.lineage.encode(),
        "p.jsonl": row(box.lineage) + row("next") + row(box.lineage),
    }
    for path, data in files.items():
        folder, _, name = path.rpartition("/")
        box.drop(name, data, folder)
    with box.running():
        reports = {path: await box.ended(path.rpartition("/")[2]) for path in files}
        jobs = await box.jobs()
        assert [(job.record.level, job.record.name) for job in jobs] == [
            ("high", "a.jsonl"),
            ("normal", "p.jsonl"),
            ("low", "m.jsonl"),
        ]
        store = box.house.store("reader")
        for path, data in files.items():
            report, prefix = reports[path], f"datasets/{reports[path].contents.dataset}"  # type: ignore[union-attr]
            assert report.outcome == "queued"
            original = store.read(PRECIOUS, f"{prefix}/original.{sha256_bytes(data)[:12]}.jsonl")
            assert original == data
            canonical = store.read(PRECIOUS, f"{prefix}/data.jsonl")
            assert f"datasets/{sha256_bytes(canonical)}" == prefix
            stored = {key.rsplit("/", 1)[1] for key in store.keys(PRECIOUS, prefix + "/")}
            assert {"source.jsonl", "report.json"} < stored
        assert jobs[1].record.rows == 2
        assert reports["p.jsonl"].contents.duplicate_lines == [3]  # type: ignore[union-attr]
        assert len(await box.events("queued")) == len(await box.events("stored")) == 3
        assert box.left() == []


async def test_a_file_in_eval_is_stored_and_never_queued(box: Box) -> None:
    box.drop("held.jsonl", row(box.lineage), "eval")
    with box.running():
        report = await box.ended("held.jsonl")
        box.drop("again.jsonl", row(box.lineage), "eval")
        assert (await box.ended("again.jsonl")).outcome == "duplicate"
    assert report.outcome == "measured"
    assert report.contents is not None
    keys = list(box.house.store("reader").keys(PRECIOUS, f"eval/{box.lineage}/"))
    assert keys == [f"eval/{box.lineage}/{report.contents.dataset}.json"]
    assert await box.jobs() == []


# ---- refusals ------------------------------------------------------------------------------------


async def test_one_bad_row_refuses_the_file_and_the_report_says_which(box: Box) -> None:
    bad = b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":""}]}\n'
    data = row(1) + bad + row(2) + b'{"prompt": "never closed\n'
    box.drop("mixed.jsonl", data)
    with box.running():
        report = await box.ended("mixed.jsonl", "rejected")
        assert (box.root / "rejected/mixed.jsonl").read_bytes() == data
        assert [(p.line, p.field, p.rule) for p in report.problems] == [
            (2, "messages[1].content", "empty_answer"),
            (4, "row", "json"),
        ]
        text = box.refusal("mixed.jsonl")
        for words in (
            "2 of 4 rows are bad",
            "line 2, field messages[1].content, rule empty_answer",
            '{"role":"assistant","content":""}',
            "line 4, column 12",
            "must be complete on one line",
            '{"instruction": "…", "input": "…", "output": "…"}',
        ):
            assert words in text
        # The mended file, under the same name, takes its own way; the same mistake gets a new name.
        box.drop("mixed.jsonl", bad)
        await box.ended("mixed.2.jsonl", "rejected")
        box.drop("mixed.jsonl", row(f"{box.lineage} mended"))
        assert (await box.ended("mixed.jsonl")).outcome == "queued"
        (event, _) = await box.events("refused")
        assert event.data["rules"] == {"empty_answer": 1, "json": 1}
        assert "never closed" not in event.model_dump_json()
        port, token = box.house.stack.ports.ingest, box.house.stack.env("ingest")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            assert (await http.get("/api/inbox")).status_code == 401
            bearer = {"Authorization": f"Bearer {token['DURAMEN_HTTP_TOKEN']}"}
            shown = (await http.get("/api/inbox", headers=bearer)).json()
            assert {r["name"] for r in shown["refused"]} == {"mixed.jsonl"}
            health = (await http.get("/healthz")).json()
            assert health == {"bus": "ok", "store": "ok", "loops": "ok"}
            assert "duramen_ingest_refusals_total" in (await http.get("/metrics")).text


async def test_what_is_no_plain_jsonl_file_is_refused_unread(box: Box, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_bytes(row("secret"))
    (box.folder() / "link.jsonl").symlink_to(secret)
    os.mkfifo(box.folder() / "pipe.jsonl")
    box.drop("table.xlsx", b"a,b\n")
    (box.folder() / "folder.jsonl").mkdir()
    odd = "a 'b' \"c\"\n..\x1b[31m.jsonl"
    box.drop(odd, b"no json\n")
    long = "n" * 249 + ".jsonl"
    box.drop(long, row(box.lineage))
    latin = os.fsdecode(b"\xe9.jsonl")
    box.drop(latin, row(box.lineage + "latin"))
    with box.running():
        for name, rule in (("link.jsonl", "symlink"), ("pipe.jsonl", "fifo"), (odd, "json")):
            assert (await box.ended(name, "rejected")).problems[0].rule == rule
        assert (await box.ended("table.xlsx", "rejected")).problems[0].rule == "file_type"
        assert (await box.ended(latin)).outcome == "queued"

        async def shortened() -> bool:
            return len(list((box.root / "done").glob("nnn*.jsonl"))) == 1

        await until(shortened, "the long name is in done/", SECONDS)
    assert secret.exists()
    assert (box.root / "rejected/link.jsonl").is_symlink()
    assert (box.folder() / "folder.jsonl").is_dir()
    assert len(await box.jobs()) == 2
    assert box.left() == []


async def test_hostile_files_end_where_they_should_and_none_is_lost(box: Box) -> None:
    """A fuzzer with a fixed seed. Every file ends with its report, and the service lives on."""
    files = list(hostile_files.files(int(os.environ.get("FUZZ_FILES", "200")), seed=4))
    box.house.fresh = True  # with the memory that a parser has in earnest
    with box.running(DURAMEN_SETTLE_SECONDS="0.05", DURAMEN_MAX_ROW_BYTES="2000000") as process:
        for name, data in files:
            path = box.root.parent / "part"
            path.write_bytes(data)
            path.rename(box.folder() / os.fsdecode(name))

        async def empty() -> bool:
            return not any(p.is_file() for p in box.folder().iterdir()) and not box.left()

        await until(empty, "all files are finished", 240.0)
        box.drop("alive.jsonl", rows(box, 2))
        await box.ended("alive.jsonl")
        assert process.children(), "its parser lives"
    reports = [
        Report.model_validate_json(path.read_bytes())
        for folder in ("done", "rejected")
        for path in (box.root / folder).glob("*.report.json")
    ]
    assert len(reports) == len(files) + 1
    kept = [
        path.read_bytes()
        for folder in ("done", "rejected")
        for path in (box.root / folder).iterdir()
        if ".report." not in path.name and not path.name.endswith(".bad.jsonl")
    ]
    wanted = sorted(sha256_bytes(data) for _, data in files)
    assert set(wanted) <= {sha256_bytes(data) for data in kept}
    for report in reports:
        assert report.why
        assert "parser" not in {p.rule for p in report.problems}, report
        assert report.outcome != "refused" or report.problems[0].message.endswith((".", ")", "?"))


# ---- complete files only -------------------------------------------------------------------------


async def test_a_growing_file_waits_and_is_then_taken_whole(box: Box) -> None:
    data = b"".join(row(f"{box.lineage} {n}") for n in range(12))
    with box.running():
        with (box.folder() / "slow.jsonl").open("wb", buffering=0) as file:
            for part in range(0, len(data), 40):
                file.write(data[part : part + 40])
                await asyncio.sleep(0.05)
                assert (box.folder() / "slow.jsonl").exists()
        report = await box.ended("slow.jsonl")
    assert report.contents is not None
    assert report.contents.rows == 12
    assert len(await box.jobs()) == 1


async def test_names_that_are_being_written_wait_for_ever_and_cut_ones_for_a_while(
    box: Box,
) -> None:
    waits = ["x.jsonl.part", ".x.jsonl", "x.jsonl.crdownload", "x.tmp"]
    for name in waits:
        box.drop(name, row(name))
    box.drop("cut.jsonl", row(f"{box.lineage} cut").rstrip())
    box.drop("zeros.jsonl", row(f"{box.lineage} zeros") + b"\0" * 3000)
    with box.running():
        assert (await box.ended("cut.jsonl")).outcome == "queued"
        report = await box.ended("zeros.jsonl", "rejected")
        assert report.problems[0].rule == "nul"
    assert all((box.folder() / name).exists() for name in waits)


async def test_what_is_added_after_taking_is_not_lost(own_box: Box) -> None:
    """As by one who had it open where no lease can tell: it is read again, to its new end."""
    box, data = own_box, row(own_box.lineage)
    path = box.drop("open.jsonl", data)
    box.house.stack.kill("store")  # holds the file between taking and queueing
    with box.running():

        async def taken() -> Path | None:
            return next((box.root / ".taken").glob("*/file"), None)

        where = await until(taken, "the file is taken", SECONDS)
        assert not path.exists()
        with where.open("ab", buffering=0) as file:
            file.write(row("late"))
        box.house.stack.start("store")
        report = await box.ended("open.jsonl")
    assert report.contents is not None
    assert report.contents.rows == 2
    assert [job.record.rows for job in await box.jobs()][-1] == 2
    assert sha256_file(box.root / "done/open.jsonl") == sha256_bytes(data + row("late"))


async def test_a_file_that_is_open_for_writing_waits(box: Box) -> None:
    with box.running():
        with (box.folder() / "log.jsonl").open("wb", buffering=0) as file:
            file.write(rows(box, 2))
            box.drop("other.jsonl", rows(box, 3))
            await box.ended("other.jsonl")
            await asyncio.sleep(0.5)  # longer than it takes to settle
            assert (box.folder() / "log.jsonl").exists()
        report = await box.ended("log.jsonl")
    assert report.contents is not None
    assert report.contents.rows == 2


async def test_a_packed_copy_that_stalls_is_waited_for(box: Box) -> None:
    data = gzip.compress(rows(box, 300), mtime=0)
    path = box.drop("stalled.jsonl.gz", data[:-50])
    with box.running({"unfinished_seconds": 25}):

        async def taken() -> Path | None:
            return next((box.root / ".taken").glob("*/file"), None)

        where = await until(taken, "it is taken", SECONDS)
        await asyncio.sleep(1.0)
        with where.open("ab") as file:
            file.write(data[-50:])
        assert (await box.ended("stalled.jsonl.gz")).outcome == "queued"
    assert not path.exists()

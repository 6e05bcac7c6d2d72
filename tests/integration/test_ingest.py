"""ingest as a process on real servers: each file that is dropped ends where it should, once."""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.ingest import admit, dataset
from services.ingest.inbox import Inbox, InboxInUse
from services.ingest.report import Report
from shared.bus import Bus
from shared.control import Control, events, observed
from shared.jobs import Job, Table
from shared.ledger import Line
from shared.manifest import sha256_bytes, sha256_file
from shared.messages import Event, Head, JobId, LineClose, LineOpen, LineRecord, LineVerb
from shared.store import PRECIOUS
from tests.house import House, Process, until
from tests.servers import Stack

SECONDS = 40.0


def row(n: int | str) -> bytes:
    return json.dumps({"prompt": f"What is {n}?", "completion": f"It is {n}."}).encode() + b"\n"


class Box:
    """An inbox of this test alone: what is dropped under @lineage is that lineage's."""

    def __init__(self, house: House, lineage: str, folder: Path) -> None:
        self.house, self.lineage = house, lineage
        self.root, self.state = folder / "inbox", folder / "state"
        for name in ("", "priority", "low", "eval"):
            (self.root / f"@{lineage}" / name).mkdir(parents=True)
        self.settings = {
            "DURAMEN_INBOX_DIR": str(self.root),
            "DURAMEN_STATE_DIR": str(self.state),
            "DURAMEN_SCAN_SECONDS": "0.05",
            "DURAMEN_SETTLE_SECONDS": "0.3",
            "DURAMEN_UNFINISHED_SECONDS": "1.5",
        }

    def start(self, **env: str) -> Process:
        return self.house.start("ingest", **{**self.settings, **env})

    @contextmanager
    def running(self, **env: str) -> Iterator[Process]:
        with self.house.service("ingest", **{**self.settings, **env}) as process:
            yield process

    def folder(self, name: str = "") -> Path:
        return self.root / f"@{self.lineage}" / name

    def drop(self, name: str, data: bytes, folder: str = "") -> Path:
        """As one should: written elsewhere, renamed into place."""
        part = self.root.parent / "being-written"
        part.write_bytes(data)
        return part.rename(self.folder(folder) / name)

    async def ended(self, name: str, where: str = "done") -> Report:
        """The report of a file, once it and all that goes with it lie where they end."""

        async def look() -> Report | None:
            if not os.path.lexists(self.root / where / name):
                return None
            report = Report.model_validate_json(self.report(name, where).read_bytes())
            return None if (self.root / ".taken" / report.taken).exists() else report

        return await until(look, f"{where}/{name}", SECONDS)

    def report(self, name: str, where: str, suffix: str = "json") -> Path:
        return self.root / where / f"{name}.report.{suffix}"

    def refusal(self, name: str) -> str:
        return self.report(name, "rejected", "txt").read_text()

    async def jobs(self) -> list[Job]:
        async with self.house.bus("ctl") as bus:
            table = Table()
            await table.update(bus)
        mine = [job for job in table.jobs.values() if job.id.lineage == self.lineage]
        return sorted(mine, key=lambda job: job.order)

    async def events(self, kind: str) -> list[Event]:
        async with self.house.bus("ctl") as bus:
            found = [event async for _, event in events(bus, 0, f"evt.ingest.{kind}")]
        return [event for event in found if event.lineage == self.lineage]

    def left(self) -> list[str]:
        """What lies in .taken."""
        return [path.name for path in (self.root / ".taken").iterdir() if path.is_dir()]


@pytest.fixture
def box(stack: Stack, lineage: str, tmp_path: Path) -> Box:
    return Box(House(stack), lineage, tmp_path)


@pytest.fixture
def own_box(own_stack: Stack, lineage: str, tmp_path: Path) -> Box:
    return Box(House(own_stack), lineage, tmp_path)


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
            "2 rows are bad of 4",
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


# ---- duplicates ----------------------------------------------------------------------------------


class Trainer:
    """Writes what trainer and ctl would write, with their identities, through the real fold."""

    def __init__(self, box: Box, buses: dict[str, Bus]) -> None:
        self.box, self.buses, self.table = box, buses, Table()

    @property
    def line(self) -> Line:
        return self.table.lines[self.box.lineage]

    async def append(self, verb: LineVerb, record: LineRecord) -> int:
        sequence = await self.line.append(self.buses["trainer"], verb, record)
        await self.table.update(self.buses["trainer"])
        return sequence

    async def close(self, job_id: JobId, outcome: str, version: int | None) -> None:
        """Open a segment, close it, let the job record follow."""
        await self.table.update(self.buses["trainer"])
        job, line = self.table.jobs[job_id], self.line
        segment = f"{line.sequence:012x}"
        fence = await self.append(
            "open",
            LineOpen(
                by="test",
                prev=line.sequence,
                lineage=self.box.lineage,
                segment=segment,
                job=job_id.path,
                job_sequence=job.sequence,
                position=0,
                global_step=0,
                micro_tokens=16,
                dtype="float32",
                lease="trainer.test",
                owner="test",
                host="test",
            ),
        )
        job = await self.table.write(
            self.buses["trainer"], job, "run", "test", segment=segment, fence=fence
        )
        assert line.head is not None
        close = {
            "by": "test",
            "prev": line.sequence,
            "lineage": self.box.lineage,
            "segment": segment,
            "fence": fence,
            "job": job_id.path,
            "outcome": outcome,
            "from_step": 0,
            "to_step": 1,
            "from_position": 0,
            "to_position": 1,
            "head": Head(base_root=line.head.base_root),
            "version": version,
        }
        await self.append("close", LineClose.model_validate(close))
        verb: Any = {"done": "done", "failed": "fail"}[outcome]
        await self.table.write(self.buses["trainer"], job, verb, "test", version=version)


@asynccontextmanager
async def trainer(box: Box) -> AsyncIterator[Trainer]:
    await box.house.create(box.lineage, "0" * 64)
    async with box.house.bus("trainer") as first, box.house.bus("ctl") as second:
        yield Trainer(box, {"trainer": first, "ctl": second})


async def test_the_same_rows_again_are_told_what_became_of_them(box: Box) -> None:
    data = row(box.lineage)
    with box.running():
        async with trainer(box) as training:
            box.drop("first.jsonl", data)
            assert (await box.ended("first.jsonl")).outcome == "queued"
            (job,) = await box.jobs()

            # Another layout, other white space: the same rows.
            box.drop("queued.jsonl", data.replace(b": ", b" :  "))
            report = await box.ended("queued.jsonl")
            assert report.outcome == "duplicate"
            assert f"queued already, as job {job.id}" in report.why
            assert report.job == job.id.path

            await training.close(job.id, "failed", None)
            box.drop("failed.jsonl", data)
            report = await box.ended("failed.jsonl")
            assert report.next_step == f"duramen queue retry {job.id}"
            await training.table.update(training.buses["ctl"])
            failed = training.table.jobs[job.id]
            await training.table.write(training.buses["ctl"], failed, "retry", "test")

            await training.close(job.id, "done", 1)
            box.drop("trained.jsonl", data)
            report = await box.ended("trained.jsonl")
            assert (report.outcome, report.version) == ("duplicate", 1)
            assert f"v001 of {box.lineage}" in report.why
            assert len(await box.jobs()) == 1

            box.drop("removed.jsonl", row(f"{box.lineage} removed"))
            await box.ended("removed.jsonl")
            (unwanted,) = [j for j in await box.jobs() if j.record.state == "queued"]
            await training.table.update(training.buses["ctl"])
            await training.table.write(
                training.buses["ctl"], training.table.jobs[unwanted.id], "remove", "test"
            )
            box.drop("wanted.jsonl", row(f"{box.lineage} removed"))
            assert (await box.ended("wanted.jsonl")).outcome == "queued"
            again = [job.id for job in await box.jobs() if job.id.sha256 == unwanted.id.sha256]
            assert {job_id.run for job_id in again} == {1, 2}
        assert len(await box.events("duplicate")) == 3


# ---- outages and kills ---------------------------------------------------------------------------


async def test_a_store_or_a_bus_that_is_away_is_waited_for(own_box: Box) -> None:
    box, stack = own_box, own_box.house.stack
    with box.running():
        for server in ("store", "nats"):
            box.drop(f"before-{server}.jsonl", row(f"{box.lineage} before {server}"))
            await box.ended(f"before-{server}.jsonl")
            stack.kill(server)
            path = box.drop(f"{server}.jsonl", row(f"{box.lineage} {server}"))
            if server == "store":
                async with box.house.bus("ctl") as bus:

                    async def says_so(bus: Bus = bus) -> bool:
                        said = await observed(bus, "ingest")
                        return bool(said and said.state == "waiting" and "store" in said.waiting)  # type: ignore[operator]

                    await until(says_so, "ingest says that it waits", SECONDS)
            assert path.exists() or box.left()
            assert not (box.root / f"done/{server}.jsonl").exists()
            stack.start(server)
            assert (await box.ended(f"{server}.jsonl")).outcome == "queued"
    assert len(await box.jobs()) == 4


async def test_paused_it_takes_nothing(own_box: Box) -> None:
    box = own_box
    async with box.house.bus("ctl") as bus:
        control = Control("ingest")
        await control.update(bus)
        await control.set_desired(bus, "paused", "test")
        path = box.drop("later.jsonl", row(box.lineage))
        with box.running():

            async def paused() -> bool:
                said = await observed(bus, "ingest")
                return bool(said and said.state == "paused")

            await until(paused, "ingest is paused", SECONDS)
            assert path.exists()
            await control.update(bus)
            await control.set_desired(bus, "running", "test")
            await box.ended("later.jsonl")


@pytest.mark.parametrize("cut", ["taken", "built", "stored", "queued", "reported"])
async def test_cut_off_between_any_two_steps_it_goes_on(box: Box, tmp_path: Path, cut: str) -> None:
    """The steps as far as `cut`, by the real functions; then the service starts."""
    box.drop("cut.jsonl", row(box.lineage))
    inbox = Inbox(box.root)
    (entry,) = inbox.entries()
    taken = inbox.take(entry)
    assert taken is not None
    if cut != "taken":
        (tmp_path / dataset.ORIGINAL).write_bytes(taken.path.read_bytes())
        built = dataset.build(tmp_path, "cut.jsonl", dataset.Wanted(1000))
    if cut in ("stored", "queued", "reported"):
        ref = admit.store_dataset(box.house.store("ingest"), built)
    if cut in ("queued", "reported"):
        async with box.house.bus("ingest") as bus:
            await admit.queue(bus, Table(), admit.Wish(taken.origin, ref, 1))
    if cut == "reported":
        half = {"taken": taken.origin.id, "name": "cut.jsonl"}
        (box.root / "done/cut.jsonl.report.json").write_text(json.dumps(half))
    inbox.close()
    with box.running():
        report = await box.ended("cut.jsonl")
    (job,) = await box.jobs()
    assert (report.outcome, report.job, report.taken) == ("queued", job.id.path, taken.origin.id)
    assert len(job.history) == 1
    assert box.left() == []


async def test_an_inbox_has_one_owner(box: Box) -> None:
    with box.running():
        box.drop("first.jsonl", row(box.lineage))
        await box.ended("first.jsonl")
        with pytest.raises(InboxInUse):
            Inbox(box.root)


@pytest.mark.slow
async def test_killed_at_any_moment_each_file_is_queued_exactly_once(box: Box) -> None:
    """SIGKILL again and again while files arrive, good, bad and doubled ones."""
    chance = random.Random(3)
    good = {f"good{n}.jsonl": row(f"{box.lineage} {n}") * (n % 3 + 1) for n in range(24)}
    bad = {f"bad{n}.jsonl": row(n) + b"{}\n" for n in range(6)}
    files = list({**good, **bad}.items())
    chance.shuffle(files)
    process = box.start(DURAMEN_SETTLE_SECONDS="0.05")
    try:
        while files:
            for name, data in (files.pop() for _ in range(min(5, len(files)))):
                box.drop(name, data, chance.choice(["", "priority", "low"]))
            # A start takes over a second: some kills come before it, most while it works.
            await asyncio.sleep(chance.uniform(1.0, 3.0))
            process.kill()
            process = box.start(DURAMEN_SETTLE_SECONDS="0.05")
        reports = [await box.ended(name) for name in good]
        for name in bad:
            await box.ended(name, "rejected")
    finally:
        process.end()
    assert {report.outcome for report in reports} == {"queued"}
    jobs = await box.jobs()
    assert sorted(job.record.name for job in jobs) == sorted(good)
    assert all(len(job.history) == 1 for job in jobs)
    assert box.left() == []
    done = {path.name for path in (box.root / "done").glob("*.jsonl")}
    rejected = {path.name for path in (box.root / "rejected").glob("*.jsonl")}
    assert (done, rejected) == (set(good), set(bad))

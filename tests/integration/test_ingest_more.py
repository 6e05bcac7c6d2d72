"""ingest with sidecars, uploads, packed files and plans, as a process on real servers."""

import asyncio
import gzip
import json
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from services.ingest.report import Report
from shared.jobs import Table
from shared.manifest import canonical_json, sha256_bytes
from shared.messages import JobSettings, ObjectRef
from shared.store import PRECIOUS
from tests import hostile
from tests.commands import duramen
from tests.house import House, until
from tests.integration.test_ingest import SECONDS, Box, row
from tests.servers import Stack


@pytest.fixture
def box(stack: Stack, lineage: str, tmp_path: Path) -> Box:
    return Box(House(stack), lineage, tmp_path)


def rows(box: Box, count: int, words: str = "") -> bytes:
    return b"".join(row(f"{box.lineage} {words} {n}") for n in range(count))


def text_of(box: Box, name: str) -> str:
    return (box.root / "rejected" / f"{name}.report.txt").read_text()


# ---- sidecars ------------------------------------------------------------------------------------


async def test_a_sidecar_sets_the_job_and_lies_beside_its_file(box: Box) -> None:
    settings = "learning_rate: 2e-4\nnum_train_epochs: 3\ndescription: a first try\n"
    box.drop("data.yaml", settings.encode())
    with box.running():
        box.drop("data.jsonl.gz", gzip.compress(rows(box, 3)))
        report = await box.ended("data.jsonl.gz")
        (job,) = await box.jobs()
        wanted = JobSettings(learning_rate=2e-4, epochs=3, description="a first try")
        assert job.record.settings == wanted
        assert report.settings == {
            "learning_rate": 2e-4,
            "epochs": 3,
            "description": "a first try",
        }
        assert (box.root / "done/data.jsonl.gz.yaml").read_text() == settings
        assert box.left() == []

        box.drop("data.yaml", b"lora_r: 64\nlearning_rate: fast\nbatch_size: 4\ncolour: red\n")
        box.drop("data.jsonl", rows(box, 4))
        report = await box.ended("data.jsonl", "rejected")
        assert [(p.field, p.rule) for p in report.problems] == [
            ("lora_r", "of_lineage"),
            ("learning_rate", "setting_value"),
            ("batch_size", "not_a_setting"),
            ("colour", "unknown_setting"),
        ]
        for words in ("fixed when it is made", "set batch_tokens", "Known are", "valid number"):
            assert words in text_of(box, "data.jsonl")
        assert (box.root / "rejected/data.jsonl.yaml").exists()

        box.drop("data.yaml", b"a: [1, 2]\n")
        box.drop("data.jsonl", rows(box, 5))
        assert (await box.ended("data.2.jsonl", "rejected")).problems[0].rule == "yaml"


async def test_a_late_sidecar_changes_a_queued_job_and_no_other(box: Box) -> None:
    box.drop("late.jsonl", rows(box, 2))
    with box.running():
        await box.ended("late.jsonl")
        box.drop("late.yaml", b"epochs: 7\n")
        report = await box.ended("late.yaml")
        (job,) = await box.jobs()
        assert (report.outcome, report.job) == ("applied", job.id.path)
        assert job.record.settings.epochs == 7
        assert [verb for _, verb, _ in job.history] == ["submit", "amend"]

        box.drop("late.yaml", b"dtype: bf16\n")
        report = await box.ended("late.yaml", "rejected")
        assert report.problems[0].rule == "of_lineage"

        box.drop("late.yml", b"allow_bad: 3\n")
        report = await box.ended("late.yml", "rejected")
        assert report.problems[0].rule == "too_late"

        async with box.house.bus("ctl") as bus:
            table = Table()
            await table.update(bus)
            await table.write(bus, table.jobs[job.id], "remove", "test")
        box.drop("late.yaml", b"epochs: 8\n")
        report = await box.ended("late.2.yaml", "rejected")
        assert "came too late" in report.why
        assert "is removed" in report.why

        path = box.drop("nobody.yaml", b"epochs: 8\n")
        box.drop("last.jsonl", rows(box, 3))
        await box.ended("last.jsonl")
        assert path.exists()


async def test_good_rows_are_trained_alone_if_that_is_allowed(box: Box) -> None:
    box.drop("some.yaml", b"allow_bad: 10%\n")
    box.drop("some.jsonl", rows(box, 20) + b'{"prompt": 3}\n')
    with box.running():
        report = await box.ended("some.jsonl")
        assert report.outcome == "queued"
        assert (box.root / "done/some.jsonl.bad.jsonl").read_bytes() == b'{"prompt": 3}\n'
        assert [p.rule for p in report.problems] == ["missing_field"]
        (job,) = await box.jobs()
        assert job.record.rows == 20


# ---- what a base and a plan say ------------------------------------------------------------------


async def test_special_tokens_of_the_lineages_base_are_refused_in_words(box: Box) -> None:
    root = sha256_bytes(box.lineage.encode())
    added = [{"content": "<|end|>", "special": True}, {"content": "word", "special": False}]
    tokenizer = canonical_json({"added_tokens": added})
    box.house.store("vault").put_bytes(PRECIOUS, f"bases/{root}/tokenizer.json", tokenizer)
    await box.house.create(box.lineage, root)
    box.drop("clean.jsonl", row("a word"))
    box.drop("spoilt.jsonl", row(1) + row("<|end|>"))
    with box.running():
        assert (await box.ended("clean.jsonl")).outcome == "queued"
        report = await box.ended("spoilt.jsonl", "rejected")
    assert [(p.line, p.rule) for p in report.problems] == [(2, "special_token")]


async def test_what_the_plan_left_out_is_told_by_line(box: Box) -> None:
    data = b"\n" + rows(box, 3) + rows(box, 1) + row(f"{box.lineage} long")
    box.drop("planned.jsonl", data)
    with box.running():
        await box.ended("planned.jsonl")
        (job,) = await box.jobs()
        plan = {
            "rows": 4,
            "train_rows": [0],
            "heldout_rows": [1],
            "tokens": 77,
            "settings": {"max_length": 512},
            "left_out": [
                {"dataset": job.id.sha256, "row": 2, "reason": "equal to an evaluation row"},
                {
                    "dataset": job.id.sha256,
                    "row": 3,
                    "reason": "longer than 512 tokens",
                    "tokens": 900,
                },
            ],
        }
        encoded = canonical_json(plan)
        sha256 = sha256_bytes(encoded)
        key = f"plans/{sha256}.json"
        box.house.store("trainer").put_bytes(PRECIOUS, key, encoded)
        ref = ObjectRef(bucket="duramen", key=key, sha256=sha256, size=len(encoded))
        async with box.house.bus("trainer") as bus:
            table = Table()
            await table.update(bus)
            await table.write(bus, table.jobs[job.id], "requeue", "test", plan=ref)

        async def told() -> bool:
            return (box.root / "done/planned.jsonl.plan.json").exists()

        await until(told, "the plan is told", SECONDS)
    shown = partial(duramen, box.house.stack, "queue", "show", str(job.id), columns=120)
    text = (await asyncio.to_thread(shown)).stdout
    assert "1 row: repeated (line 5)" in text
    assert "1 row: held out, to be measured (line 3)" in text
    assert "1 row: longer than 512 tokens (line 6)" in text
    found = orjson.loads((box.root / "done/planned.jsonl.plan.json").read_bytes())
    assert found["held_out_lines"] == [3]
    assert [(e["line"], e["tokens"]) for e in found["left_out"]] == [(4, None), (6, 900)]
    long = (box.root / "done/planned.jsonl.long.jsonl").read_bytes()
    assert f"{box.lineage} long" in json.loads(long)["messages"][0]["content"]


# ---- uploads -------------------------------------------------------------------------------------


async def test_a_file_can_be_sent_over_http(box: Box) -> None:
    port, env = box.house.stack.ports.ingest, box.house.stack.env("ingest")
    bearer = {"Authorization": f"Bearer {env['DURAMEN_HTTP_TOKEN']}"}
    query: dict[str, Any] = {"name": "up.jsonl", "lineage": box.lineage, "level": "high"}
    with box.running(DURAMEN_MAX_UPLOAD_BYTES="100000"):
        box.drop("ready.jsonl", row(1))
        await box.ended("ready.jsonl")
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=bearer, timeout=SECONDS
        ) as http:

            async def send(data: bytes, **more: Any) -> httpx.Response:
                async def pieces() -> Any:
                    for start in range(0, len(data), 7000):
                        yield data[start : start + 7000]

                return await http.post("/datasets", params={**query, **more}, content=pieces())

            asked = await http.post("/datasets", headers={"Authorization": "Bearer no"})
            assert asked.status_code == 401
            reply = await send(rows(box, 50), set=["learning_rate=1e-3", "epochs=2"])
            assert reply.status_code == 200
            report = Report.model_validate(reply.json())
            job = next(j for j in await box.jobs() if j.id.path == report.job)
            assert (job.record.level, job.record.settings.epochs) == ("high", 2)
            assert (await http.get(f"/datasets/{report.taken}")).json()["job"] == report.job

            assert (await send(rows(box, 50))).json()["outcome"] == "duplicate"
            again = Report.model_validate((await send(rows(box, 50), again="true")).json())
            assert again.outcome == "queued"
            assert again.job != report.job

            bad = await send(b"{}\n")
            assert (bad.status_code, bad.json()["problems"][0]["rule"]) == (422, "empty_row")
            assert (await send(rows(box, 3000))).status_code == 413
            for wrong in (
                {"name": "../x.jsonl"},
                {"name": "x.exe"},
                {"set": "lora_r=3"},
                {"set": "x"},
            ):
                reply = await send(row(1), **wrong)
                assert reply.status_code == 400, reply.text
            assert (await send(row(1), lineage="../x")).status_code == 422
            (box.root / "a folder").mkdir()

            async def named() -> bool:
                waiting = (await http.get("/api/inbox")).json()["waiting"]
                return [w["file"] for w in waiting if "a folder" in w["why"]] == ["a folder/"]

            await until(named, "the folder is named", SECONDS)
            assert (await http.get(f"/datasets/{'0' * 32}")).status_code == 404
    assert list((box.root / ".uploads").iterdir()) == []
    assert box.left() == []


async def test_submit_names_the_job_and_waits_for_the_report(box: Box, tmp_path: Path) -> None:
    file = tmp_path / "my rows.jsonl"
    file.write_bytes(rows(box, 5) + rows(box, 1))
    stack, env = box.house.stack, box.house.stack.env("ingest")
    place: dict[str, Any] = {
        "ingest_url": f"http://127.0.0.1:{stack.ports.ingest}",
        "ingest_token": env["DURAMEN_HTTP_TOKEN"],
    }

    async def submit(*words: str) -> Any:
        run = partial(duramen, stack, "submit", str(file), *words, columns=100, **place)
        return await asyncio.to_thread(run)

    options = ["--lineage", box.lineage, "--level", "low", "--set", "learning_rate=3e-4"]
    with box.running():
        box.drop("ready.jsonl", row(1))
        await box.ended("ready.jsonl")
        done = await submit(*options, "--wait")
        assert done.returncode == 0, done.stderr
        job = next(j for j in await box.jobs() if j.record.level == "low")
        assert f"queued as job {job.id}" in done.stdout
        assert "1 repeated rows" in done.stdout
        assert job.record.settings.learning_rate == 3e-4
        assert job.record.settings.epochs is None
        file.with_suffix(".yaml").write_text("lr: 1e-5\nnum_train_epochs: 4\n")
        assert (await submit(*options, "--again")).returncode == 0
        job = max(await box.jobs(), key=lambda j: j.ticket)
        assert (job.record.settings.learning_rate, job.record.settings.epochs) == (3e-4, 4)
        file.with_suffix(".yaml").write_text("lora_r: 3\n")
        assert "belongs to the lineage" in (await submit(*options, "--again")).stderr
        file.with_suffix(".yaml").unlink()
        file.write_bytes(b"{}\n")
        done = await submit("--json")
        assert done.returncode == 1
        assert json.loads(done.stdout)["problems"][0]["rule"] == "empty_row"
        done = await submit("--set", "seed=1")
        assert done.returncode == 2
        assert "belongs to the lineage" in done.stderr


# ---- completeness, limits, kills -----------------------------------------------------------------


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
    with box.running(DURAMEN_UNFINISHED_SECONDS="25"):

        async def taken() -> Path | None:
            return next((box.root / ".taken").glob("*/file"), None)

        where = await until(taken, "it is taken", SECONDS)
        await asyncio.sleep(1.0)
        with where.open("ab") as file:
            file.write(data[-50:])
        assert (await box.ended("stalled.jsonl.gz")).outcome == "queued"
    assert not path.exists()


@pytest.mark.slow
async def test_hostile_files_end_where_they_should_and_none_is_lost(box: Box) -> None:
    """A fuzzer with a fixed seed. Every file ends with its report, and the service lives on."""
    files = list(hostile.files(int(os.environ.get("FUZZ_FILES", "200")), seed=4))
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


@pytest.mark.slow
async def test_killed_while_fifty_files_arrive_each_is_queued_exactly_once(box: Box) -> None:
    """SIGKILL at random moments, with sidecars and packed files among them."""
    chance = random.Random(11)
    files: dict[str, bytes] = {}
    for n in range(50):
        data = rows(box, 2 + n % 5, f"file {n}")
        files[f"f{n}.jsonl.gz" if n % 4 == 0 else f"f{n}.jsonl"] = (
            gzip.compress(data) if n % 4 == 0 else data
        )
    names, kills = list(files), 0
    chance.shuffle(names)
    fast = {"DURAMEN_SETTLE_SECONDS": "0.05"}
    process = box.start(**fast)
    try:
        while names:
            for name in [names.pop() for _ in range(min(6, len(names)))]:
                if name.startswith("f1"):
                    box.drop(name.partition(".")[0] + ".yaml", b"epochs: 5\n")
                box.drop(name, files[name])
            await asyncio.sleep(chance.uniform(1.2, 3.5))
            process.kill()
            kills += 1
            process = box.start(**fast)
        reports = [await box.ended(name) for name in files]
    finally:
        process.end()
    jobs = await box.jobs()
    assert sorted(job.record.name for job in jobs) == sorted(files)
    assert all(len(job.history) == 1 for job in jobs)
    assert {report.outcome for report in reports} == {"queued"}
    with_sidecar = {name for name in files if name.startswith("f1")}
    assert {j.record.name for j in jobs if j.record.settings.epochs == 5} == with_sidecar
    assert {p.name for p in (box.root / "done").glob("*.yaml")} == {
        f"{name}.yaml" for name in with_sidecar
    }
    assert box.left() == []
    assert kills >= 8

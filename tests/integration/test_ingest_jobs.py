"""What ingest makes of sidecars, bases, plans and uploads, as a process on real servers."""

import asyncio
import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson

from shared.files import sha256_bytes
from shared.formats.canonical import canonical_json
from shared.formats.report import Report
from shared.ledger.jobs import Table
from shared.protocol.message import ObjectRef
from shared.protocol.records import JobSettings
from shared.store.place import PRECIOUS
from tests.command_line import duramen
from tests.inbox import SECONDS, Box, row, rows
from tests.plans import a_plan
from tests.services import until

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
        for words in ("fixed when it is made", "set batch_tokens", "Known settings: ", "a number"):
            assert words in box.refusal("data.jsonl")
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
        left_out = [
            {"row": 2, "reason": "the chat template refuses it: no", "bad": True},
            {"row": 3, "reason": "longer than 512 tokens", "tokens": 900},
        ]
        plan = a_plan(
            job.id,
            rows=4,
            train_rows=[0],
            heldout_rows=[1],
            tokens=77,
            settings={"max_length": 512},
            left_out=[{"dataset": job.id.sha256, **row} for row in left_out],
        )
        encoded = plan.to_bytes()
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
    bad = (box.root / "done/planned.jsonl.bad.jsonl").read_bytes()
    assert b"messages" in bad
    assert bad.count(b"\n") == 1
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
        assert f"There is no lineage {box.lineage} yet" in done.stderr
        assert f"duramen lineage new {box.lineage} --base BASE" in done.stderr
        assert "1 repeated row " in done.stdout
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

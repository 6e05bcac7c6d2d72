"""`duramen check` is green on a system that is right, and names what was damaged by hand."""

import io
import json
from pathlib import Path
from typing import Any, Literal

from infra.servers.streams import stream_config
from services.ctl.commands.check import CHECKS
from shared.formats.version import Latest
from shared.ledger.control import Control
from shared.protocol.control import Desired, Once
from shared.protocol.events import Answered, Event
from shared.protocol.observed import Observed
from tests.command_line import Evolution, duramen, evolution_service
from tests.history import Forged, encoded, forging
from tests.services import until
from tests.snapshots import Measurement
from tests.stack import Stack, wait_until


async def train(forged: Forged) -> None:
    """Two versions, the first in two segments with a takeover; then a job that is still open."""
    first = await forged.queue("first.jsonl", 8)
    await forged.open(first)
    await forged.plan(first, 6)
    await forged.snapshot(0, [Measurement("one", 3.0, False, "no")])
    dead = forged.open_segment.fence
    await forged.reclaim(forged.checkpoint(2, 2))
    await forged.snapshot(3, [Measurement("one", 0.0, True, "a zombie's")], fence=dead)
    await forged.close("stopped", forged.checkpoint(4, 4))
    await forged.open(forged.table.jobs[first.id])
    await forged.snapshot(6, [Measurement("one", 0.1, True, "one")])
    await forged.close("done", forged.checkpoint(6, 6))
    second = await forged.queue("second.jsonl", 4)
    await forged.open(second)
    await forged.plan(second, 2)
    await forged.close("done", forged.checkpoint(2, 8))
    for version in (1, 2):
        forged.publish(version)
    third = await forged.queue("third.jsonl", 4)
    await forged.open(third)
    await forged.plan(third, 3)


def check(stack: Stack, evolution: Evolution) -> tuple[int, dict[str, Any]]:
    """(exit code, answer)."""
    done = duramen(stack, "check", "--json", evolution_url=evolution.url)
    assert done.returncode in (0, 8), done.stderr
    return done.returncode, json.loads(done.stdout)


def findings(answer: dict[str, Any]) -> list[tuple[int, str, str]]:
    return [
        (finding["invariant"], finding["where"], finding["what"])
        for result in answer["results"]
        for finding in result["findings"]
    ]


def fresh(before: list[tuple[int, str, str]], answer: dict[str, Any]) -> list[tuple[int, str, str]]:
    return [finding for finding in findings(answer) if finding not in before]


async def test_check_is_green_and_names_each_damage(own_stack: Stack, tmp_path: Path) -> None:
    stack = own_stack
    with evolution_service(stack, tmp_path / "state") as service:
        async with forging(stack, "main") as forged:
            await train(forged)
            dataset = next(job for job in forged.table.jobs if job.run == 1).sha256
            path = f"/api/evolution/snapshots/{dataset}"
            wait_until(lambda: service.get(path).status_code == 200, 30, "snapshots are read")

            code, answer = check(stack, service)
            assert (code, findings(answer)) == (0, [])
            assert {r["invariant"] for r in answer["results"]} == {check.number for check in CHECKS}
            assert [r["not_checked"] for r in answer["results"] if r["not_checked"]] == []

            known: list[tuple[int, str, str]] = []
            for damage in (
                forge_a_record,
                answer_late,
                overwrite_an_object,
                delete_an_object,
                spoil_the_archive,
                change_a_checkpoint,
                lose_a_file,
            ):
                expected = await damage(forged)
                code, answer = check(stack, service)
                found = fresh(known, answer)
                assert code == 8
                assert {number for number, _, _ in found} == set(expected), found
                for number, words in expected.items():
                    told = " ".join(f"{w} {x}" for n, w, x in found if n == number)
                    assert all(word in told for word in words), told
                known = findings(answer)
        shown = duramen(stack, "check", evolution_url=service.url)
        assert shown.returncode == 8
        assert "invalid record" in shown.stdout
        assert "delete marker" in shown.stdout
        assert "Every copy has the committed bytes" in shown.stdout
        lines = shown.stdout.splitlines()
        assert not [line for line in lines if line.startswith(tuple("0123456789"))]


async def outlive_events(stack: Stack) -> None:
    """Let every event grow too old for the bus."""
    admin = await stack.connect("admin")
    js, kept = admin.jetstream(), stream_config("EVT")

    async def is_empty() -> bool:
        return (await js.stream_info("EVT")).state.messages == 0

    await js.update_stream(kept.evolve(max_age=1.0, duplicate_window=1.0))
    await until(is_empty, "every event is gone")
    await js.update_stream(kept)
    await admin.close()


async def test_a_command_whose_answer_has_left_the_bus_was_answered(own_stack: Stack) -> None:
    async with forging(own_stack, "main") as forged:
        trainer, ctl = forged.buses["trainer"], forged.buses["ctl"]
        control = Control("trainer")

        async def pass_over(*, answer: bool) -> None:
            """The trainer says that it has come past a new command."""
            once = Once(by="test", service="trainer", command="skip", segment="0" * 12)
            await control.update(ctl)
            at = await control.ask_once(ctl, once)
            if answer:
                told = Answered(command=once.nonce, sequence=at, outcome="void", why="a test")
                await trainer.event(Event.of("trainer", told))
            said = Observed(service="trainer", instance="one", state="idle", once_through=at)
            await trainer.observe(said)

        def unanswered() -> int:
            done = duramen(own_stack, "check", "--json")
            found = [w for n, _, w in findings(json.loads(done.stdout)) if n == 12]
            assert set(found) <= {"it was passed over without an answer"}
            return len(found)

        await pass_over(answer=True)
        assert unanswered() == 0
        await outlive_events(own_stack)
        assert unanswered() == 0  # nothing is left
        await pass_over(answer=True)
        assert unanswered() == 0  # what is left is younger
        await pass_over(answer=False)
        assert unanswered() == 1


async def forge_a_record(forged: Forged) -> dict[int, list[str]]:
    """A record that names no predecessor, on the subject of a job that is done."""
    job = next(j for j in forged.table.jobs.values() if j.record.name == "first.jsonl")
    client = await forged.stack.connect("ctl")
    record = job.record.model_copy(update={"state": "queued", "prev": job.sequence})
    await client.jetstream().publish(job.id.subject("retry"), record.encode())
    await client.close()
    return {3: [job.id.subject("retry"), "without compare-and-set"]}


async def answer_late(forged: Forged) -> dict[int, list[str]]:
    """A command that was answered twice, and otherwise the second time."""
    record = Once(by="test", service="trainer", command="skip", segment="0" * 12)
    subject = "ctl.once.trainer"
    sequence = await forged.buses["ctl"].append("CTL", subject, subject, record, 0)
    outcomes: tuple[Literal["void", "done"], ...] = ("void", "done")
    for outcome in outcomes:
        answer = Answered(command=record.nonce, sequence=sequence, outcome=outcome, why="a test")
        await forged.buses["trainer"].event(Event.of("trainer", answer))
    return {12: ["ctl.once.trainer", "2 different answers"]}


async def overwrite_an_object(forged: Forged) -> dict[int, list[str]]:
    """The lock keeps the bytes, and lets another version take the name."""
    key = "lineages/main/v001/adapter/adapter_model.safetensors"
    for server in ("store", "backup"):
        client = forged.stack.minio("vault", server)
        client.put_object("duramen", key, io.BytesIO(b"forged"), 6)
    return {6: [f"store: {key}", f"backup: {key}", "overwritten"]}


async def delete_an_object(forged: Forged) -> dict[int, list[str]]:
    key = "lineages/main/v002/metrics.jsonl"
    forged.stack.minio("admin").remove_object("duramen", key)
    return {6: [f"store: {key}", "delete marker"]}


async def spoil_the_archive(forged: Forged) -> dict[int, list[str]]:
    """One byte of a file, and a commit record that is gone."""
    adapter = "lineages/main/v002/adapter/adapter_model.safetensors"
    path = forged.stack.home.archive / adapter
    path.write_bytes(b"!" + path.read_bytes()[1:])
    commit = "catalog/main/v001.json"
    (forged.stack.home.archive / commit).unlink()
    return {6: [f"archive: {adapter}", "SHA-256 is"], 7: [commit, "not in archive"]}


async def change_a_checkpoint(forged: Forged) -> dict[int, list[str]]:
    """The head's optimizer, in `work`, where names are not locked."""
    head = forged.line.head
    assert head is not None
    assert head.checkpoint is not None
    key = f"{head.checkpoint.prefix}/optimizer.safetensors"
    forged.stack.minio("trainer").put_object("work", key, io.BytesIO(b"spoilt"), 6)
    return {9: [key, "damaged"]}


async def lose_a_file(forged: Forged) -> dict[int, list[str]]:
    """A file lies in done/, and its dataset is nowhere."""
    (forged.stack.home.inbox / "done" / "lost.jsonl").write_bytes(b"{}\n")
    return {11: ["inbox/done/lost.jsonl", "not stored"]}


async def test_a_record_that_contradicts_its_ledger_is_named(own_stack: Stack) -> None:
    async with forging(own_stack, "main") as forged:
        job = await forged.queue("behind.jsonl", 4)
        await forged.open(job)
        desired = Desired(by="test", service="trainer", state="paused")
        subject = "ctl.desired.trainer"
        await forged.buses["ctl"].append("CTL", subject, subject, desired, 0)
        done = duramen(own_stack, "check", "--json")
        answer = json.loads(done.stdout)
        assert done.returncode == 8
        assert [finding[0] for finding in findings(answer)] == [4]
        assert "says queued, its ledger running" in done.stdout
        assert "does not answer" in next(
            r["not_checked"] for r in answer["results"] if r["invariant"] == 15
        )


async def test_training_that_contradicts_itself_is_named(own_stack: Stack) -> None:
    """Each record is valid by itself; what they tell together cannot have happened."""
    async with forging(own_stack, "main") as forged:
        short = await forged.queue("short.jsonl", 4)
        await forged.open(short)
        await forged.plan(short, 3)
        await forged.close("done", forged.checkpoint(2, 2))  # of three steps
        forged.publish(1)
        odd = await forged.queue("odd.jsonl", 4)
        await forged.open(odd)
        await forged.plan(odd, 2)
        left = forged.checkpoint(2, 4)
        close = await forged.close("done", left, to_step=3)
        answer = json.loads(duramen(own_stack, "check", "--json").stdout)
        assert {number for number, _, _ in findings(answer)} == {1, 2, 5, 10}
        told = {number: f"{where} {what}" for number, where, what in findings(answer)}
        assert close.segment in told[1]
        assert f"job {short.id} is done, and 2 of 3 steps" in told[2]
        assert "catalog/main/v002.json no place has the version" in told[5]
        assert "2 steps for a plan of 3" in told[10]

        forged.publish(2)
        forged.point("catalog/main/latest.json", latest_of(forged, 1))
        (forged.stack.home.archive / "catalog/main/latest.json").write_bytes(b"{")
        known = findings(answer)
        answer = json.loads(duramen(own_stack, "check", "--json").stdout)
        assert {(number, where) for number, where, _ in fresh(known, answer)} == {
            (8, f"{place}: catalog/main/latest.json") for place in ("store", "backup", "archive")
        }


def latest_of(forged: Forged, version: int) -> bytes:
    sequence = forged.line.versions[version]
    return encoded(Latest(lineage=forged.name, version=version, ledger_sequence=sequence))

"""Life lines from snapshots in a real store, filtered by real ledgers, told over HTTP."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.ctl.commands.evolution import most_shown
from services.evolution.cache import Cache
from shared.answers.evolution import LearningSpeed, ProbeSummary
from shared.bus.client import Bus
from shared.ledger.control import observed
from shared.ledger.jobs import Table
from shared.protocol.records import LineRollback
from tests.command_line import Evolution, duramen, evolution_service
from tests.history import Forged, forging
from tests.snapshots import Measurement
from tests.stack import Stack, wait_until

NUMBERS = ("global_step", "loss", "answer", "is_right")


def measured(**histories: tuple[float, bool | None]) -> list[Measurement]:
    """One snapshot: probe=(loss, right)."""
    return [
        Measurement(probe, loss, right, f"{probe} said {right}", row=row)
        for row, (probe, (loss, right)) in enumerate(histories.items())
    ]


async def train_first(forged: Forged) -> str:
    """A job of four steps with known histories; its dataset."""
    job = await forged.queue(f"first-{forged.name}.jsonl", 8)
    await forged.open(job)
    await forged.plan(job, 4)
    await forged.snapshot(0, measured(easy=(3.0, False), hard=(3.0, False), slow=(3.0, None)))
    await forged.snapshot(1, measured(easy=(1.0, True), hard=(2.9, False), slow=(2.0, None)))
    await forged.snapshot(2, measured(easy=(0.5, True), hard=(2.8, False)))
    held = [Measurement("held", 2.0, None, split="heldout", row=7)]
    last = measured(easy=(0.1, True), hard=(2.7, False), slow=(1.0, False))
    await forged.snapshot(4, last + held)
    await forged.close("done", forged.checkpoint(4, 4))
    return job.id.sha256


def states(service: Evolution, dataset: str) -> dict[str, str]:
    probes = service.ask(f"summary/{dataset}")["probes"]
    return {probe["expected"]: probe["state"] for probe in probes}


def has_snapshots(service: Evolution, dataset: str, count: int) -> Callable[[], bool]:
    def ready() -> bool:
        reply = service.get(f"/api/evolution/snapshots/{dataset}")
        return reply.status_code == 200 and len(reply.json()["snapshots"]) == count

    return ready


async def test_histories_become_states_and_come_back_from_a_deleted_cache(
    stack: Stack, lineage: str, tmp_path: Path
) -> None:
    async with forging(stack, lineage) as forged:
        dataset = await train_first(forged)
    state = tmp_path / "state"
    with evolution_service(stack, state) as service:
        wait_until(has_snapshots(service, dataset[:10], 4), 30, "all snapshots are read")
        answers = every_answer(service, dataset)
        assert metric(service, 'duramen_life_lines{split="trained",state="learned"}') >= 1
    async with Bus(stack.nats_url, stack.seed_file("ctl"), "ctl") as bus:
        said = await observed(bus, "evolution")
    assert said is not None
    assert said.state == "idle"
    expected = {"easy": "learned", "hard": "not learned", "slow": "learning", "held": "new"}
    assert {p["expected"]: p["state"] for p in answers["summary"]["probes"]} == expected
    asked = {"easy": 4, "hard": 4, "slow": 1, "held": 0}
    assert {p["expected"]: p["asked"] for p in answers["summary"]["probes"]} == asked

    easy = answers["example"]
    assert (easy["state"], easy["step"], easy["prompt"]) == ("learned", 1, "What is easy?")
    assert [tuple(p[name] for name in NUMBERS) for p in easy["points"]] == [
        (0, 3.0, "easy said False", False),
        (1, 1.0, "easy said True", True),
        (2, 0.5, "easy said True", True),
        (4, 0.1, "easy said True", True),
    ]
    # 100 tokens a step: learned at the step after the first, and 2.9 nats in 400 tokens.
    speed = {"steps_to_learned": 1, "tokens_to_learned": 100}
    assert easy["speed"] == {**speed, "loss_fall_per_1000_tokens": pytest.approx(7.25)}
    assert [t["piece"] for t in easy["tokens"]] == ["ea", "sy", ""]
    assert [t["probability"] for t in easy["tokens"]] == pytest.approx([1, 0.88, 0], abs=0.01)
    trained = answers["summary"]["splits"]["trained"]
    assert trained["speed"]["tokens_to_learned"] == 100
    assert (trained["count"], trained["loss_first"]) == (3, 3.0)
    assert trained["loss_last"] == pytest.approx((0.1 + 2.7 + 1.0) / 3)
    assert trained["exact_match_last"] == pytest.approx(1 / 3)
    assert trained["states"]["learned"] == 1
    assert answers["summary"]["splits"]["heldout"]["count"] == 1

    # A small snapshot leaves `slow` out; the known curve still counts it at its last value.
    third = answers["snapshots"]["snapshots"][2]["splits"]["trained"]
    assert (third["count"], third["known"]["count"]) == (2, 3)
    assert third["known"]["loss"] == pytest.approx((0.5 + 2.8 + 2.0) / 3)

    (state / "evolution.sqlite").unlink()
    with evolution_service(stack, state) as service:
        wait_until(has_snapshots(service, dataset, 4), 30, "all snapshots are read anew")
        assert every_answer(service, dataset) == answers


def every_answer(service: Evolution, dataset: str) -> dict[str, Any]:
    summary = service.ask(f"summary/{dataset}")
    listed = service.ask("datasets")["datasets"]
    return {
        "dataset": next(d for d in listed if d["dataset"] == dataset),
        "snapshots": service.ask(f"snapshots/{dataset[:8]}"),
        "snapshot": service.ask(f"snapshot/{dataset[:8]}/2"),
        "summary": summary,
        "example": service.ask(
            f"example/{summary['probes'][0]['probe'][:12]}", lineage=summary["lineage"]
        ),
    }


async def test_what_a_superseded_owner_saw_beyond_the_takeover_does_not_count(
    stack: Stack, lineage: str, tmp_path: Path
) -> None:
    with evolution_service(stack, tmp_path / "state") as service:
        async with forging(stack, lineage) as forged:
            job = await forged.queue(f"reclaimed-{lineage}.jsonl", 8)
            dead = await forged.open(job)
            await forged.plan(job, 8)
            fence = dead.fence
            await forged.snapshot(0, measured(**{f"{lineage}-a": (3.0, False)}))
            start = forged.checkpoint(2, 2)
            await forged.snapshot(4, measured(**{f"{lineage}-a": (0.0, True)}))
            await forged.reclaim(start)
            # The zombie wakes up and writes on.
            await forged.snapshot(5, measured(**{f"{lineage}-a": (0.0, True)}), fence=fence)
            await forged.snapshot(4, measured(**{f"{lineage}-a": (2.0, False)}))
            await forged.snapshot(8, measured(**{f"{lineage}-a": (1.9, False)}))
            await forged.close("stopped", forged.checkpoint(6, 6))
        sha256 = job.id.sha256

        def seen() -> list[tuple[int, bool]]:
            reply = service.get(f"/api/evolution/snapshots/{sha256}")
            shown = reply.json().get("snapshots", [])
            return [(s["global_step"], s["fence"] == fence) for s in shown]

        # Step 8 lies beyond the close; 4 and 5 of the first fence beyond the takeover at step 2.
        wait_until(lambda: seen() == [(0, True), (4, False)], 30, "only living snapshots count")
        assert states(service, sha256) == {f"{lineage}-a": "learning"}


async def test_a_dropped_segment_leaves_no_trace(
    stack: Stack, lineage: str, tmp_path: Path
) -> None:
    with evolution_service(stack, tmp_path / "state") as service:
        async with forging(stack, lineage) as forged:
            job = await forged.queue(f"dropped-{lineage}.jsonl", 8)
            await forged.open(job)
            await forged.snapshot(0, measured(**{f"{lineage}-b": (3.0, False)}))
            wait_until(has_snapshots(service, job.id.sha256, 1), 30, "the open segment counts")
            await forged.close("void", None)
        path = f"/api/evolution/snapshots/{job.id.sha256}"
        wait_until(lambda: service.get(path).status_code == 404, 30, "a void segment does not")


async def test_a_damaged_snapshot_is_not_used_and_is_counted(
    stack: Stack, lineage: str, tmp_path: Path
) -> None:
    async with forging(stack, lineage) as forged:
        job = await forged.queue(f"damaged-{lineage}.jsonl", 8)
        await forged.open(job)
        await forged.snapshot(0, measured(**{f"{lineage}-c": (3.0, False)}))
        await forged.snapshot(1, measured(**{f"{lineage}-c": (0.0, True)}), damage=True)
    with evolution_service(stack, tmp_path / "state") as service:
        wait_until(has_snapshots(service, job.id.sha256, 1), 30, "the whole one is read")
        assert metric(service, "duramen_snapshots_damaged") >= 1


def metric(service: Evolution, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)", service.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


async def test_a_version_gives_back_what_work_no_longer_has(
    stack: Stack, lineage: str, tmp_path: Path
) -> None:
    async with forging(stack, lineage) as forged:
        dataset = await train_first(forged)
        forged.publish(1)
        store = forged.store("trainer")
        for key in list(store.keys("work", f"snapshots/{lineage}/")):
            store.delete("work", key)
    with evolution_service(stack, tmp_path / "state") as service:
        wait_until(has_snapshots(service, dataset, 4), 30, "the version's snapshots are read")
        assert states(service, dataset)["easy"] == "learned"


async def test_forgetting_names_the_step_and_the_file_then_trained(
    stack: Stack, lineage: str, tmp_path: Path
) -> None:
    async with forging(stack, lineage) as forged:
        dataset = await train_first(forged)
        other = f"second-{lineage}.jsonl"
        job = await forged.queue(other, 4)
        await forged.open(job)
        await forged.plan(job, 4)
        await forged.snapshot(6, [Measurement("easy", 2.0, False, "no", split="earlier")])
        await forged.snapshot(8, [Measurement("easy", 2.2, False, "no", split="earlier")])
        await forged.close("done", forged.checkpoint(4, 8))
    with evolution_service(stack, tmp_path / "state") as service:
        wait_until(has_snapshots(service, job.id.sha256, 2), 30, "both files are read")
        probes = service.ask(f"summary/{dataset}")["probes"]
        easy = next(p for p in probes if p["expected"] == "easy")
        assert (easy["state"], easy["step"], easy["during"]) == ("forgotten", 6, other)
        assert service.ask(f"summary/{job.id.sha256}")["splits"].keys() == {"earlier"}
        found = service.ask("forgetting", lineage=lineage)
        words = ("evolution", "forgetting", "-l", lineage)
        said = duramen(stack, *words, evolution_url=service.url).stdout
    (lost,) = found["forgotten"]
    assert (lost["probe"], lost["last_right"], lost["first_wrong"]) == (easy["probe"], 4, 6)
    assert lost["during"] == [other]
    first, second = found["versions"]
    assert (first["version"], second["version"], second["name"]) == ("v001", "v002", other)
    # Of three examples one was right after the first version; of these the second watched one.
    (file,) = found["files"]
    assert [(known["measured"], known["right"]) for known in file["known"]] == [
        (4, pytest.approx(1 / 4)),
        (1, 0.0),
    ]
    assert re.search(rf"first-{lineage}.jsonl +25 % +0 %", said), said
    assert "1 example was learned and then forgotten" in said


async def test_all_measurements_of_a_file_are_bytes_in_the_order_of_its_examples(
    stack: Stack, lineage: str, tmp_path: Path
) -> None:
    async with forging(stack, lineage) as forged:
        dataset = await train_first(forged)
    with evolution_service(stack, tmp_path / "state") as service:
        wait_until(has_snapshots(service, dataset, 4), 30, "all snapshots are read")
        whole = service.get(f"/api/evolution/matrix/{dataset}")
        later = service.get(f"/api/evolution/matrix/{dataset}", since=1)
        columns = service.ask(f"probes/{dataset}")
        some = service.ask(f"probes/{dataset}", fields="state,expected")
        odd = service.get(f"/api/evolution/probes/{dataset}", fields="color")
    assert whole.headers["x-steps"] == "0,1,2,4"
    assert whole.headers["x-rows"] == f"{columns['count']} {columns['rows_name']}"
    assert columns["expected"] == ["easy", "hard", "slow", "held"]
    assert columns["state"] == ["learned", "not learned", "learning", "new"]
    cells = [list(whole.content[at : at + 4]) for at in range(0, 16, 4)]
    # Easy is right from the second step on; slow is not asked, held only at the end.
    assert [column[0] >> 7 for column in cells] == [0, 1, 1, 1]
    assert [column[2] > 0 for column in cells] == [True, True, False, True]
    assert [column[3] > 0 for column in cells] == [False, False, False, True]
    losses = [column[0] & 0x7F for column in cells]
    assert losses == sorted(losses, reverse=True)
    assert later.headers["x-steps"] == "2,4"
    assert later.content == whole.content[8:]
    assert whole.headers["etag"] != later.headers["etag"]
    names = {"state", "expected"}
    assert {n: some[n] for n in names} == {n: columns[n] for n in names}
    assert "probe" not in some
    assert odd.status_code == 400
    assert "There is no column color" in odd.text


async def test_two_versions_are_compared_by_what_was_measured_at_both(
    stack: Stack, lineage: str, tmp_path: Path
) -> None:
    async with forging(stack, lineage) as forged:
        dataset = await train_first(forged)
        job = await forged.queue(f"second-{lineage}.jsonl", 4)
        await forged.open(job)
        await forged.plan(job, 4)
        # The end of the first job is the start of the second.
        await forged.snapshot(4, [Measurement("fresh", 3.0, False, "what?", row=1)])
        earlier = [
            Measurement("easy", 2.2, False, "forgot", split="earlier"),
            Measurement("hard", 2.6, False, "no", split="earlier"),
        ]
        await forged.snapshot(8, [*earlier, Measurement("fresh", 0.1, True, "fresh", row=1)])
        await forged.close("done", forged.checkpoint(4, 8))
    with evolution_service(stack, tmp_path / "state") as service:
        wait_until(has_snapshots(service, job.id.sha256, 2), 30, "both files are read")
        found = service.ask("compare", a=f"{lineage}/v001", b=f"{lineage}/v002")
        changes = {e["expected"]: (e["split"], e["change"]) for e in found["examples"]}
        assert changes == {
            "fresh": ("trained", "better"),
            "easy": ("trained", "worse"),
            "hard": ("trained", "same"),
        }
        assert [e["expected"] for e in found["examples"]] == ["fresh", "easy", "hard"]
        counts = found["splits"]["trained"]
        assert [counts[name] for name in ("count", "better", "same", "worse")] == [3, 1, 1, 1]
        assert (counts["is_right_a"], counts["is_right_b"]) == (1 / 3, 1 / 3)
        assert (found["a"]["global_step"], found["b"]["global_step"]) == (4, 8)

        within = service.ask("compare", a=f"{dataset[:12]}@first", b=dataset[:12])
        assert {e["expected"] for e in within["examples"]} == {"easy", "hard", "slow"}
        query = "/api/evolution/compare"
        assert service.get(query, a=f"{dataset[:12]}@3", b=dataset[:12]).status_code == 404
        assert service.get(query, a=f"{lineage}/v001", b=f"{lineage}/v099").status_code == 404

        for columns in (80, 120):
            words = ("compare", f"{lineage}/v001", f"{lineage}/v002")
            shown = duramen(stack, "evolution", *words, columns=columns, evolution_url=service.url)
            assert shown.returncode == 0, shown.stderr
            assert "forgot" in shown.stdout
            assert max(len(line) for line in shown.stdout.splitlines()) <= columns

        await roll_back(stack, lineage, 1)
        # At its steps there will be another model: nothing is said of it under the old name.

        def set_aside() -> bool:
            reply = service.get(query, a=f"{lineage}/v001", b=f"{lineage}/v002")
            return reply.status_code == 404 and "rolled back" in reply.text

        wait_until(set_aside, 30, "v002 is set aside")


async def roll_back(stack: Stack, lineage: str, version: int) -> None:
    """As the vault would, on command."""
    async with Bus(stack.nats_url, stack.seed_file("vault"), "vault") as bus:
        line = (await Table.of(bus)).lines[lineage]
        target = line.versions[version]
        record = LineRollback(
            by="test",
            prev=line.sequence,
            lineage=lineage,
            version=version,
            target=target,
            head=line.heads[target],
            cause="a-command-of-a-test",
        )
        await line.append(bus, "rollback", record)


async def test_the_api_asks_for_a_token_and_says_what_is_not_there(
    stack: Stack, tmp_path: Path
) -> None:
    with evolution_service(stack, tmp_path / "state") as service:
        assert Evolution(service.url, "wrong").get("/api/evolution/datasets").status_code == 401
        assert service.get("/api/evolution/snapshots/ffff0000").status_code == 404
        assert service.get("/api/evolution/example/abc").status_code == 400
        assert service.get("/api/evolution/example/ffff0000").status_code == 404


async def test_the_commands_fit_the_terminal(stack: Stack, lineage: str, tmp_path: Path) -> None:
    async with forging(stack, lineage) as forged:
        dataset = await train_first(forged)
    with evolution_service(stack, tmp_path / "state") as service:
        wait_until(has_snapshots(service, dataset, 4), 30, "all snapshots are read")

        def run(*words: str, columns: int = 80) -> str:
            shown = duramen(stack, "evolution", *words, columns=columns, evolution_url=service.url)
            assert shown.returncode == 0, shown.stderr
            return shown.stdout

        for columns in (80, 120):
            shown = run("show", f"{dataset[:12]}.1", columns=columns)
            assert "exact match" in shown
            assert "held out" in shown
            assert max(len(line) for line in shown.splitlines()) <= columns
        assert "easy said True" in run("example", f"{dataset[:12]}.1", "1")
        assert "easy said True" in run("example", f"{dataset[:12]}.1")
        assert f"{dataset[:12]}.1" in run("list")
        assert '"state": "learned"' in run("show", dataset[:12], "--json")


def test_the_example_with_most_to_see_was_learned_and_most_often_asked() -> None:
    lives = [("learning", 8), ("learned", 2), ("learned", 8), ("learned", 8)]
    fields = {
        **dict.fromkeys(("step", "job", "during", "loss_first", "loss_last")),
        **dict.fromkeys(("probe", "dataset", "prompt", "expected"), "one"),
        "speed": dict.fromkeys(LearningSpeed.model_fields),
    }
    probes = [
        ProbeSummary.model_validate(
            {**fields, "split": "trained", "row": n, "is_right": True, "number": n}
            | {"state": state, "asked": asked}
        )
        for n, (state, asked) in enumerate(lives, 1)
    ]
    assert most_shown(probes) == 3
    assert most_shown(probes[:1]) == 1
    assert most_shown([]) == 1


def test_a_damaged_cache_is_thrown_away(tmp_path: Path) -> None:
    path = tmp_path / "evolution.sqlite"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 40)
    assert Cache(path).snapshots() == []

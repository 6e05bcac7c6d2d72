"""Snapshots measure what the model would do, cost what they may, and change nothing."""

import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from services.model.attention import Batch, pack
from services.model.generation import Said
from services.model.network import Network
from services.model.teacher_forcing import last_answer, measure_answers, packs
from services.model.template import Chat
from services.trainer import checkpoint
from services.trainer.protocol import SnapshotSettings, Spec, WorkerEvent
from services.trainer.worker import loop
from services.trainer.worker.data.plan import build_plan
from services.trainer.worker.optimizer import make_optimizer
from services.trainer.worker.pipe import Requests
from services.trainer.worker.snapshot.budget import (
    SMALL_ANSWERED,
    SMALL_MEASURED,
    Decision,
    Governor,
    power_of_two_from,
)
from services.trainer.worker.snapshot.snapshot import Snapshots
from shared.files import sha256_file
from shared.formats.adapter import AdapterShape
from shared.formats.checkpoint import TensorHashes
from tests.tiny import make_tiny, shared_tiny, tiny_conversations, write_dataset


class Bench:
    """Everything of a worker but the process. `texts`: rows of plain text in the dataset."""

    def __init__(
        self, directory: Path, texts: int = 0, micro_tokens: int = 600, **snapshot: Any
    ) -> None:
        dataset = directory / "data.jsonl"
        write_dataset(dataset, tiny_conversations(220 - texts))
        with dataset.open("a") as file:
            file.writelines(f'{{"text":"Row {n} of plain words."}}\n' for n in range(texts))
        sha256 = sha256_file(dataset)
        self.spec = Spec.model_validate(
            {
                "lineage": "main",
                "segment": "1",
                "fence": 17,
                "job": "j.1",
                "base_dir": shared_tiny(),
                "base_root": "ab" * 32,
                "dataset": dataset,
                "dataset_sha256": sha256,
                "plan_out": directory / "plan.json",
                "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
                "settings": {"epochs": 1, "batch_tokens": 600, "learning_rate": 0.01},
                "clock": "2026-03-01T00:00:00+00:00",
                "start": {"position": 0, "global_step": 0},
                "micro_tokens": micro_tokens,
                "checkpoint_dir": directory / "checkpoints",
                "checkpoint_seconds": 1e6,
                "snapshot": {"directory": directory / "snapshots", **snapshot},
                "metrics": directory / "metrics.jsonl",
                "lock_file": directory / "lock",
            }
        )
        chat = Chat(self.spec.base_dir, self.spec.clock)
        self.material = build_plan(self.spec, chat)
        self.network = Network(self.spec.base_dir, "float32", self.spec.lora, 0)
        self.snapshots = Snapshots(self.spec, self.material, self.network, chat)

    def train(self) -> tuple[TensorHashes, list[dict[str, Any]]]:
        events: list[dict[str, Any]] = []
        optimizer = make_optimizer(self.network, self.material.plan.settings)
        end = loop.train(
            self.spec,
            self.material,
            self.network,
            optimizer,
            self.snapshots,
            Quiet(events),
        )
        return checkpoint.verify_checkpoint(end.checkpoint.path).tensors, events


class Quiet:
    """A supervisor that listens and says nothing."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        self.events = events

    def emit(self, event: WorkerEvent) -> None:
        self.events.append(event.model_dump(mode="json"))

    def take(self) -> Requests:
        return Requests()

    def leaving(self) -> bool:
        return False


class Never(Snapshots):
    def decide(self, *_: Any, **__: Any) -> None:
        return None


FULL = Decision("full", "a test", 0.0, 0.0)
SMALL = Decision("small", "a test", 0.0, 0.0)


@pytest.mark.slow
def test_training_with_snapshots_gives_the_same_bits_as_without(tmp_path: Path) -> None:
    with_them, events = Bench(tmp_path / "with").train()
    bare = Bench(tmp_path / "without")
    bare.snapshots.__class__ = Never
    without, _ = bare.train()
    assert [e["position"] for e in events if e["event"] == "snapshot"][:3] == [0, 1, 2]
    assert with_them == without


def test_a_small_snapshot_measures_sixteen_and_asks_eight_of_all_kinds(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    event = bench.snapshots.take(SMALL, 4, 4, 9)
    assert event is not None
    rows = pq.read_table(event.path).to_pylist()
    assert len(rows) == event.measured == SMALL_MEASURED
    assert sum(r["answer"] is not None for r in rows) == SMALL_ANSWERED
    assert {r["split"] for r in rows} == {"trained", "heldout"}
    assert all((r["exact_match"] is None) == (r["answer"] is None) for r in rows)
    assert event.path.name == "00000009-17.parquet"
    assert sum(int(means["count"] or 0) for means in event.summary.values()) == 16


def test_answers_do_not_depend_on_who_else_is_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for parameter in bench.network.adapter.values():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    found = answers(bench, 7)
    assert found == {name: said for n in range(7) for name, said in answers(bench, 1, n).items()}
    assert any(said.is_cut for said in found.values())


def test_plain_text_is_measured_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, texts=110, baselines=tmp_path / "baselines")
    event = bench.snapshots.take(FULL, 0, 0, 0)
    assert event is not None
    rows = pq.read_table(event.path).to_pylist()
    of_text = [r for r in rows if not r["prompt"]]
    assert {r["split"] for r in of_text} == {"trained", "heldout"}
    assert {r["answer"] is None for r in of_text} == {True}
    assert {r["answer"] is None for r in rows if r["prompt"]} == {False}
    for row in of_text:
        assert len(row["pieces"]) == len(row["surprisal"]) == row["tokens"]
        assert row["expected"].endswith("".join(row["pieces"]))
        assert row["loss"] > 0
    assert bench.snapshots.take(FULL, 0, 0, 0) is event  # as one that has all there is
    assert list((tmp_path / "baselines").glob("*.parquet"))


@pytest.mark.slow
def test_where_memory_runs_out_for_looking_alone_training_goes_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, micro_tokens=64)  # nothing is left to halve

    def runs_out(*_: Any, **__: Any) -> None:
        raise MemoryError

    bench.snapshots.answering.answer = runs_out  # type: ignore[method-assign]
    _, events = bench.train()
    skipped = [e for e in events if e["event"] == "snapshot_skipped"]
    assert [e["decision"]["why"][:15] for e in skipped] == ["memory ran out,"] * len(skipped)
    assert 2 <= len(skipped) < len(bench.material.plan.steps)
    assert events[-1]["event"] == "snapshot_skipped"


def test_where_memory_is_short_for_looking_less_is_looked_at_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    network, answering = bench.network, bench.snapshots.answering
    predict, generate = network.predict, answering.generate
    refused: list[int] = []

    def predict_one(batch: Batch) -> Any:
        if len(batch.labels) > 1:
            refused.append(len(batch.labels))
            raise MemoryError
        return predict(batch)

    def generate_two(prompts: list[list[int]], limits: list[int]) -> list[Said]:
        if len(prompts) > 2:
            refused.append(len(prompts))
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return generate(prompts, limits)

    network.predict = predict_one  # type: ignore[method-assign]
    answering.generate = generate_two  # type: ignore[method-assign]
    first = bench.snapshots.take(SMALL, 4, 4, 4)
    assert first is not None
    assert first.measured == SMALL_MEASURED
    assert first.decision["answered"] == SMALL_ANSWERED
    assert refused
    refused.clear()
    assert bench.snapshots.take(SMALL, 5, 5, 5) is not None
    assert not refused  # what fits is known from then on


def answers(bench: Bench, count: int, start: int = 0) -> dict[str, Said]:
    """What the model says to some probes when asked together, its numbers rounded."""
    probes = bench.snapshots.probes[start : start + count]
    encoded = [bench.snapshots.encoded[p.id] for p in probes]
    measured = measure_answers(bench.network, encoded, 600)
    asked = {p.id: pair for p, *pair in zip(probes, encoded, measured, strict=True)}
    found = bench.snapshots.answering.answer(asked) or {}  # type: ignore[arg-type]
    for said in found.values():
        said.losses = [round(loss, 3) for loss in said.losses]
    return found


def test_who_leaves_does_not_wait_for_a_snapshot(tmp_path: Path) -> None:
    snapshots = Bench(tmp_path).snapshots
    assert snapshots.take(FULL, 0, 0, 0, leave=lambda: True) is None
    assert not list(tmp_path.glob("snapshots/*"))


@pytest.mark.slow
def test_what_is_generated_right_is_what_is_predicted_right(tmp_path: Path) -> None:
    """Teacher forcing and generation are two views of one model: no first mismatch means that the
    greedy answer is the expected one."""
    bench = Bench(tmp_path)
    settings = bench.material.plan.settings
    optimizer = make_optimizer(bench.network, settings)
    rows = [bench.material.rows[r] for r in bench.material.plan.train_rows[:4]]
    chosen = {bench.material.row_ids[r] for r in bench.material.plan.train_rows[:4]}
    for _ in range(150):
        total, _ = bench.network.loss(pack(rows, bench.network.device))
        torch.autograd.backward(total)
        optimizer.step()
        optimizer.zero_grad()
    event = bench.snapshots.take(FULL, 4, 4, 4)
    assert event is not None
    table = pq.read_table(event.path).to_pylist()
    for row in table:
        assert len(row["pieces"]) == len(row["surprisal"]) == row["tokens"]
        assert "".join(row["pieces"]) == row["expected"]
        assert sum(row["surprisal"]) / 16 / row["tokens"] == pytest.approx(row["loss"], abs=0.04)
        assert 0 < row["confidence"] <= 1
        assert row["normalized_match"] >= row["exact_match"]
        assert (row["similarity"] == 1) == row["exact_match"]
    assert all(
        r["exact_match"] == (r["first_mismatch"] is None) or not r["first_mismatch"] for r in table
    )
    known = [r for r in table if r["probe"] in chosen]
    assert all(r["exact_match"] for r in known)


def test_snapshots_come_at_powers_of_two_while_they_are_cheap() -> None:
    governor = governed(allowance_seconds=1e9)
    assert rhythm(governor, steps=70, cost=1.0, step_seconds=1e-9) == [0, 1, 2, 4, 8, 16, 32, 64]


def test_the_gaps_stop_growing_where_the_cost_allows_it() -> None:
    governor = governed(fraction=0.1, allowance_seconds=10.0)
    taken = rhythm(governor, steps=200, cost=1.0, step_seconds=1.0)
    gaps = [b - a for a, b in itertools.pairwise(taken)]
    assert max(gaps) <= 12
    assert gaps[-1] >= 8
    assert len(taken) * 1.0 <= 0.1 * 200 + 10.0


def test_no_snapshot_is_taken_without_time_for_it_and_that_is_said_once() -> None:
    nobody = Governor(SnapshotSettings(directory=Path("none")), 0, 0)
    assert nobody.decide(0, 0.0, last=True) is None
    refused = nobody.decide(3, 1.0, asked=True)
    assert refused is not None
    assert (refused.size, refused.why) == (None, "this job has no example that can be measured")
    governor = governed(fraction=0.0, allowance_seconds=0.0)
    assert rhythm(governor, steps=50, cost=1.0, step_seconds=1.0) == [0]
    assert governor.decide(50, 50.0) is None
    last = governor.decide(50, 50.0, last=True)
    assert last is not None
    assert (last.size, last.limit_seconds, last.spent_seconds) == ("full", 0.0, 1.0)


def test_the_first_one_after_a_resume_takes_no_more_than_the_time_that_is_left() -> None:
    governor = Governor(SnapshotSettings(directory=Path("none"), fraction=0.1), 100, 5)
    governor.spent_seconds = 40.0
    unknown = governor.decide(8, 500.0)
    assert unknown is not None
    left = unknown.allowed_seconds - 40.0
    assert (unknown.size, unknown.limit_seconds, left > 0) == ("full", left, True)
    governor.account("full", 8, 1.0, 1.0)
    known = governor.decide(governor.next_step, 900.0)
    assert known is not None
    assert (known.size, known.limit_seconds) == ("full", None)


def governed(**settings: Any) -> Governor:
    return Governor(SnapshotSettings(directory=Path("none"), **settings), 100, 0)


def rhythm(governor: Governor, steps: int, cost: float, step_seconds: float) -> list[int]:
    """The job steps with a snapshot, if each costs `cost` seconds; the clock is arithmetic."""
    taken, skipped = [], 0
    for step in range(steps):
        decision = governor.decide(step, step * step_seconds)
        if decision is not None and decision.size is None:
            skipped += 1
        elif decision is not None and decision.size is not None:
            governor.account(decision.size, step, cost, step_seconds)
            taken.append(step)
    assert skipped <= len(taken)
    return taken


@pytest.mark.parametrize(("began", "first"), [(0, 1), (1, 1), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_a_resumed_job_keeps_the_rhythm(began: int, first: int) -> None:
    assert power_of_two_from(began) == first


def test_a_full_one_has_as_many_probes_as_fit_and_later_ones_the_same(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    tight = Decision("full", "the first of the job", 0.0, 0.0, limit_seconds=0.0)
    first = bench.snapshots.take(tight, 0, 0, 0)
    later = bench.snapshots.take(FULL, 4, 4, 4)
    asked = bench.snapshots.take(Decision("full", "asked for", 0.0, 0.0), 5, 5, 5)
    assert first is not None
    assert later is not None
    assert asked is not None
    assert first.measured == later.measured == SMALL_MEASURED
    assert asked.measured == len(bench.snapshots.probes) == 100
    assert asked.decision["answered"] == 100
    metadata = pq.read_schema(first.path).metadata
    assert json.loads(metadata[b"duramen.decision"]) == first.decision


def test_a_base_is_asked_the_same_questions_once(tmp_path: Path) -> None:
    first = Bench(tmp_path / "1", baselines=tmp_path / "baselines")
    second = Bench(tmp_path / "2", baselines=tmp_path / "baselines")
    taken = first.snapshots.take(FULL, 0, 0, 0)
    second.snapshots.looked = None  # type: ignore[assignment, method-assign]  # cannot be called
    again = second.snapshots.take(FULL, 0, 0, 0)
    assert taken is not None
    assert again is not None
    assert (taken.decision["is_reused"], again.decision["is_reused"]) == (False, True)
    rows = [pq.read_table(event.path).drop_columns("at") for event in (taken, again)]
    assert rows[0] == rows[1]
    with pytest.raises(TypeError):  # other weights
        second.snapshots.take(FULL, 1, 1, 1)
    plain = first.snapshots.baseline()
    first.snapshots.spec = first.snapshots.spec.model_copy(update={"quantize": "nf4"})
    assert first.snapshots.baseline() != plain  # nor do quantised ones say the same


def test_what_probes_begin_with_in_common_is_computed_once_with_the_same_result(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    for parameter in bench.network.adapter.values():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    encoded = [bench.snapshots.encoded[p.id] for p in bench.snapshots.probes[:20]]
    together = measure_answers(bench.network, encoded, 300)
    groups = packs([last_answer(e) for e in encoded], 300)
    assert any(shared > 0 and len(group) > 2 for group, shared in groups)
    assert sorted(n for group, _ in groups for n in group) == list(range(20))
    for one, found in zip(encoded, together, strict=True):
        (alone,) = measure_answers(bench.network, [one], 300)
        assert found.losses == pytest.approx(alone.losses, abs=1e-5)
        assert found.draft == alone.draft


def test_greedy_answers_heed_no_wish_of_the_base(tmp_path: Path) -> None:
    """Qwen's generation_config.json, for one, wants a penalty for words that came before."""
    base = make_tiny(tmp_path / "base")
    wish = {"repetition_penalty": 1.1, "do_sample": True, "no_repeat_ngram_size": 2}
    (base / "generation_config.json").write_text(json.dumps(wish))
    network = Network(base, "float32", AdapterShape(rank=2, alpha=4), seed=1)
    kept = network.model.generation_config.to_dict()
    assert {name: kept[name] for name in wish if kept[name]} == {}

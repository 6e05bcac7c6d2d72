"""The plan decides everything once, and what is computed from it later must agree with it."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.model.template import Chat
from services.trainer.protocol import Spec
from services.trainer.worker.data.draw import heldout
from services.trainer.worker.data.plan import build_plan, load_plan
from shared.errors import CannotTrain
from shared.formats.dataset import row_id
from shared.formats.plan import Plan
from tests.tiny import Conversation, line_of, shared_tiny, tiny_conversations, write_dataset

CLOCK = "2026-03-01T00:00:00+00:00"


def make_spec(directory: Path, conversations: list[Conversation], **changes: Any) -> Spec:
    dataset = directory / "data.jsonl"
    fields: dict[str, Any] = {
        "lineage": "main",
        "segment": "1",
        "fence": 1,
        "job": "j.1",
        "base_dir": shared_tiny(),
        "base_root": "ab" * 32,
        "dataset": dataset,
        "dataset_sha256": write_dataset(dataset, conversations),
        "plan_out": directory / "plan.json",
        "settings": {"epochs": 3, "batch_tokens": 300, "max_length": 120, "seed": 5},
        "clock": CLOCK,
        "start": {"position": 0, "global_step": 0},
        "micro_tokens": 300,
        "checkpoint_dir": directory / "checkpoints",
        "snapshot": {"directory": directory / "snapshots"},
        "metrics": directory / "metrics.jsonl",
        "lock_file": directory / "lock",
    }
    return Spec.model_validate({**fields, **changes})


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(shared_tiny(), CLOCK)


def test_the_same_job_has_the_same_plan_to_the_byte(tmp_path: Path, chat: Chat) -> None:
    spec = make_spec(tmp_path, tiny_conversations(230))
    first = build_plan(spec, chat)
    data = spec.plan_out.read_bytes()
    second = build_plan(spec.model_copy(update={"fence": 9, "plan_out": tmp_path / "b"}), chat)
    assert data == (tmp_path / "b").read_bytes()
    assert first.sha256 == second.sha256
    assert Plan.from_bytes(data).to_bytes() == data
    loaded = load_plan(spec.model_copy(update={"plan": spec.plan_out}), chat)
    assert loaded.plan == first.plan
    assert all((loaded.rows[r].ids == first.rows[r].ids).all() for r in first.rows)


def test_each_epoch_has_every_row_once_and_no_step_is_too_large(tmp_path: Path, chat: Chat) -> None:
    material = build_plan(make_spec(tmp_path, tiny_conversations(230)), chat)
    plan = material.plan
    for epoch in plan.batches:
        assert sorted(r for step in epoch for r in step) == sorted(plan.train_rows)
        for step in epoch:
            assert len(step) == 1 or sum(len(material.rows[r]) for r in step) <= 300
    assert len({epoch[0] for epoch in plan.batches}) == 3
    assert plan.tokens == sum(len(material.rows[r]) for rows in plan.steps for r in rows)
    assert plan.trained_tokens == sum(material.rows[r].labels for s in plan.steps for r in s)


def test_held_out_rows_are_never_trained_also_not_their_twins(tmp_path: Path, chat: Chat) -> None:
    conversations = tiny_conversations(230)
    ids = [row_id(line_of(c)) for c in conversations]
    held = heldout(ids, 0.05)
    twin = conversations[ids.index(min(held))]
    # Another order and one row twice: the same rows are held out.
    spec = make_spec(tmp_path, [*conversations[::-1], twin])
    plan = build_plan(spec, chat).plan
    assert {p.id for p in plan.probes if p.split == "heldout"} == held
    assert [e.reason for e in plan.left_out] == ["equal to a held-out row"]
    trained = {row_id(line_of([*conversations[::-1], twin][r])) for r in plan.train_rows}
    assert not trained & held
    assert len(plan.train_rows) + len(held) + 1 == plan.rows


def test_rows_that_cannot_be_trained_are_left_out_with_the_reason(
    tmp_path: Path, chat: Chat
) -> None:
    rows: list[Conversation] = [
        *tiny_conversations(5),
        [("user", "q"), ("assistant", "long " * 200)],
        [("user", "only a question")],
        [("assistant", "only an answer")],
    ]
    plan = build_plan(make_spec(tmp_path, rows, allow_bad="1"), chat).plan
    assert {e.row: (e.reason, e.bad) for e in plan.left_out} == {
        5: ("longer than 120 tokens", False),
        6: ("nothing to train: no assistant message", True),
    }
    with pytest.raises(CannotTrain, match="No row is left"):
        build_plan(make_spec(tmp_path, rows[5:6]), chat)


def test_evaluation_rows_are_measured_and_never_trained(tmp_path: Path, chat: Chat) -> None:
    extra = tmp_path / "eval.jsonl"
    sha = write_dataset(extra, tiny_conversations(100, start=180))
    spec = make_spec(
        tmp_path, tiny_conversations(230), eval_datasets=[{"path": extra, "sha256": sha}]
    )
    plan = build_plan(spec, chat).plan
    splits = [p.split for p in plan.probes]
    assert splits.count("trained") == 88
    assert splits.count("heldout") == 12
    assert splits.count("eval") == 50
    assert any(e.reason == "equal to an evaluation row" for e in plan.left_out)
    assert all(r < 180 for r in plan.train_rows)


def test_probes_of_earlier_jobs_are_carried_on(tmp_path: Path, chat: Chat) -> None:
    build_plan(make_spec(tmp_path / "first", tiny_conversations(230)), chat)
    spec = make_spec(
        tmp_path / "second",
        tiny_conversations(30, start=500),
        earlier_plans=[tmp_path / "first" / "plan.json"],
    )
    earlier = [p for p in build_plan(spec, chat).plan.probes if p.split == "earlier"]
    first = Plan.from_bytes((tmp_path / "first" / "plan.json").read_bytes())
    assert len(earlier) == 16
    assert {p.id for p in earlier} <= {p.id for p in first.probes}
    assert {p.dataset for p in earlier} == {first.dataset}


def refusal(spec: Spec, chat: Chat, **changes: Any) -> str:
    """Return why a plan is refused for this specification."""
    with pytest.raises(CannotTrain) as caught:
        load_plan(spec.model_copy(update={"plan": spec.plan_out, **changes}), chat)
    assert caught.value.kind == "data"
    return str(caught.value)


def test_a_plan_that_does_not_fit_is_refused(tmp_path: Path, chat: Chat) -> None:
    spec = make_spec(tmp_path, tiny_conversations(20))
    build_plan(spec, chat)
    assert "damaged" in refusal(spec, chat, plan_sha256="00" * 32)
    assert "made for job" in refusal(spec, chat, job="k.1")
    assert "made for base_root" in refusal(spec, chat, base_root="cd" * 32)
    fields = json.loads(spec.plan_out.read_bytes())
    spec.plan_out.write_text(json.dumps({**fields, "tokens_sha256": "00" * 32}))
    assert "not those of the plan" in refusal(spec, chat)
    spec.plan_out.write_text(json.dumps({**fields, "schema": 2}))
    assert "schema 2" in refusal(spec, chat)


def test_a_line_separator_inside_a_string_splits_no_row(tmp_path: Path, chat: Chat) -> None:
    rows: list[Conversation] = [[("user", "a\u2028b\x85c"), ("assistant", "d\u2029e")]]
    assert build_plan(make_spec(tmp_path, rows), chat).plan.rows == 1

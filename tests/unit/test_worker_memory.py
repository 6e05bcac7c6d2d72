"""Memory runs out for real, in a worker: what is trained is kept, and half the split goes on."""

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.model.out_of_memory import is_out_of_memory
from services.model.template import Chat
from services.trainer import checkpoint
from services.trainer.micro_batch import smaller
from services.trainer.protocol import Spec
from services.trainer.supervisor import claim
from services.trainer.supervisor.decide import may_shrink
from services.trainer.supervisor.run.worker_run import Ended
from services.trainer.supervisor.trainer import Trainer
from services.trainer.worker.data.plan import build_plan
from services.trainer.worker.micro_batches import may_be_halved
from shared.host import cgroup_files, oom_kills
from shared.ledger.lineage import Line, Segment
from shared.protocol.records import Failure, Head, LineClose
from tests.tiny import make_tiny, tiny_conversations, write_dataset
from tests.worker import Job, Worker, tensors

MICRO_TOKENS = 1024


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """On a model of many words: the logits of a step alone are 60 MB, in one piece."""
    made = Job(tmp_path, make_tiny(tmp_path / "wordy", vocab_size=60_000))
    made.sha256 = write_dataset(made.dataset, tiny_conversations(24))
    return made


def spec(job: Job, name: str, **changes: Any) -> dict[str, Any]:
    settings = {**job.spec(name)["settings"], "batch_tokens": 900, "epochs": 6}
    fields = {"settings": settings, "micro_tokens": MICRO_TOKENS, "checkpoint_seconds": 1e6}
    return {**job.spec(name), **fields, **changes}


def status_bytes(worker: Worker, field: str) -> int:
    """A field of /proc/PID/status in bytes."""
    text = Path(f"/proc/{worker.pid}/status").read_text()
    return int(text.partition(f"{field}:")[2].split()[0]) * 1024


def run_until_memory_is_gone(job: Job, name: str) -> tuple[dict[str, Any], Worker]:
    """Train; from the second step on the kernel refuses what a micro-batch needs."""
    with Worker(job.directory / name, spec(job, name)) as worker:
        worker.until_event("plan")
        worker.tell("go")
        worker.until_event("ready")
        at_rest = status_bytes(worker, "VmSize")
        worker.until(lambda e: e["event"] == "step" and e["position"] == 1)
        limit = at_rest + (8 << 20)
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (limit, limit))
        while (event := worker.next()) is not None:
            if event["event"] == "failed":
                assert worker.wait() == 0
                return event, worker
            assert event["event"] != "end", "it had memory enough"
    raise AssertionError(f"ended without a word: {worker.events[-3:]}")


def test_what_was_trained_is_saved_and_half_the_split_goes_on_with_the_bits_of_a_replay(
    job: Job,
) -> None:
    failed, worker = run_until_memory_is_gone(job, "short")
    assert failed["kind"] == "memory", failed
    assert not failed["final"]
    assert not failed["suspect"]
    path, header = job.newest("short")
    trained = [e for e in worker.events if e["event"] == "step"][-1]
    assert header.position == trained["position"] >= 1
    half = smaller(MICRO_TOKENS)
    again = {**job.resumed("short", path, header), "micro_tokens": half}
    settings = spec(job, "short")["settings"]
    again |= {"settings": settings, "checkpoint_seconds": 1e6, "segment": "300"}
    with Worker(job.directory / "short", again) as worker:
        end = worker.run()
        steps = [e for e in worker.events if e["event"] == "step"]
    assert {s["micro_batches"] for s in steps} >= {2}
    assert end["reason"] is None
    # A replay that never ran short: the same steps with the one split, the rest with the other.
    with Worker(job.directory / "replay", spec(job, "replay", checkpoint_seconds=1e-3)) as worker:
        worker.until_event("plan")
        worker.tell("go")
        worker.until(lambda e: e["event"] == "checkpoint" and e["position"] == header.position)
        worker.kill()
    found = sorted((job.directory / "replay" / "checkpoints").glob(f"*{header.id[:12]}*"))
    source = found[0] if found else at(job, "replay", header.position)
    assert checkpoint.verify_checkpoint(source).tensors == header.tensors
    replay = {**again, "checkpoint": str(source), "plan": str(job.directory / "replay/plan.json")}
    replay |= {k: v.replace("/short/", "/replay/") for k, v in replay.items() if is_path(v)}
    with Worker(job.directory / "replay", replay) as worker:
        assert tensors(worker.run()) == tensors(end)


def is_path(value: Any) -> bool:
    return isinstance(value, str) and "/short/" in value


def at(job: Job, name: str, position: int) -> Path:
    folders = (job.directory / name / "checkpoints").glob("0*")
    return next(f for f in folders if checkpoint.verify_checkpoint(f).position == position)


def test_rows_that_stand_alone_already_are_the_floor(job: Job) -> None:
    told = Spec.model_validate(spec(job, "x"))
    material = build_plan(told, Chat(told.base_dir, told.clock, None))
    longest = max(len(row) for row in material.rows.values())
    assert longest < 64
    assert may_be_halved(material, 1 << 20)  # in the end it cuts
    assert may_be_halved(material, 128)
    assert not may_be_halved(material, 64)  # half of that is not tried


@pytest.mark.parametrize("micro_tokens", [512, 100])  # of which 100 is not halved any more
@pytest.mark.parametrize(
    ("checkpointing", "halved", "more"),
    [("auto", False, True), ("auto", True, False), ("on", False, False), ("off", False, False)],
)
def test_where_rows_stand_alone_checkpointing_is_left_to_be_tried_once(
    trainer: Trainer,
    segment: Segment,
    checkpointing: str,
    halved: bool,
    more: bool,
    micro_tokens: int,
) -> None:
    asked = {"gradient_checkpointing": checkpointing}
    trainer.settings = trainer.settings.model_copy(update=asked)
    split = {"micro_tokens": micro_tokens, "micro_tokens_asked": 1024 if halved else None}
    segment.opens = [(7, segment.record.model_copy(update=split))]
    alone = Ended("failed", Failure(kind="memory", message="", next_step=""), final=True)
    assert may_shrink(trainer, segment, alone) is more
    not_final = replace(alone, final=False)
    assert may_shrink(trainer, segment, not_final) is (more or micro_tokens == 512)
    other = Failure(kind="nan", message="", next_step="")
    assert not may_shrink(trainer, segment, replace(alone, failure=other))


def test_a_split_at_the_floor_is_tried_again_as_one_that_memory_ran_out_for(
    segment: Segment,
) -> None:
    """The same one: what is new is that it was asked for, which checkpoints the gradients."""
    record = segment.record.model_copy(update={"micro_tokens": 100})
    close = LineClose(
        by="t",
        prev=7,
        lineage="main",
        segment=segment.id,
        fence=7,
        job=segment.job.path,
        outcome="preempted",
        cause=claim.RAN_OUT,
        from_step=0,
        to_step=1,
        from_position=0,
        to_position=1,
        head=Head(base_root="ab" * 32, global_step=1, checkpoint=None),
    )
    closed = Segment(segment.id, segment.job, 0, [(7, record)], close, 8)
    owner = claim.Owner("me", record.lease, "float32", 100)
    line = Line("main", segments={closed.id: closed})
    assert claim.micro_tokens(line, owner) == (100, 100)


def test_only_memory_looks_like_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    for failed in ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"):
        assert is_out_of_memory(RuntimeError(f"CUDA error: {failed} when calling `create(handle)`"))
    assert not is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_kills_are_counted_in_the_group_of_this_process() -> None:
    if not cgroup_files("memory.events", "memory.oom_control"):
        pytest.skip("this host shows no memory control group")
    assert oom_kills() is not None

"""A killed worker goes on with the same bits, and one without memory goes on with smaller steps."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from services.trainer.micro_batch import smaller
from shared.memory_estimate import GIB, gib
from tests.gpu.bases import long_conversations
from tests.tiny import make_tiny, write_dataset
from tests.worker import Job, Worker, tensors

KILLED_BEHIND = 5  # steps
TOKENS, ROOM = 8192, 6 * GIB  # more at once than there is room for


CASES: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": "bfloat16", "device": "cuda"},
    "float32": {"dtype": "float32", "device": "cuda"},
    "nf4, recomputed": {
        "dtype": "bfloat16",
        "device": "cuda",
        "quantize": "nf4",
        "gradient_checkpointing": True,
    },
}


@dataclass(frozen=True)
class Ends:
    """One case: the end of a run that nobody disturbed, that of one that was killed, and where."""

    whole: dict[str, Any]
    cut: dict[str, Any]
    killed_at: int
    log: str


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ends]:
    """Run all cases side by side: what takes long is to start."""
    folder = tmp_path_factory.mktemp("resume")
    base = make_tiny(
        folder / "base",
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        tie_word_embeddings=False,
        initializer_range=0.05,
    )
    cases = {n: c for n, c in CASES.items() if "quantize" not in c or find_spec("bitsandbytes")}
    jobs = {name: Job(folder / name, base) for name in cases}
    with ThreadPoolExecutor(2 * len(jobs)) as pool:
        wholes = {n: pool.submit(job.run, "whole", **cases[n]) for n, job in jobs.items()}
        cuts = {n: pool.submit(killed_and_resumed, job, cases[n]) for n, job in jobs.items()}
        return {n: Ends(wholes[n].result(), *cuts[n].result()) for n in jobs}


def killed_and_resumed(job: Job, changes: dict[str, Any]) -> tuple[dict[str, Any], int, str]:
    """Kill a worker in the middle, go on from what it left; (its end, where it was killed, log)."""
    with Worker(job.directory / "cut", job.spec("cut", **changes)) as worker:
        worker.until_event("plan")
        worker.tell("go")
        worker.until(lambda e: e["event"] == "step" and e["position"] == KILLED_BEHIND)
        worker.kill()
    path, header = job.newest("cut")
    spec = {**job.resumed("cut", path, header), **changes}
    with Worker(job.directory / "cut", spec) as worker:
        end = worker.run()
    return end, header.position, (job.directory / "cut" / "job.log").read_text()


@pytest.mark.parametrize("case", CASES)
def test_a_killed_worker_ends_with_the_tensors_of_one_that_was_not(
    case: str, ends: dict[str, Ends], figures: Callable[[str], None]
) -> None:
    if case not in ends:
        pytest.skip("not run: bitsandbytes is not installed")
    found = ends[case]
    assert "not bit-identical" not in found.log, found.log
    hashes = tensors(found.whole)
    assert tensors(found.cut) == hashes
    steps = found.whole["checkpoint"]["position"]
    assert KILLED_BEHIND - 1 <= found.killed_at < steps
    figures(f"killed at {found.killed_at} of {steps}, adapter {hashes.adapter[:12]} both times")


def test_where_memory_runs_out_smaller_micro_batches_end_the_job(
    tmp_path: Path, base_of: Callable[[str], Path], figures: Callable[[str], None]
) -> None:
    job = Job(tmp_path, base_of("0.1B"))
    job.sha256 = write_dataset(job.dataset, long_conversations(40, (900, 1000)))
    settings = {**job.spec("x")["settings"], "batch_tokens": TOKENS, "max_length": 2048}
    changes: dict[str, Any] = {
        "settings": {**settings, "epochs": 1},
        "dtype": "bfloat16",
        "device": "cuda",
        "checkpoint_seconds": 1e6,
        "eval_fraction": 0.0,
    }
    spec = job.spec("x", micro_tokens=TOKENS, **changes)
    tried = [TOKENS]
    held = all_but(ROOM)
    while (ended := last_event(tmp_path / "x", spec))["event"] == "failed":
        assert (ended["kind"], ended["final"]) == ("memory", False), ended
        less = smaller(tried[-1])
        assert less is not None
        tried.append(less)
        # As the supervisor goes on: from what was saved before the error went on.
        path, header = job.newest("x")
        spec = {**job.resumed("x", path, header), "micro_tokens": less, **changes}
    del held
    torch.cuda.empty_cache()
    assert len(tried) > 1, "it was never short of memory"
    assert ended["reason"] is None
    figures(f"{gib(ROOM)} free: out of memory with {tried[:-1]} tokens at once, done with {less}")


def all_but(size: int) -> torch.Tensor:
    """Hold all free memory of the card but `size` bytes."""
    free, _ = torch.cuda.mem_get_info()
    return torch.empty(max(0, free - size), dtype=torch.uint8, device="cuda")


def last_event(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Let a worker train, and return its `end` or `failed` event."""
    with Worker(folder, spec) as worker:
        while (event := worker.next()) is not None:
            if event["event"] == "plan":
                worker.tell("go")
            if event["event"] in {"end", "failed"}:
                return event
        raise AssertionError(f"it ended without a word; {worker.events[-3:]}")

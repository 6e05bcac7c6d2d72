"""Real workers that train some steps on the card: what they take, and how fast they are."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from services.trainer.memory import of_gpu, on_gpu
from shared.formats.adapter import AdapterShape
from shared.memory_estimate import (
    GIB,
    Choice,
    Dtype,
    Estimate,
    Quantize,
    estimate_memory,
    gib,
    shape_of_folder,
)
from tests.gpu.bases import long_conversations
from tests.tiny import write_dataset
from tests.worker import Job, Worker

RANK = 16
SILENT_SECONDS = 240.0
WARM_STEPS = 3  # the first ones set up kernels and the allocator
LARGE_CARD, LARGE_DISK = 30 * GIB, 40 * GIB  # for a base of 8 billion numbers
SIZE = 8192  # rows and columns of the matrix product that the card is measured with


@dataclass(frozen=True)
class Setup:
    """How a worker trains; `tokens`: of a step, at once through the model."""

    size: str
    tokens: int
    quantize: Quantize = "none"
    recompute: bool = False
    dtype: Dtype = "bfloat16"

    def __str__(self) -> str:
        weights = "nf4" if self.quantize == "nf4" else self.dtype
        recomputed = ", recomputed" if self.recompute else ""
        return f"{self.size} {weights}, {self.tokens} tokens{recomputed}"


@dataclass(frozen=True)
class Measured:
    """Of the steps behind the first `WARM_STEPS`; `peak`: bytes of the card in the end, the
    allocator's holes and the context included."""

    attention: str  # the way that the worker found to be right
    peak: int
    labels_a_token: float
    tokens_a_second: float
    step_seconds: float  # as the worker tells it, without what lies between its steps
    told: Estimate


class Trial:
    """A worker with its plan, which waits for its go: it has imported what takes long, and holds
    nothing of the card yet. Several are started at once, and measured one after another."""

    def __init__(self, folder: Path, base: Path, setup: Setup, steps: int) -> None:
        self.base, self.setup, self.steps = base, setup, steps
        job = Job(folder, base)
        rows = int((steps + 1) * setup.tokens / 700) + 8
        job.sha256 = write_dataset(job.dataset, long_conversations(rows, (300, 1100)))
        settings = {"learning_rate": 1e-4, "epochs": 1, "max_length": 2048}
        spec = job.spec(
            "x",
            dtype=setup.dtype,
            device="cuda",
            quantize=setup.quantize,
            gradient_checkpointing=setup.recompute,
            lora={"rank": RANK, "alpha": 2 * RANK},
            settings={**settings, "batch_tokens": setup.tokens},
            micro_tokens=setup.tokens,
            checkpoint_seconds=1e6,
            eval_fraction=0.0,
            threads=None,
        )
        self.data = job.dataset
        self.worker = Worker(folder / "x", spec, silent_seconds=SILENT_SECONDS, fresh=True)

    def measure(self) -> Measured:
        """Let it train its steps, and end it."""
        before = used()
        with self.worker as worker:
            worker.until_event("plan")
            worker.tell("go")
            ready = worker.until_event("ready")
            worker.until(lambda e: e["event"] == "step" and e["position"] == WARM_STEPS)
            began = time.monotonic()
            last = worker.until(lambda e: e["event"] == "step" and e["position"] == self.steps)
            seconds = time.monotonic() - began
            peak = on_gpu().get(worker.pid) or used() - before
        assert last["micro_batches"] == 1
        steps = [e for e in self.worker.events if e["event"] == "step"]
        seen = [e for e in steps if e["position"] > WARM_STEPS]
        tokens = sum(e["tokens"] for e in seen)
        return Measured(
            attention=ready["attention"],
            peak=peak,
            labels_a_token=sum(e["trained_tokens"] for e in seen) / tokens,
            tokens_a_second=tokens / seconds,
            step_seconds=sum(e["seconds"] for e in seen) / len(seen),
            told=self.told(max(e["tokens"] for e in steps)),
        )

    def told(self, tokens: int) -> Estimate:
        """Return what is told of the memory that it needs, before it starts."""
        setup = self.setup
        choice = Choice(setup.dtype, tokens, setup.quantize, setup.recompute)
        return estimate_memory(shape_of_folder(self.base), choice, AdapterShape(rank=RANK), "cuda")


class Trials:
    """Trials of several setups, all started when the first is asked for."""

    def __init__(
        self, folder: Path, base_of: Callable[[str], Path], setups: Sequence[Setup], steps: int
    ) -> None:
        self.folder, self.base_of, self.setups, self.steps = folder, base_of, setups, steps
        self.started: dict[Setup, Trial] = {}

    def __getitem__(self, setup: Setup) -> Trial:
        for number, each in enumerate(self.setups):
            if each not in self.started and room_for(each, self.folder) is None:
                base = self.base_of(each.size)
                self.started[each] = Trial(self.folder / str(number), base, each, self.steps)
        return self.started[setup]

    def close(self) -> None:
        for trial in self.started.values():
            trial.worker.kill()


def room_for(setup: Setup, folder: Path) -> str | None:
    """Return why there is no room for a setup here, or None."""
    if setup.size != "8B":
        return None
    here = of_gpu()
    if here is None or here.total < LARGE_CARD:
        return f"not run: the card has less than {gib(LARGE_CARD)}"
    if shutil.disk_usage(folder).free < LARGE_DISK:
        return f"not run: less than {gib(LARGE_DISK)} free in {folder}"
    return None


def used() -> int:
    """Bytes of the card that anybody holds."""
    free, total = torch.cuda.mem_get_info()
    return total - free


def flops_a_token(base: Path, labels_a_token: float, context: float) -> float:
    """The operations that a step must do for a token: those of the frozen matrices forward and
    back (4 for each number, the head's at labels alone), of the adapter (6) and of attention.

    `context`: tokens that a token sees on average. Recomputing is not counted: it is no progress.
    """
    shape = shape_of_folder(base)
    inside = sum(m.outs * m.ins for m in shape.linears)
    adapter = RANK * sum(m.outs + m.ins for m in shape.linears)
    head = shape.hidden * shape.vocabulary * labels_a_token
    states = json.loads((base / "config.json").read_bytes())
    width = int(states["hidden_size"])
    scores = shape.layers * 12 * width * context  # two products forward, four back
    return 4.0 * (inside + head) + 6.0 * adapter + scores


def ceiling() -> float:
    """Operations a second of a large bfloat16 matrix product on this card, on random numbers."""
    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    began = time.monotonic()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2 * SIZE**3 / (time.monotonic() - began)

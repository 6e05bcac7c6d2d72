"""What is told of memory before the start, against what real workers then take on this machine.

`python -m tests.bench.bench_memory BASE_DIR DATASET [--steps 6]`

Each worker takes a small snapshot and a few steps of up to as many tokens at once as its line says.
Prints a line each: the estimate, the most that the process held, and their ratio.
"""

import argparse
import hashlib
import tempfile
from pathlib import Path

from shared.formats.adapter import AdapterShape
from shared.memory_estimate import GIB, Choice, estimate_memory, shape_of_folder
from tests.unit.test_worker_memory import status_bytes
from tests.worker import Job, Worker

RANK = 16
SILENT_SECONDS = 900  # a real model's snapshot on one busy core
TRIED = [(n, False) for n in (512, 1024, 2048)] + [(n, True) for n in (1024, 2048, 4096)]


def peak(job: Job, name: str, micro_tokens: int, steps: int, *, recompute: bool) -> int:
    """Bytes that a worker held at most up to its step `steps`."""
    settings = {"batch_tokens": micro_tokens, "epochs": 1, "max_length": micro_tokens}
    spec = job.spec(
        name,
        settings={**job.spec(name)["settings"], **settings},
        lora={"rank": RANK, "alpha": 2 * RANK},
        micro_tokens=micro_tokens,
        gradient_checkpointing=recompute,
        checkpoint_seconds=1e6,
        threads=None,
    )
    folder = job.directory / name
    with Worker(folder, spec, silent_seconds=SILENT_SECONDS, fresh=True) as worker:
        worker.until_event("plan")
        worker.tell("go")
        worker.until(lambda e: e["event"] == "step" and e["position"] == steps)
        return status_bytes(worker, "VmHWM")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    shape = shape_of_folder(options.base)
    print("tokens  checkpointing  estimated  measured  ratio")
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Path(folder), options.base)
        job.dataset = options.dataset
        job.sha256 = hashlib.sha256(options.dataset.read_bytes()).hexdigest()
        for tokens, recompute in TRIED:
            name = f"{tokens}-{recompute}"
            found = peak(job, name, tokens, options.steps, recompute=recompute)
            choice = Choice("float32", tokens, checkpointing=recompute)
            told = estimate_memory(shape, choice, AdapterShape(rank=RANK), "cpu").total
            print(
                f"{tokens:6}  {'yes' if recompute else 'no':13}  {told / GIB:5.2f} GiB"
                f"  {found / GIB:4.2f} GiB  {told / found:5.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""How much faster the lean loop is than transformers' Trainer, and in how much memory.

`python -m tests.bench.bench_loop BASE_DIR DATASET [--rows 8] [--steps 5] [--rounds 2]`

Both train the same rows in the same order with the same adapter, optimizer and loss, in turns, each
turn in a process of its own; the losses must agree. The first step of each turn is left out of the
timing. Prints one JSON object; `tokens` are those of the conversations, padding not counted, and
memory is the most that a turn's process held, with what was estimated for the lean loop.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from services.model import attention
from services.model.encoded import Encoded
from services.model.network import Network
from services.model.template import Chat
from services.trainer.worker.data.rows import read_rows
from services.trainer.worker.optimizer import make_optimizer
from shared.formats.adapter import AdapterShape
from shared.formats.plan import TrainingSettings
from shared.memory_estimate import GIB, Choice, estimate_memory, shape_of_folder

SETTINGS = TrainingSettings(learning_rate=2e-4, warmup_steps=0)
LORA = AdapterShape(rank=16, alpha=32)

Steps = list[list[Encoded]]
Timing = dict[str, Any]


def alone(turn: Callable[[Path, Steps], Timing], base: Path, steps: Steps) -> Timing:
    """A turn in a fresh process, so that its peak of memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(turn, (base, steps))


def lean(base: Path, steps: Steps) -> Timing:
    network = Network(base, "float32", LORA, seed=0)
    optimizer = make_optimizer(network, SETTINGS)
    clock, losses = Clock(), []
    for rows in steps:
        batch = attention.pack(rows, network.device)
        total, _ = network.loss(batch)
        torch.autograd.backward(total / len(batch.targets))
        torch.nn.utils.clip_grad_norm_(list(network.adapter.values()), SETTINGS.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach()) / len(batch.targets))
        clock.tick()
    return clock.result(steps, losses)


def padded(base: Path, steps: Steps) -> Timing:
    network = Network(base, "float32", LORA, seed=0)
    network.base.set_attn_implementation("sdpa")
    optimizer = make_optimizer(network, SETTINGS)
    clock = Clock()

    class Tick(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=len(steps[0]),
            max_steps=len(steps),
            max_grad_norm=SETTINGS.clip,
            train_sampling_strategy="sequential",
            logging_steps=1,
            logging_strategy="steps",
            save_strategy="no",
            report_to=[],
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        trainer = Trainer(
            model=network.model,
            args=arguments,
            train_dataset=[row for rows in steps for row in rows],
            data_collator=collate,
            optimizers=(optimizer, constant),
            callbacks=[Tick()],
        )
        clock.tick(first=True)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return clock.result(steps, losses)


def collate(rows: list[Encoded]) -> dict[str, torch.Tensor]:
    width = max(len(r) for r in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for n, row in enumerate(rows):
        here = torch.from_numpy(row.ids.astype(np.int64))
        ids[n, : len(row)], mask[n, : len(row)] = here, 1
        labels[n, : len(row)] = torch.where(torch.from_numpy(row.trained), here, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class Clock:
    """Wall and processor time between the end of the first step and that of the last."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, float]] = []

    def tick(self, first: bool = False) -> None:
        if first:
            self.ticks.clear()
        else:
            self.ticks.append((time.monotonic(), time.process_time()))

    def result(self, steps: Steps, losses: list[float]) -> Timing:
        tokens = sum(len(r) for rows in steps[1:] for r in rows)
        wall, cpu = (b - a for a, b in zip(self.ticks[0], self.ticks[-1], strict=True))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated()
        return {"wall": tokens / wall, "cpu": tokens / cpu, "losses": losses, "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    chat = Chat(options.base, "2026-01-01T00:00:00+00:00")
    sha256 = hashlib.sha256(options.dataset.read_bytes()).hexdigest()
    needed = options.rows * options.steps
    rows = [chat.encode(r.messages) for r in read_rows(options.dataset, sha256)[:needed]]
    steps = [rows[n : n + options.rows] for n in range(0, needed, options.rows)]
    lengths = [[len(r) for r in step] for step in steps]
    padding = 1 - sum(map(sum, lengths)) / sum(max(n) * len(n) for n in lengths)
    turns = [
        (alone(lean, options.base, steps), alone(padded, options.base, steps))
        for _ in range(options.rounds)
    ]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    choice = Choice("float32", max(map(sum, lengths)))
    told = estimate_memory(
        shape_of_folder(options.base), choice, AdapterShape(rank=LORA.rank), device
    )
    ours, theirs = turns[0][0]["losses"], turns[0][1]["losses"]
    report = {
        "threads": torch.get_num_threads(),
        "padding": padding,
        "loss_difference": max(abs(a - b) for a, b in zip(ours, theirs, strict=True)),
        "lean_tokens_per_second": [t[0]["wall"] for t in turns],
        "trainer_tokens_per_second": [t[1]["wall"] for t in turns],
        "ratio_wall": [t[0]["wall"] / t[1]["wall"] for t in turns],
        "ratio_cpu": [t[0]["cpu"] / t[1]["cpu"] for t in turns],
        "lean_gib": [t[0]["peak"] / GIB for t in turns],
        "trainer_gib": [t[1]["peak"] / GIB for t in turns],
        "estimated_gib": told.total / GIB,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

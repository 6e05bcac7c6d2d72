"""How fast a worker trains on the card, and where it waits for the card without need."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from services.model.network import Network
from services.trainer.worker import loop, optimizer
from shared.formats.adapter import AdapterShape
from shared.formats.plan import TrainingSettings
from shared.memory_estimate import gib
from tests.gpu.steps import Setup, Trials, ceiling, flops_a_token
from tests.gpu.test_gradients import rows
from tests.worker import ROOT

CONTEXT = 400.0  # tokens that a token sees on average: half of a row of 300 to 1100
STEPS = 14
SETUPS = [Setup("0.1B", 16384), Setup("1B", 16384)]
SECONDS = 60.0  # that one may take, its start and the rival's included
LEAST = 0.02  # of what the card can do; a small model cannot keep it busy


@pytest.fixture(scope="module")
def trials(
    tmp_path_factory: pytest.TempPathFactory, base_of: Callable[[str], Path]
) -> Iterator[Trials]:
    made = Trials(tmp_path_factory.mktemp("speed"), base_of, SETUPS, STEPS)
    yield made
    made.close()


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_tokens_a_second(
    setup: Setup,
    trials: Trials,
    figures: Callable[[str], None],
    seconds_needed: Callable[[float], None],
) -> None:
    seconds_needed(SECONDS)
    most = ceiling()
    torch.cuda.empty_cache()
    trial = trials[setup]
    with Rival(trial.base, trial.data, setup.tokens) as rival:
        ours = trial.measure()
        theirs = rival.measure()
    work = ours.tokens_a_second * flops_a_token(trial.base, ours.labels_a_token, CONTEXT)
    each = f"{ours.step_seconds * 1000:.0f} ms a step, attention {ours.attention}"
    figures(f"{ours.tokens_a_second:,.0f} tokens/s, {each}")
    figures(f"MFU {work / most:.0%} of the {most / 1e12:.0f} TFLOP/s measured here")
    figures(f"told {gib(ours.told.total)}, took {gib(ours.peak)}")
    for name, speed, peak in theirs:
        figures(
            f"transformers' Trainer, {name}: {speed:,.0f} tokens/s, {gib(peak)}; "
            f"ours is {ours.tokens_a_second / speed:.2f} times as fast"
        )
    assert work / most > LEAST


class Rival:
    """transformers' Trainer in a process of its own, which waits for its go as our worker does."""

    def __init__(self, base: Path, data: Path, tokens: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.rival", str(base), str(data), str(tokens)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Rival":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def measure(self) -> list[tuple[str, float, int]]:
        """Return (how it batches, tokens a second, bytes reserved) of each way that it ended."""
        said, wrong = self.process.communicate("go\n", timeout=SECONDS * 2)
        if self.process.returncode:
            print(wrong[-2000:])
        found = [json.loads(line) for line in said.splitlines() if line.startswith('{"name"')]
        return [(e["name"], float(e["tokens_a_second"]), int(e["reserved"])) for e in found]


def test_a_step_waits_for_the_card_once_at_its_end(
    base: Path, figures: Callable[[str], None]
) -> None:
    network = Network(
        base, "bfloat16", AdapterShape(rank=8, alpha=16, dropout=0.1), seed=1, device="cuda"
    )
    settings = TrainingSettings(neftune_alpha=1.0)
    adam = optimizer.make_optimizer(network, settings)
    examples = rows(longest=150, vocabulary=256)
    parts = [examples[:7], examples[7:]]
    for step in range(2):  # the first one sets up kernels
        loop.gradient(network, settings, parts, step)
        optimizer.update(adam, 1e-4)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        numbers = loop.gradient(network, settings, parts, 2)
        optimizer.update(adam, 1e-4)
        adam.zero_grad(set_to_none=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(torch.isfinite(numbers).all())
    figures("none in two micro-batches and an update; its numbers are asked for once, at the end")

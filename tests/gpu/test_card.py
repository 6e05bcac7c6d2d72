"""The card itself: what it tells, its number format, four bits, and that a pause frees it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from services.model.attention import pack
from services.model.network import Network
from services.trainer import memory, nvml
from services.trainer.supervisor import gpu
from shared.formats.adapter import AdapterShape
from shared.memory_estimate import gib
from tests.gpu.test_gradients import error, gradients, rows
from tests.worker import ROOT, Job, Worker

LORA = AdapterShape(rank=4, alpha=8)
Figures = Callable[[str], None]


def said_by(module: str, *words: str) -> dict[str, Any]:
    """Return the JSON that a module of the trainer prints when it is run."""
    ended = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_torch_can_use_the_card(figures: Figures) -> None:
    found = said_by("services.trainer.worker.gpu_check")
    figures(", ".join(f"{name} {value}" for name, value in found.items()))
    assert found["usable"], found["why"]


def test_the_number_format_is_chosen_by_what_was_measured(figures: Figures) -> None:
    found = said_by("services.trainer.worker.number_format", "auto")
    single, half = found["float32_flops"] / 1e12, found["bfloat16_flops"] / 1e12
    figures(f"{found['dtype']}: {half:.0f} TFLOP/s against {single:.0f} in float32")
    assert (found["dtype"], found["device"]) == ("bfloat16", "cuda")
    assert found["here"]["name"] == torch.cuda.get_device_name(0)


def test_nvml_tells_what_the_metrics_show(figures: Figures) -> None:
    gpu.measure_gpu(nvml.first())
    kinds = (gpu.UP, gpu.LOAD, gpu.MEMORY_USED, gpu.TOTAL, gpu.HEAT, gpu.POWER)
    shown = {
        sample.name.removeprefix("duramen_gpu_"): sample.value
        for kind in kinds
        for family in kind.collect()
        for sample in family.samples
    }
    figures(", ".join(f"{name} {value:.10g}" for name, value in shown.items()))
    assert shown["up"] == 1
    assert 0 < shown["memory_used_bytes"] <= shown["memory_bytes"]
    seen = memory.of_gpu()
    assert seen is not None
    held = torch.zeros(1 << 28, dtype=torch.uint8, device="cuda")
    assert seen.free - free_bytes() >= len(held)
    figures(f"programs that hold memory, as NVML names them: {named_holders()}")


def named_holders() -> str:
    """Who holds the card's memory, as a job's waiting reason names it."""
    found = memory.holders("cuda")
    return ", ".join(f"{memory.process_name(p, 'cuda')} {gib(size)}" for size, p in found) or "none"


def free_bytes() -> int:
    found = memory.of_gpu()
    assert found is not None
    return found.free


def test_four_bits_are_near_those_of_the_cpu(base: Path, figures: Figures) -> None:
    pytest.importorskip("bitsandbytes", reason="not run: bitsandbytes is not installed")
    found = {}
    for place in ("cpu", "cuda"):
        network = Network(
            base, "bfloat16", LORA, seed=1, quantize="nf4", recompute=True, device=place
        )
        batch = pack(rows(longest=150, vocabulary=256), network.device)
        found[place] = gradients(network, batch)
    off = error(found["cuda"][1], found["cpu"][1])
    figures(f"loss {found['cuda'][0]:.4f}, on the CPU {found['cpu'][0]:.4f}; gradient {off:.1e}")
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=0.03)
    assert off < 0.1


def test_a_pause_gives_the_whole_card_back(tmp_path: Path, base: Path, figures: Figures) -> None:
    job = Job(tmp_path, base)
    before = free_bytes()
    with Worker(tmp_path / "x", job.spec("x", dtype="bfloat16", device="cuda")) as worker:
        worker.until_event("plan")
        worker.tell("go")
        worker.until_event("step")
        during = free_bytes()
        assert before - during > 100 << 20
        pid = worker.pid
        seen = memory.on_gpu().get(pid)
        worker.stop()
        worker.until_event("end")
        assert worker.wait() == 0
    after = free_bytes()
    assert pid not in memory.on_gpu()
    by_pid = "not by its number" if seen is None else f"{gib(seen)} by its number"
    figures(f"held {gib(before - during)} ({by_pid}), {gib(max(0, before - after))} afterwards")
    assert before - after < 50 << 20

"""What only a CUDA device can show. Marked `gpu`; without one each is reported as not run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from services.model.attention import pack
from services.model.network import Network
from services.trainer import memory
from shared.formats.adapter import AdapterShape
from tests.tiny import make_tiny
from tests.unit.test_loop import examples
from tests.worker import Job, Worker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: no CUDA device here"),
]
LORA = AdapterShape(rank=4, alpha=8)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_tiny(tmp_path / "base", head_dim=64, tie_word_embeddings=False)


@pytest.fixture
def on_gpu() -> Iterator[None]:
    yield
    torch.cuda.empty_cache()


def loss_of(network: Network) -> float:
    batch = pack(examples(), network.device)
    with network.measuring():
        return float(network.predict(batch)[0].mean())


def test_bfloat16_with_one_kernel_for_all_sequences_is_near_float32_on_the_cpu(
    base: Path, on_gpu: None
) -> None:
    fast = Network(base, "bfloat16", LORA, seed=1, device="cuda")
    assert fast.device.type == "cuda"
    assert fast.packs
    total, _ = fast.loss(pack(examples(), fast.device))
    torch.autograd.backward(total)
    assert all(p.grad is not None for p in fast.adapter.values())
    exact = Network(base, "float32", LORA, seed=1, device="cpu")
    assert loss_of(fast) == pytest.approx(loss_of(exact), rel=0.03)


def test_four_bits_train_on_the_gpu(base: Path, on_gpu: None) -> None:
    pytest.importorskip("bitsandbytes", reason="not run: bitsandbytes is not installed")
    network = Network(base, "bfloat16", LORA, seed=1, quantize="nf4", recompute=True, device="cuda")
    total, _ = network.loss(pack(examples(), network.device))
    torch.autograd.backward(total)
    grads = [p.grad for n, p in network.adapter.items() if ".lora_B." in n]
    assert all(g is not None and float(g.abs().max()) > 0 for g in grads)


def test_memory_that_is_gone_is_told_as_such_and_a_checkpoint_is_there(
    tmp_path: Path, base: Path, on_gpu: None
) -> None:
    job = Job(tmp_path, base)
    settings = {**job.spec("x")["settings"], "batch_tokens": 4000, "epochs": 50}
    changes: dict[str, Any] = {"settings": settings, "micro_tokens": 4000, "device": "cuda"}
    with Worker(tmp_path / "x", job.spec("x", checkpoint_seconds=1e6, **changes)) as worker:
        worker.until_event("plan")
        worker.tell("go")
        worker.until(lambda e: e["event"] == "step" and e["position"] == 2)
        held = []
        while (event := worker.next()) is not None and event["event"] != "failed":
            try:  # take all that is left, block by block
                held.append(torch.empty(64 << 20, dtype=torch.uint8, device="cuda"))
            except torch.OutOfMemoryError:
                continue
        del held
        assert event is not None
        assert (event["kind"], event["final"]) == ("memory", False)
    assert job.newest("x")[1].position >= 2


def test_a_worker_that_ended_holds_nothing_of_the_gpu(
    tmp_path: Path, base: Path, on_gpu: None
) -> None:
    job = Job(tmp_path, base)
    before = memory.of_gpu()
    assert before is not None
    with Worker(tmp_path / "x", job.spec("x", device="cuda")) as worker:
        worker.until_event("plan")
        worker.tell("go")
        worker.until_event("step")
        during = memory.of_gpu()
        assert during is not None
        assert before.free - during.free > 100 << 20
        worker.tell("finish")
        worker.until_event("end")
        assert worker.wait() == 0
    after = memory.of_gpu()
    assert after is not None
    assert before.free - after.free < 50 << 20

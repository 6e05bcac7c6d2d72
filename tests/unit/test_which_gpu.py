"""The GPU that is asked is the one that is trained on, and lost only when it is silent."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from services.model.device import total_memory
from services.trainer import memory
from services.trainer.nvml import FIRST, first
from services.trainer.supervisor import gpu
from services.trainer.supervisor.run import worker_process
from services.trainer.supervisor.trainer import Trainer

GIB = 2**30


class Driver:
    """NVML with two GPUs, by their index: the second is the larger one."""

    uuids = ("GPU-aaaa-1", "GPU-bbbb-2")

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.silent: dict[str, type[pynvml.NVMLError]] = {}
        self.answer("nvmlInit", lambda: None)
        self.answer("nvmlDeviceGetCount", lambda: 2)
        self.answer("nvmlDeviceGetHandleByIndex", self.handle)
        self.answer("nvmlDeviceGetUUID", lambda at: self.uuids[at])
        self.answer("nvmlDeviceGetName", lambda _: "a card")
        self.answer("nvmlDeviceGetMemoryInfo", self.memory)
        self.answer("nvmlDeviceGetUtilizationRates", lambda _: SimpleNamespace(gpu=50))
        self.answer("nvmlDeviceGetTemperature", lambda *_: 60)
        self.answer("nvmlDeviceGetPowerUsage", lambda _: 70_000)
        self.answer(
            "nvmlDeviceGetComputeRunningProcesses", lambda at: [held(1, 3), held(at + 5, 2)]
        )
        self.answer("nvmlDeviceGetGraphicsRunningProcesses", lambda _: [held(1, 3), held(9, 4)])

    def answer(self, name: str, function: Any) -> None:
        def asked(*arguments: Any) -> Any:
            if name in self.silent:
                raise self.silent[name]
            return function(*arguments)

        self.patch.setattr(pynvml, name, asked)

    def handle(self, at: int) -> int:
        if at >= len(self.uuids):
            raise pynvml.NVMLError_InvalidArgument
        return at

    def memory(self, at: int) -> SimpleNamespace:
        return SimpleNamespace(total=(at + 1) * 8 * GIB, free=(at + 1) * 4 * GIB, used=at)


def held(pid: int, size: int) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=size)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return Driver(monkeypatch)


@pytest.mark.parametrize(
    ("visible", "index"),
    [("1", 1), ("1,0", 1), ("0,1", 0), ("GPU-bbbb-2", 1), ("GPU-b", 1), ("MIG-cccc", 0)],
)
def test_it_is_the_first_of_those_that_cuda_sees(
    driver: Driver, visible: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = memory.of_gpu()
    assert found is not None
    assert found.total == (index + 1) * 8 * GIB
    assert (2, index + 5) in memory.holders("cuda")


@pytest.mark.parametrize("visible", ["", "-1", "7", "GPU-none"])
def test_where_cuda_sees_none_there_is_none(
    driver: Driver, visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert memory.of_gpu() is None
    assert memory.holders("cuda") == []


def test_a_worker_counts_gpus_as_nvml_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    assert worker_process.environment(None)["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert worker_process.environment(None)["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


@pytest.mark.parametrize(
    ("device", "measured_on", "planned_with"),
    [
        ("auto", "cpu", "cpu"),  # a torch without CUDA beside a driver that answers
        ("auto", "cuda", "cuda"),
        ("auto", None, "cuda"),
        ("cuda", "cpu", "cuda"),
        ("cpu", "cuda", "cpu"),
    ],
)
def test_memory_is_that_of_the_device_which_torch_can_use(
    driver: Driver,
    trainer: Trainer,
    tmp_path: Path,
    device: str,
    measured_on: str | None,
    planned_with: str,
) -> None:
    if measured_on:
        (tmp_path / "dtype.json").write_text(json.dumps({"dtype": "x", "device": measured_on}))
    asked = {"device": device, "state_dir": tmp_path}
    assert memory.measured_memory(trainer.settings.model_copy(update=asked)).device == planned_with


def test_who_wants_the_cpu_is_not_measured_by_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    huge = SimpleNamespace(total_memory=1 << 60)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: huge)
    assert total_memory("cpu") < 1 << 60
    assert total_memory("auto") == 1 << 60


def test_who_draws_holds_memory_too_and_is_named_once(driver: Driver) -> None:
    assert memory.holders("cuda") == [(4, 9), (3, 1), (2, 5)]
    driver.silent["nvmlDeviceGetGraphicsRunningProcesses"] = pynvml.NVMLError_NotSupported
    assert memory.holders("cuda") == [(3, 1), (2, 5)]


@pytest.mark.parametrize("kind", ["NotSupported", "NoPermission"])
@pytest.mark.parametrize("name", ["MemoryInfo", "UtilizationRates", "Temperature", "PowerUsage"])
def test_what_a_gpu_does_not_tell_is_left_out(driver: Driver, name: str, kind: str) -> None:
    driver.silent[f"nvmlDeviceGet{name}"] = getattr(pynvml, f"NVMLError_{kind}")
    gpu.UP.labels(FIRST).set(0)
    gpu.measure_gpu(first())
    assert gpu.UP.labels(FIRST)._value.get() == 1


@pytest.mark.parametrize("name", ["Name", "MemoryInfo", "Temperature"])
async def test_a_gpu_that_does_not_answer_is_lost(driver: Driver, name: str) -> None:
    driver.silent[f"nvmlDeviceGet{name}"] = pynvml.NVMLError_GpuIsLost
    with pytest.raises(gpu.GpuLost):
        await asyncio.wait_for(gpu.watch_gpu(), 5)
    assert gpu.UP.labels(FIRST)._value.get() == 0

"""The GPU as NVML sees it: metrics, and a guard that ends the service when it is lost.

A GPU can vanish from a container while it runs ("Failed to initialize NVML"): nothing but a new
start attaches it again, and training must never go on on the CPU instead.
`python -m services.trainer.gpu` tells whether this image's torch can use the GPU it sees, as JSON.
"""

import asyncio
import json
import os
from contextlib import suppress
from typing import Any

import pynvml
from prometheus_client import Gauge

UP = Gauge("duramen_gpu_up", "1 if the GPU answers.", ["gpu"])
LOAD = Gauge("duramen_gpu_load_ratio", "Share of time in which the GPU computed.", ["gpu"])
MEMORY = Gauge("duramen_gpu_memory_used_bytes", "Memory in use, by all programs.", ["gpu"])
TOTAL = Gauge("duramen_gpu_memory_bytes", "Memory of the GPU.", ["gpu"])
HEAT = Gauge("duramen_gpu_temperature_celsius", "Temperature of the GPU.", ["gpu"])
POWER = Gauge("duramen_gpu_power_watts", "Electrical power of the GPU.", ["gpu"])
SECONDS = 5.0
FIRST = "0"  # of those that CUDA is given; without one there is no series at all
# What some do not tell (a part of a GPU, one of a virtual machine) does not make them lost.
NOT_TOLD = (pynvml.NVMLError_NotSupported, pynvml.NVMLError_NoPermission)


class GpuLost(Exception):
    """The GPU does not answer any more."""


def first() -> Any:
    """NVML's handle of the GPU that CUDA takes; NVML itself heeds no CUDA_VISIBLE_DEVICES. A part
    of a GPU (MIG) stands for the first whole one. Raises NVMLError, also where all are hidden."""
    pynvml.nvmlInit()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", FIRST).partition(",")[0].strip()
    if named.startswith("MIG"):
        named = FIRST
    if named.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(named))
    for index in range(pynvml.nvmlDeviceGetCount() if named.startswith("GPU-") else 0):
        device = pynvml.nvmlDeviceGetHandleByIndex(index)
        if plain(pynvml.nvmlDeviceGetUUID(device)).startswith(named):
            return device
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)


def plain(text: Any) -> str:
    """Older drivers' libraries give bytes."""
    return text.decode() if isinstance(text, bytes) else str(text)


async def watch() -> None:
    """Measure for ever. Raises GpuLost, so that the service ends and is started again."""
    try:
        device = first()
        while True:
            await asyncio.to_thread(measure, device)
            await asyncio.sleep(SECONDS)
    except pynvml.NVMLError as error:
        UP.labels(FIRST).set(0)
        raise GpuLost(f"the GPU is lost: {error}") from error


def measure(device: Any) -> None:
    """Read everything once. What a GPU does not tell is left out: it is up if it has a name."""
    pynvml.nvmlDeviceGetName(device)
    with suppress(*NOT_TOLD):
        memory = pynvml.nvmlDeviceGetMemoryInfo(device)
        MEMORY.labels(FIRST).set(memory.used)
        TOTAL.labels(FIRST).set(memory.total)
    with suppress(*NOT_TOLD):
        LOAD.labels(FIRST).set(pynvml.nvmlDeviceGetUtilizationRates(device).gpu / 100)
    with suppress(*NOT_TOLD):
        HEAT.labels(FIRST).set(pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU))
    with suppress(*NOT_TOLD):
        POWER.labels(FIRST).set(pynvml.nvmlDeviceGetPowerUsage(device) / 1000)
    UP.labels(FIRST).set(1)


def verdict() -> dict[str, Any]:
    """Whether torch can compute on the GPU, and why not."""
    import torch

    arches = torch.cuda.get_arch_list()
    found: dict[str, Any] = {"torch": torch.__version__, "driver": driver(), "usable": False}
    if not torch.cuda.is_available():
        why = f"torch for CUDA {torch.version.cuda} sees no GPU; is the driver new enough for it?"
        return {**found, "why": why}
    major, minor = torch.cuda.get_device_capability(0)
    found |= {"name": torch.cuda.get_device_name(0), "arch": f"sm_{major}{minor}"}
    try:
        float((torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")).sum())
    except RuntimeError as error:
        why = f"{found['arch']} is not among {', '.join(arches)}: {str(error).splitlines()[0]}"
        return {**found, "why": why}
    return {**found, "usable": True}


def driver() -> str:
    """The driver's version; empty where there is none."""
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""


if __name__ == "__main__":
    print(json.dumps(verdict()))

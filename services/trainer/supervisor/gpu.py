"""Measures the GPU through NVML, and ends the service when the GPU is lost.

A GPU can vanish from a container while it runs ("Failed to initialize NVML"): nothing but a new
start attaches it again, and training must never continue on the CPU instead.
"""

import asyncio
from contextlib import suppress
from typing import Any

import pynvml
from prometheus_client import Gauge

from services.trainer.nvml import FIRST, first

UP = Gauge("duramen_gpu_up", "1 if the GPU answers.", ["gpu"])
LOAD = Gauge("duramen_gpu_load_ratio", "Share of time in which the GPU computed.", ["gpu"])
MEMORY_USED = Gauge("duramen_gpu_memory_used_bytes", "Memory in use, by all programs.", ["gpu"])
TOTAL = Gauge("duramen_gpu_memory_bytes", "Memory of the GPU.", ["gpu"])
HEAT = Gauge("duramen_gpu_temperature_celsius", "Temperature of the GPU.", ["gpu"])
POWER = Gauge("duramen_gpu_power_watts", "Electrical power of the GPU.", ["gpu"])
GPU_SECONDS = 5.0
# Some GPUs do not tell everything (a part of a GPU, one in a virtual machine); they are not lost.
NOT_TOLD = (pynvml.NVMLError_NotSupported, pynvml.NVMLError_NoPermission)


class GpuLost(Exception):
    """The GPU no longer answers."""


async def watch_gpu() -> None:
    """Measure the GPU every GPU_SECONDS, without end.

    Raises GpuLost when it does not answer, so that the service ends and is started again.
    """
    try:
        device = first()
        while True:
            await asyncio.to_thread(measure_gpu, device)
            await asyncio.sleep(GPU_SECONDS)
    except pynvml.NVMLError as error:
        UP.labels(FIRST).set(0)
        raise GpuLost(f"the GPU is lost: {error}") from error


def measure_gpu(device: Any) -> None:
    """Read everything once, and leave out what the GPU does not tell: it is up if it has a name."""
    pynvml.nvmlDeviceGetName(device)
    with suppress(*NOT_TOLD):
        memory = pynvml.nvmlDeviceGetMemoryInfo(device)
        MEMORY_USED.labels(FIRST).set(memory.used)
        TOTAL.labels(FIRST).set(memory.total)
    with suppress(*NOT_TOLD):
        LOAD.labels(FIRST).set(pynvml.nvmlDeviceGetUtilizationRates(device).gpu / 100)
    with suppress(*NOT_TOLD):
        HEAT.labels(FIRST).set(pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU))
    with suppress(*NOT_TOLD):
        POWER.labels(FIRST).set(pynvml.nvmlDeviceGetPowerUsage(device) / 1000)
    UP.labels(FIRST).set(1)

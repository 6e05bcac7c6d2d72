"""Which number format trains fastest here: one second of matrix products, measured, not assumed.

`python -m services.trainer.dtype` prints one JSON object. bfloat16 is *slower* than float32 on
most CPUs, those without matrix units for it.
"""

import json
import os
import platform
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pynvml

from services.trainer import gpu

SIZE = 1024  # rows and columns
SECONDS = 0.5  # for each format


def flops(dtype: Any, device: str) -> float:
    """Floating point operations a second of a [SIZE, SIZE] matrix product."""
    import torch

    a = torch.randn(SIZE, SIZE, device=device).to(dtype)
    b = torch.randn(SIZE, SIZE, device=device).to(dtype)
    for _ in range(2):  # the first calls set up threads and kernels
        a @ b
    synchronize(device)
    products, began = 0, time.monotonic()
    while time.monotonic() - began < SECONDS:
        a @ b
        synchronize(device)
        products += 1
    return products * 2.0 * SIZE**3 / (time.monotonic() - began)


def synchronize(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def here(wanted: str) -> dict[str, str]:
    """What a measurement holds for, told without torch: the supervisor asks at each start."""
    name = gpu_name() if wanted != "cpu" else ""
    return {
        "device": "cuda" if name else "cpu",
        "name": name or cpu_name(),
        "torch": version("torch"),
    }


def file_in(state_dir: Path) -> Path:
    """Return where the last measurement is kept."""
    return state_dir / "dtype.json"


def holds(kept: Path, wanted: str) -> bool:
    """Whether an earlier measurement was made on what is here now."""
    if not kept.exists():
        return False
    found: dict[str, Any] = json.loads(kept.read_bytes())
    return found.get("here") == here(wanted)


def gpu_name() -> str:
    """Of the GPU that CUDA takes; empty without one."""
    try:
        return gpu.plain(pynvml.nvmlDeviceGetName(gpu.first()))
    except pynvml.NVMLError:
        return ""


def cpu_name() -> str:
    """Its model where Linux tells it, else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()


def measure() -> dict[str, Any]:
    """Raises SystemExit if a GPU is wanted and torch can use none: the CPU never stands in."""
    import torch

    wanted = os.environ.get("DURAMEN_DEVICE", "auto")
    usable = torch.cuda.is_available()
    if wanted == "cuda" and not usable:
        raise SystemExit(
            "DURAMEN_DEVICE=cuda, but torch can use no GPU here: "
            "`python -m services.trainer.gpu` says why"
        )
    device = "cuda" if usable and wanted != "cpu" else "cpu"
    single = flops(torch.float32, device)
    half = flops(torch.bfloat16, device)
    if device == "cuda":
        # On a GPU memory decides, not only speed: half the bytes for the frozen weights.
        chosen = "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    else:
        chosen = "bfloat16" if half > 1.5 * single else "float32"
    return {
        "dtype": chosen,
        "here": here(wanted),  # not what was used: torch may be unable to use what is here
        "device": device,
        "float32_flops": single,
        "bfloat16_flops": half,
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    print(json.dumps(measure()))

"""Measures which number format multiplies fastest here, by one second of matrix products.

`python -m services.trainer.worker.number_format auto|cuda|cpu` prints one JSON object. bfloat16 is
*slower* than float32 on most CPUs, namely those without matrix units for it.
"""

import json
import os
import sys
import time
from typing import Any

from services.trainer.device import here

SIZES = {"cpu": 1024, "cuda": 4096}  # rows and columns: a smaller one leaves most of a GPU idle

FORMAT_SECONDS = 0.5  # for each format


def flops(dtype: Any, device: str) -> float:
    """Return the floating-point operations per second of products of two square matrices."""
    import torch

    size = SIZES[device]
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    for _ in range(2):  # the first calls set up threads and kernels
        a @ b
    synchronize(device)
    products, began = 0, time.monotonic()
    while time.monotonic() - began < FORMAT_SECONDS:
        a @ b
        synchronize(device)
        products += 1
    return products * 2.0 * size**3 / (time.monotonic() - began)


def synchronize(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def measure_formats(wanted: str) -> dict[str, Any]:
    """Return the format to use on the wanted device, and what it was measured on.

    Raises RuntimeError if `cuda` is wanted and torch can use no GPU.
    """
    import torch

    from services.model.device import choose_device

    device = choose_device(wanted).type
    single = flops(torch.float32, device)
    half = flops(torch.bfloat16, device)
    if device == "cuda":
        # On a GPU memory matters as well as speed: bfloat16 halves the frozen weights' bytes.
        chosen = "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    else:
        chosen = "bfloat16" if half > 1.5 * single else "float32"
    return {
        "dtype": chosen,
        "here": here(wanted),  # may differ from `device`: torch may be unable to use the GPU
        "device": device,
        "float32_flops": single,
        "bfloat16_flops": half,
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        print(json.dumps(measure_formats(*sys.argv[1:])))
    except RuntimeError as error:
        sys.exit(str(error))

"""The device that torch computes on, and how much memory it has."""

import torch

from shared.host import machine_memory


def choose_device(wanted: str) -> torch.device:
    """Return the GPU if torch can use one and `cpu` is not wanted, else the CPU.

    Raises RuntimeError if `cuda` is wanted and torch can use no GPU: the CPU never replaces it.
    """
    usable = torch.cuda.is_available()
    if wanted == "cuda" and not usable:
        raise RuntimeError(
            "DURAMEN_DEVICE=cuda, but torch can use no GPU here: "
            "`python -m services.trainer.worker.gpu_check` says why"
        )
    return torch.device("cuda" if usable and wanted != "cpu" else "cpu")


def total_memory(wanted: str) -> int:
    """Return the memory of the chosen device in bytes: the GPU's, or this machine's.

    The machine's is counted as far as its container may use it.
    """
    if choose_device(wanted).type == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return machine_memory().total

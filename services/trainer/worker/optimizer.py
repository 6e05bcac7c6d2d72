"""The optimizer: its rate at each step, its state as named tensors, and the micro-batch's seed.

All of it is a function of counters and settings, or is saved and restored bit for bit.
"""

import hashlib
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.model.network import Network
from shared.errors import CannotTrain
from shared.formats.adapter import Tensors
from shared.formats.plan import TrainingSettings

LOWEST_RATE = 0.1  # at the end of a job, as a share of the learning rate


def make_optimizer(network: Network, settings: TrainingSettings) -> torch.optim.AdamW:
    """Return AdamW over the adapter; moments of the frozen base would only cost memory."""
    return torch.optim.AdamW(
        list(network.adapter.values()),
        lr=settings.learning_rate,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=settings.weight_decay,
    )


def update(optimizer: torch.optim.AdamW, rate: float) -> None:
    """Make one update at this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def optimizer_state(network: Network, optimizer: torch.optim.AdamW) -> dict[str, NDArray[Any]]:
    """Return Adam's moments and step counts, float32, by the adapter's names.

    They are zeros before the first update.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for name, parameter in network.adapter.items():
        state = optimizer.state.get(parameter, {})
        for field in ("exp_avg", "exp_avg_sq", "step"):
            value = state.get(field)
            if value is None:
                shape = () if field == "step" else tuple(parameter.shape)
                tensors[f"{name}.{field}"] = np.zeros(shape, np.float32)
            else:
                tensors[f"{name}.{field}"] = value.detach().cpu().numpy().copy()
    return tensors


def restore_optimizer(network: Network, optimizer: torch.optim.AdamW, tensors: Tensors) -> None:
    """Restore saved moments and step counts, bit for bit.

    Raises CannotTrain (checkpoint) if a moment is missing or has another shape.
    """
    fields = ("exp_avg", "exp_avg_sq", "step")
    if set(tensors) != {f"{n}.{f}" for n in network.adapter for f in fields}:
        raise CannotTrain("checkpoint", "The checkpoint's optimizer belongs to another adapter.")
    for name, parameter in network.adapter.items():
        state = {f: torch.tensor(tensors[f"{name}.{f}"]) for f in fields}
        if state["exp_avg"].shape != parameter.shape:
            raise CannotTrain("checkpoint", f"The optimizer's {name} has another shape.")
        # The step count stays on the CPU, as AdamW keeps it.
        moments = {f: v if f == "step" else v.to(parameter.device) for f, v in state.items()}
        optimizer.state[parameter] = moments


def learning_rate(settings: TrainingSettings, global_step: int, position: int, steps: int) -> float:
    """Return the learning rate of a step from its place alone: resuming needs no other state.

    It rises linearly in a warm-up, once for the whole lineage. Then it is `constant`, which needs
    no known end and suits an endless queue; or it falls to a tenth at the end of each job of
    `steps` steps: by a `cosine` over the whole job, or linearly over its last `cooldown_fraction`
    (`wsd`: warm-up, stable, decay).
    """
    warm = 1.0
    if settings.warmup_steps > 0:
        warm = min(1.0, (global_step + 1) / settings.warmup_steps)
    done = position / max(1, steps - 1)  # 0 at the first step of the job, 1 at the last
    height = 1.0
    if settings.schedule == "cosine":
        height = 0.5 * (1.0 + math.cos(math.pi * done))
    elif settings.schedule == "wsd":
        height = min(1.0, (1.0 - done) / settings.cooldown_fraction)
    return settings.learning_rate * warm * (LOWEST_RATE + (1.0 - LOWEST_RATE) * height)


def mix(seed: int, global_step: int, micro: int) -> int:
    """Return the seed of one micro-batch, a number of 63 bits.

    It is a hash, so that neighbouring places get unrelated seeds: seed + step would give step 1 of
    one lineage the dropout of step 0 of another.
    """
    digest = hashlib.sha256(f"{seed}/{global_step}/{micro}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

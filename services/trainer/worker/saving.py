"""Checkpoints of a run: when they are due, what is in them, and how training resumes from one."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.model.environment import library_versions
from services.model.lora import adapter_config
from services.model.network import Network
from services.model.out_of_memory import is_out_of_memory
from services.trainer import checkpoint
from services.trainer.protocol import CheckpointSaved, Spec, TrainingPlace
from services.trainer.worker.data.plan import Material
from services.trainer.worker.optimizer import optimizer_state, restore_optimizer
from services.trainer.worker.pipe import SupervisorLink
from shared.errors import CannotTrain
from shared.formats.checkpoint import Header


class Saving:
    """Saves checkpoints when they are due and reports them; nothing is saved twice."""

    def __init__(
        self,
        spec: Spec,
        material: Material,
        network: Network,
        optimizer: torch.optim.AdamW,
        metrics: Any,
        supervisor: SupervisorLink,
    ) -> None:
        self.spec, self.material = spec, material
        self.network, self.optimizer = network, optimizer
        self.metrics, self.supervisor = metrics, supervisor
        self.saved: CheckpointSaved | None = None
        self.saved_at = time.monotonic()

    @property
    def kept(self) -> CheckpointSaved:
        """The last checkpoint that was saved."""
        assert self.saved is not None
        return self.saved

    def serve(self, at: TrainingPlace, *, ending: bool, asked: bool) -> None:
        """Save at the end, at regular intervals, or when asked; a request is always answered."""
        due = time.monotonic() - self.saved_at >= self.spec.checkpoint_seconds
        if (ending or due or asked) and not self.keep(at) and asked and self.saved is not None:
            self.supervisor.emit(self.saved)

    def keep(self, at: TrainingPlace) -> bool:
        """Save what has been trained and report it; return False if it was saved before."""
        if self.saved is not None and self.saved.position == at.position:
            return False
        # The metrics of these steps must be on disk before the checkpoint that contains the steps.
        os.fsync(self.metrics.fileno())
        began = time.monotonic()
        path, checkpoint_id = save(self.spec, self.material, self.network, self.optimizer, at)
        self.saved_at = time.monotonic()
        self.saved = CheckpointSaved(
            path=path,
            id=checkpoint_id,
            global_step=at.global_step,
            position=at.position,
            write_seconds=self.saved_at - began,
        )
        self.supervisor.emit(self.saved)
        return True

    @contextmanager
    def first(self, at: TrainingPlace) -> Iterator[None]:
        """Save if memory runs out inside, then raise the error again: no weight has changed yet."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                self.keep(at)
            raise


def restore_checkpoint(
    spec: Spec, material: Material, network: Network, optimizer: torch.optim.AdamW
) -> None:
    """Restore adapter and optimizer from `spec.checkpoint`, if there is one.

    Raises CannotTrain (checkpoint), which names what differs.
    """
    if spec.checkpoint is None:
        return
    found = checkpoint.load(spec.checkpoint)
    expected: dict[str, Any] = {
        "lineage": spec.lineage,
        "base_root": spec.base_root,
        "lora": spec.lora,
        "dtype": spec.dtype,
        "quantize": spec.quantize,
        "global_step": spec.start.global_step,
    }
    if found.header.job == spec.job:
        expected.update(plan=material.sha256, position=spec.start.position)
    differences = checkpoint.difference(found.header, expected)
    if differences:
        raise CannotTrain(
            "checkpoint",
            f"{spec.checkpoint.name} was not made by this job: {'; '.join(differences)}",
        )
    network.restore(found.adapter)
    restore_optimizer(network, optimizer, found.optimizer)
    report_environment(found.header, spec, network)


def report_environment(header: Header, spec: Spec, network: Network) -> None:
    """Write to the job's log every change that may make results differ in bits from before."""
    was, now = header.environment.model_dump(), library_versions(network.device)
    changed = [f"{k} was {was[k]}, is {now[k]}" for k in now if was[k] != now[k]]
    if header.micro_tokens != spec.micro_tokens:
        changed.append(f"micro_tokens was {header.micro_tokens}, is {spec.micro_tokens}")
    if changed:
        print(f"continued, not bit-identical: {'; '.join(changed)}", file=sys.stderr, flush=True)


def save(
    spec: Spec,
    material: Material,
    network: Network,
    optimizer: torch.optim.AdamW,
    at: TrainingPlace,
) -> tuple[Path, str]:
    """Write a checkpoint and remove old ones; return its folder and its id.

    Raises CannotTrain (nan): weights that are not finite numbers are never saved.
    """
    adapter = network.state()
    if not all(np.isfinite(values).all() for values in adapter.values()):
        raise CannotTrain(
            "nan",
            f"The adapter is not finite after step {at.position}. Lower the learning rate "
            f"(now {material.plan.settings.learning_rate:g}).",
            suspect=True,
        )
    path, written = checkpoint.write_checkpoint(
        spec.checkpoint_dir,
        header(spec, material, network, at),
        adapter,
        optimizer_state(network, optimizer),
        adapter_config(network.model),
    )
    checkpoint.prune_checkpoints(spec.checkpoint_dir, spec.segment, keep=spec.checkpoint)
    return path, written.id


def header(spec: Spec, material: Material, network: Network, at: TrainingPlace) -> dict[str, Any]:
    """Return the fields of a checkpoint's header, except `tensors` and `files`."""
    return {
        "lineage": spec.lineage,
        "segment": spec.segment,
        "fence": spec.fence,
        "job": spec.job,
        "plan": material.sha256,
        "position": at.position,
        "global_step": at.global_step,
        "base_root": spec.base_root,
        "seed": material.plan.settings.seed,
        "lora": spec.lora,
        "dtype": spec.dtype,
        "quantize": spec.quantize,
        "micro_tokens": spec.micro_tokens,
        "environment": library_versions(network.device),
    }

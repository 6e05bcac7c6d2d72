"""The training loop. Everything that happens to the weights happens in `train`.

A step is one optimizer update on one batch of the plan. Conversations are packed without padding,
attention keeps them apart, the head is applied only where there is a label. The batch, the learning
rate and the randomness of a step are functions of (plan, seed, global_step), so training can stop
behind any step and go on in another process with the same bits.
"""

import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import orjson
import torch
from numpy.typing import NDArray

from services.trainer import checkpoint
from services.trainer.attention import pack
from services.trainer.checkpoint import Tensors
from services.trainer.environment import environment
from services.trainer.lora import adapter_config
from services.trainer.memory import is_out_of_memory, smaller
from services.trainer.metrics import open_metrics, write_whole
from services.trainer.model import Network
from services.trainer.plan import Material
from services.trainer.snapshot import Snapshots
from services.trainer.spec import Failure, Spec, TrainingSettings
from services.trainer.template import Encoded


class Line(Protocol):
    """The supervisor at the other end. `take`: the commands since it was last asked."""

    def emit(self, event: dict[str, Any]) -> None: ...

    def take(self) -> set[str]: ...

    def leaving(self) -> bool: ...


BAD_STEPS = 3  # in a row
NAMED_LINES = 20  # in a message
LOWEST_RATE = 0.1  # at the end of a job, as a share of the learning rate


def train(  # noqa: C901, PLR0912, PLR0915  # one straight line, to be read from top to bottom
    spec: Spec,
    material: Material,
    network: Network,
    optimizer: torch.optim.AdamW,
    snapshots: Snapshots,
    line: Line,
) -> dict[str, Any]:
    """Train from `spec.start` to the end of the plan or until told to finish; the `end` event.

    Commands are obeyed between steps. Raises Failure (nan) after three steps in a row without a
    finite gradient. Where memory runs out, what is trained is saved before the error goes on.
    """
    settings, steps = material.plan.settings, material.plan.steps
    position, global_step = spec.start.position, spec.start.global_step
    metrics, past = open_metrics(spec.metrics, position)
    parameters = list(network.adapter.values())
    # What a kill must not change: when bad steps are too many, and what looking has cost.
    bad, train_seconds, timed = past.bad, past.train_seconds, past.steps
    snapshots.governor.spent_seconds = past.snapshot_seconds
    last_saved = time.monotonic()
    saved: dict[str, Any] | None = None
    outcome = "done"

    def keep() -> bool:
        """Save what is trained and say so; False if it was saved before."""
        nonlocal saved, last_saved
        if saved is not None and saved["position"] == position:
            return False
        os.fsync(metrics.fileno())
        began = time.monotonic()
        saved = save(spec, material, network, optimizer, position, global_step)
        last_saved = time.monotonic()
        line.emit({"event": "checkpoint", **saved, "write_seconds": last_saved - began})
        return True

    while True:
        wanted = line.take()
        if "finish" in wanted and position < len(steps):
            outcome = "interrupted"
        ending = position == len(steps) or outcome == "interrupted"
        cadence = time.monotonic() - last_saved >= spec.checkpoint_seconds
        # What is trained is saved before anything else is done with it.
        wants = "checkpoint" in wanted
        if (ending or cadence or wants) and not keep() and wants and saved is not None:
            line.emit({"event": "checkpoint", **saved})
        if outcome != "interrupted":
            last = position == len(steps)
            job_step = position - spec.start.job_steps_from
            asked = "snapshot" in wanted
            decision = snapshots.decide(job_step, train_seconds, last=last, asked=asked)
            if decision is not None:
                told: dict[str, Any] | None = decision.told
                if decision.size is not None:
                    each = train_seconds / max(1, timed)
                    # Who wants to pause waits for no snapshot, but the last one is always taken.
                    leave = (lambda: False) if last else line.leaving
                    try:
                        with saved_first(keep):
                            taken = snapshots.take(
                                decision, job_step, position, global_step, each, leave
                            )
                        told = taken["decision"] if taken is not None else None
                        if taken is not None:
                            line.emit(taken)
                    except (MemoryError, RuntimeError) as error:
                        # Where a smaller micro-batch is left, looking takes less with it, too.
                        out = is_out_of_memory(error)
                        if not out or may_be_halved(material, spec.micro_tokens):
                            raise
                        decision = snapshots.governor.give_up(decision, job_step)
                        told = decision.told
                if decision.size is None:
                    line.emit({"event": "snapshot_skipped", "decision": told, "asked": asked})
                if told is not None:
                    at = {"position": position, "global_step": global_step}
                    write_whole(metrics, orjson.dumps({**at, "snapshot": told}) + b"\n")
        if ending:
            break

        began = time.monotonic()
        rows = steps[position]
        micros = split(rows, material.rows, spec.micro_tokens)
        labels = sum(material.rows[r].labels for r in rows)
        rate = learning_rate(settings, global_step, position, len(steps))
        row_losses: dict[int, float] = {}
        loss_sum = 0.0
        with saved_first(keep):
            for micro, part in enumerate(micros):
                # Dropout is a function of where we are, not a state to carry along.
                torch.manual_seed(mix(settings.seed, global_step, micro))
                batch = pack([material.rows[r] for r in part], network.device)
                total, losses = network.loss(batch, settings.neftune_alpha)
                # The mean is over the labels of the whole step, however it was cut to fit.
                torch.autograd.backward(total / labels)
                loss_sum += float(total.detach())
                for row, own in zip(part, torch.split(losses, batch.labels), strict=True):
                    row_losses[row] = float(own.mean())
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, settings.clip))
        skipped = not (math.isfinite(norm) and math.isfinite(loss_sum))
        if skipped:
            # The rows whose own loss is no number did it; if none is, the gradient's overflow did.
            bad.append(tuple(r for r in rows if not math.isfinite(row_losses[r])) or rows)
        else:
            bad.clear()
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        position, global_step = position + 1, global_step + 1
        seconds = time.monotonic() - began
        train_seconds, timed = train_seconds + seconds, timed + 1

        event = {
            "position": position,
            "steps": len(steps),
            "global_step": global_step,
            "loss": finite(loss_sum / labels),
            "tokens": sum(len(material.rows[r]) for r in rows),
            "trained_tokens": labels,
            "seconds": seconds,
            "micro_tokens": spec.micro_tokens,
            "micro_batches": len(micros),
            "learning_rate": rate,
            "gradient_norm": finite(norm),
            "skipped": skipped,
        }
        rows_seen = [
            {"row": r, "id": material.row_ids[r], "loss": finite(row_losses[r])} for r in rows
        ]
        spent = {"snapshot_seconds": snapshots.governor.spent_seconds}
        write_whole(metrics, orjson.dumps({**event, **spent, "rows": rows_seen}) + b"\n")
        line.emit({"event": "step", **event})
        if len(bad) >= min(BAD_STEPS, len(steps)):
            raise not_finite(bad, settings)

    metrics.close()
    assert saved is not None
    return {"event": "end", "outcome": outcome, "checkpoint": saved}


@contextmanager
def saved_first(keep: Callable[[], object]) -> Iterator[None]:
    """Where memory runs out inside, nothing of the weights has changed yet: save, then raise."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            keep()
        raise


def may_be_halved(material: Material, micro_tokens: int) -> bool:
    """Whether to halve it, again and again, would cut any step of the plan into smaller parts."""
    least = micro_tokens
    while (half := smaller(least)) is not None:
        least = half
    return any(
        len(split(rows, material.rows, least)) > len(split(rows, material.rows, micro_tokens))
        for rows in material.plan.steps
    )


def split(
    rows: Sequence[int], encoded: Mapping[int, Encoded], micro_tokens: int
) -> list[list[int]]:
    """Cut a step into micro-batches of at most `micro_tokens`; a longer row stands alone."""
    parts: list[list[int]] = []
    size = 0
    for row in rows:
        tokens = len(encoded[row])
        if not parts or size + tokens > micro_tokens:
            parts.append([])
            size = 0
        parts[-1].append(row)
        size += tokens
    return parts


def learning_rate(settings: TrainingSettings, global_step: int, position: int, steps: int) -> float:
    """The rate of a step: a function of where it is, so that resuming needs no other state.

    Linear warm-up, once for the whole lineage. Then `constant`, which needs no horizon and suits a
    queue without end; or down to a tenth at the end of each job of `steps` steps: by a `cosine`
    over all of it, or straight over its last `cooldown_fraction` (`wsd`: warm-up, stable, decay).
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


def not_finite(bad: Sequence[tuple[int, ...]], settings: TrainingSettings) -> Failure:
    """What to say after too many steps without a finite loss and gradient."""
    lines = ", ".join(str(r + 1) for r in sorted({r for rows in bad for r in rows})[:NAMED_LINES])
    return Failure(
        "nan",
        f"The loss or its gradient was not a finite number in {len(bad)} steps in a row; "
        f"the lines of the dataset that did it: {lines}. Lower the learning rate "
        f"(now {settings.learning_rate:g}), or look at these lines: duramen show-example.",
        suspect=True,
    )


def mix(seed: int, global_step: int, micro: int) -> int:
    digest = hashlib.sha256(f"{seed}/{global_step}/{micro}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def finite(number: float) -> float | None:
    """JSON has no NaN."""
    return number if math.isfinite(number) else None


def make_optimizer(network: Network, settings: TrainingSettings) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        list(network.adapter.values()),
        lr=settings.learning_rate,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=settings.weight_decay,
    )


def optimizer_state(network: Network, optimizer: torch.optim.AdamW) -> dict[str, NDArray[Any]]:
    """Adam's moments and step count, float32, by the adapter's names; zeros before step 1."""
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
    """Raises Failure (checkpoint) if a moment is missing or has another shape."""
    fields = ("exp_avg", "exp_avg_sq", "step")
    if set(tensors) != {f"{n}.{f}" for n in network.adapter for f in fields}:
        raise Failure("checkpoint", "The checkpoint's optimizer belongs to another adapter.")
    for name, parameter in network.adapter.items():
        state = {f: torch.tensor(tensors[f"{name}.{f}"]) for f in fields}
        if state["exp_avg"].shape != parameter.shape:
            raise Failure("checkpoint", f"The optimizer's {name} has another shape.")
        # The step count stays on the CPU, as AdamW keeps it.
        moments = {f: v if f == "step" else v.to(parameter.device) for f, v in state.items()}
        optimizer.state[parameter] = moments


def resume(spec: Spec, material: Material, network: Network, optimizer: torch.optim.AdamW) -> None:
    """Go on from `spec.checkpoint`. Raises Failure (checkpoint), showing what differs."""
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
        raise Failure("checkpoint", f"{spec.checkpoint.name} is not ours: {'; '.join(differences)}")
    network.restore(found.adapter)
    restore_optimizer(network, optimizer, found.optimizer)
    report_environment(found.header, spec, network)


def report_environment(header: checkpoint.Header, spec: Spec, network: Network) -> None:
    was, now = header.environment.model_dump(), environment(network.device)
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
    position: int,
    global_step: int,
) -> dict[str, Any]:
    """Write a checkpoint, remove old ones; {path, id, global_step, position}.

    Raises Failure (nan): weights that are no numbers are never saved.
    """
    adapter = network.state()
    if not all(np.isfinite(values).all() for values in adapter.values()):
        raise Failure(
            "nan",
            f"The adapter is not finite after step {position}. Lower the learning rate "
            f"(now {material.plan.settings.learning_rate:g}).",
            suspect=True,
        )
    header = {
        "lineage": spec.lineage,
        "segment": spec.segment,
        "fence": spec.fence,
        "job": spec.job,
        "plan": material.sha256,
        "position": position,
        "global_step": global_step,
        "base_root": spec.base_root,
        "seed": material.plan.settings.seed,
        "lora": spec.lora,
        "dtype": spec.dtype,
        "quantize": spec.quantize,
        "micro_tokens": spec.micro_tokens,
        "environment": environment(network.device),
    }
    path, written = checkpoint.write(
        spec.checkpoint_dir,
        header,
        adapter,
        optimizer_state(network, optimizer),
        adapter_config(network.model),
    )
    checkpoint.prune(spec.checkpoint_dir, spec.segment, keep=spec.checkpoint)
    return {
        "path": str(path),
        "id": written.id,
        "global_step": global_step,
        "position": position,
    }

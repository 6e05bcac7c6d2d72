"""The training loop. Everything that happens to the weights happens here.

A step is one optimizer update on one batch of the plan. Conversations are packed without padding,
attention keeps them apart, the head is applied only where there is a label. The batch, the learning
rate and the randomness of a step are functions of (plan, seed, global_step), so training can stop
after any step and resume in another process, bit for bit.
"""

import functools
import math
import operator
import time
from collections.abc import Sequence
from typing import Any

import torch

from services.model.attention import Batch, pack
from services.model.encoded import Encoded
from services.model.network import Network
from services.trainer.protocol import Spec, StepDone, TrainingEnded, TrainingPlace
from services.trainer.worker.data.plan import Material
from services.trainer.worker.metrics import open_metrics, write_line
from services.trainer.worker.micro_batches import split
from services.trainer.worker.optimizer import learning_rate, mix, update
from services.trainer.worker.pipe import SupervisorLink
from services.trainer.worker.saving import Saving
from services.trainer.worker.snapshot.snapshot import Snapshots
from shared.errors import CannotTrain
from shared.formats.metrics import MetricsLine
from shared.formats.plan import TrainingSettings

BAD_STEPS = 3  # in a row
NAMED_LINES = 20  # in a message


def train(
    spec: Spec,
    material: Material,
    network: Network,
    optimizer: torch.optim.AdamW,
    snapshots: Snapshots,
    supervisor: SupervisorLink,
) -> TrainingEnded:
    """Train from `spec.start` until the plan ends or a stop is requested; return the end event.

    Commands are obeyed between steps. Raises CannotTrain (nan) after three steps in a row (or all
    steps of a shorter plan) without a finite loss and gradient.
    """
    settings, steps = material.plan.settings, material.plan.steps
    at = TrainingPlace(spec.start.position, spec.start.global_step)
    # Read back from the metrics, so that a kill changes neither the count of bad steps in a row
    # nor what snapshots have cost.
    metrics, past = open_metrics(spec.metrics, at.position)
    snapshots.governor.spent_seconds = past.snapshot_seconds
    saving = Saving(spec, material, network, optimizer, metrics, supervisor)
    while True:
        wanted = supervisor.take()
        last = at.position == len(steps)
        # Once all steps are done there is nothing left to stop: the job ends as done.
        stopped = wanted.stop is not None and not last
        # Save what has been trained before doing anything else with it.
        saving.serve(at, ending=last or stopped, asked=wanted.checkpoint)
        # A stop does not wait for a snapshot: whoever asked for it wants the worker to end.
        if not stopped:
            told = snapshots.due(at, past, supervisor, saving, asked=wanted.snapshot, last=last)
            if told is not None:
                write_line(metrics, {**at._asdict(), "snapshot": told})
        if last or stopped:
            break

        began = time.monotonic()
        rows = steps[at.position]
        parts = split(rows, material.rows, spec.micro_tokens)
        rate = learning_rate(settings, at.global_step, at.position, len(steps))
        examples = [[material.rows[r] for r in part] for part in parts]
        # The one place where the host waits for the device. If memory runs out in here, a
        # checkpoint is saved first; then the error is raised again.
        with saving.first(at):
            norm, *numbers = gradient(network, settings, examples, at.global_step).tolist()
        # Added one by one: from Python 3.12 on, sum() rounds differently.
        loss_sum = functools.reduce(operator.add, numbers[: len(parts)])
        skipped = not (math.isfinite(norm) and math.isfinite(loss_sum))
        if not skipped:  # a NaN would stay in the optimizer's moments forever
            update(optimizer, rate)
        optimizer.zero_grad(set_to_none=True)

        # A skipped step counts too: seeds and file names are made from global_step, and the newest
        # checkpoint is found by it, so each position in the plan needs a number of its own.
        at = TrainingPlace(at.position + 1, at.global_step + 1)
        labels = sum(material.rows[r].labels for r in rows)
        event = StepDone(
            position=at.position,
            steps=len(steps),
            global_step=at.global_step,
            loss=finite_number(loss_sum / label_weight(examples)),
            tokens=sum(len(material.rows[r]) for r in rows),
            trained_tokens=labels,
            seconds=time.monotonic() - began,
            micro_tokens=spec.micro_tokens,
            micro_batches=len(parts),
            learning_rate=rate,
            gradient_norm=finite_number(norm),
            skipped=skipped,
        )
        step = event.model_dump(exclude={"event"})
        step["snapshot_seconds"] = snapshots.governor.spent_seconds
        step["rows"] = losses_by_row(material, rows, numbers[len(parts) :])
        write_line(metrics, step)
        past.take(MetricsLine.model_validate(step))
        supervisor.emit(event)
        if len(past.bad) >= min(BAD_STEPS, len(steps)):
            raise not_finite(past.bad, settings)

    metrics.close()
    return TrainingEnded(reason=None if last else wanted.stop, checkpoint=saving.kept)


def losses_by_row(
    material: Material, rows: Sequence[int], losses: Sequence[float]
) -> list[dict[str, Any]]:
    """Return the loss of each row of a step, as metrics.jsonl has it."""
    return [
        {"row": r, "id": material.row_ids[r], "loss": finite_number(loss)}
        for r, loss in zip(rows, losses, strict=True)
    ]


def gradient(
    network: Network,
    settings: TrainingSettings,
    parts: Sequence[Sequence[Encoded]],
    global_step: int,
) -> torch.Tensor:
    """Compute the clipped gradient of one step, given as micro-batches, into the adapter.

    Returns float32 [1 + micro-batches + rows], on the device: the norm before clipping, the sum of
    losses of each micro-batch, the mean loss of each row. Nothing here asks the device for a
    number, so the host stays ahead and the device never idles (tests/unit/test_waiting_for_none).
    """
    weight = label_weight(parts)
    sums: list[torch.Tensor] = []
    means: list[torch.Tensor] = []
    for micro, part in enumerate(parts):
        # Dropout and noise depend only on the place in training; no generator state is carried on.
        torch.manual_seed(mix(settings.seed, global_step, micro))
        batch = pack(part, network.device)
        total, losses = network.loss(batch, settings.neftune_alpha)
        # The mean is over the labels of the whole step, however it was split to fit: a mean of
        # means gives short micro-batches more weight. A label counts as much as its factor.
        torch.autograd.backward(total / weight)
        sums.append(total.detach())
        means += means_of(losses, batch)
    # One unusual batch must not undo what many others have taught (arXiv 1211.5063).
    norm = torch.nn.utils.clip_grad_norm_(list(network.adapter.values()), settings.clip)
    return torch.stack([norm, *sums, *means])


def label_weight(parts: Sequence[Sequence[Encoded]]) -> float:
    """Return the sum of the factors of a step's labels: their count where every factor is 1."""
    return math.fsum(example.label_weight for part in parts for example in part)


def means_of(losses: torch.Tensor, batch: Batch) -> list[torch.Tensor]:
    """Return the mean loss of each example of a batch, in which labels count by their factors."""
    own = torch.split(losses, batch.labels)
    if batch.factors is None:
        return [part.mean() for part in own]
    factors = torch.split(batch.factors, batch.labels)
    return [(part * f).sum() / f.sum() for part, f in zip(own, factors, strict=True)]


def not_finite(bad: Sequence[tuple[int, ...]], settings: TrainingSettings) -> CannotTrain:
    """Return the error to raise after too many steps in a row without finite loss and gradient."""
    lines = ", ".join(str(r + 1) for r in sorted({r for rows in bad for r in rows})[:NAMED_LINES])
    return CannotTrain(
        "nan",
        f"The loss or its gradient was not a finite number in {len(bad)} steps in a row; "
        f"the lines of the dataset that did it: {lines}. Lower the learning rate "
        f"(now {settings.learning_rate:g}), or look at these lines: duramen show-example.",
        suspect=True,
    )


def finite_number(number: float) -> float | None:
    """Return the number, or None if it is not finite: JSON has no NaN."""
    return number if math.isfinite(number) else None

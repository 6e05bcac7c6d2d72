"""The Prometheus metrics that are set from a worker's events."""

from prometheus_client import Counter, Gauge, Histogram
from pydantic import JsonValue

from services.trainer.protocol import PlanReady, SnapshotTaken, StepDone

LOSS = Gauge("duramen_train_loss", "Mean loss per trained token at the last step.")
GLOBAL_STEP = Gauge("duramen_train_global_step", "Optimizer updates of the lineage so far.")
LEARNING_RATE = Gauge("duramen_train_learning_rate", "Learning rate at the last step.")
GRADIENT = Gauge("duramen_train_gradient_norm", "Norm of the gradient before clipping.")
TOKENS = Counter("duramen_train_tokens_total", "Tokens through the model in training.")
TRAINED = Counter("duramen_train_trained_tokens_total", "Tokens that carried a loss.")
PLAN_SECONDS = Histogram(
    "duramen_train_plan_seconds",
    "Tokenising a dataset and deciding its batches, or computing its tokens again.",
    buckets=(0.1, 1, 10, 60, 300, 1800),
)
PLANNED = Counter("duramen_train_planned_tokens_total", "Tokens of one epoch of those plans.")
STEPS = Counter("duramen_train_steps_total", "Optimizer steps.")
STEP_SECONDS = Histogram("duramen_train_step_seconds", "Duration of an optimizer step.")
SNAPSHOT_SECONDS = Histogram("duramen_snapshot_seconds", "Duration of a snapshot.")
SNAPSHOTS = Counter("duramen_snapshots_total", "Decisions: full, small or skipped.", ["size"])
ALLOWED = Gauge("duramen_snapshot_allowed_seconds", "What snapshots of this job may have cost.")
SPENT = Gauge("duramen_snapshot_spent_seconds", "What they have cost before the last decision.")
HELDOUT_LOSS = Gauge("duramen_snapshot_loss", "Mean loss at the last snapshot.", ["split"])
EXACT = Gauge("duramen_snapshot_exact_match_ratio", "Exact matches at the last one.", ["split"])
SKIPPED = Counter("duramen_train_skipped_steps_total", "Steps without a finite gradient.")
CHECKPOINT_SECONDS = Histogram("duramen_checkpoint_write_seconds", "Training stands still for it.")
MFU = Gauge("duramen_train_mfu_ratio", "Share of the matrix speed that was measured here.")
LAST_STEP = Gauge("duramen_train_last_step_seconds", "Unix time of the last optimizer step.")
RUNNING = Gauge("duramen_train_running", "1 while a worker trains.")


def note_plan(event: PlanReady) -> None:
    """Note how long the plan took, and how many tokens one of its epochs has."""
    PLAN_SECONDS.observe(event.seconds)
    PLANNED.inc(event.tokens / event.epochs)


def note_step(event: StepDone) -> None:
    """Note the numbers of one step; a loss that is not finite leaves the one before in place."""
    if event.loss is not None:
        LOSS.set(event.loss)
    GLOBAL_STEP.set(event.global_step)
    LEARNING_RATE.set(event.learning_rate)
    GRADIENT.set(event.gradient_norm or 0.0)
    TOKENS.inc(event.tokens)
    TRAINED.inc(event.trained_tokens)
    STEPS.inc()
    SKIPPED.inc(event.skipped)
    LAST_STEP.set_to_current_time()
    STEP_SECONDS.observe(event.seconds)


def note_snapshot(event: SnapshotTaken) -> None:
    """Note how long a snapshot took and what it measured."""
    SNAPSHOT_SECONDS.observe(event.seconds)
    note_decision(event.decision)
    for split, means in event.summary.items():
        for gauge, mean in ((HELDOUT_LOSS, means["loss"]), (EXACT, means.get("exact_match"))):
            if mean is not None:
                gauge.labels(split).set(mean)


def note_decision(decision: dict[str, JsonValue]) -> None:
    """Note that a snapshot was taken or skipped, and the time allowed for snapshots and spent."""
    SNAPSHOTS.labels(decision["size"]).inc()
    ALLOWED.set(float(str(decision["allowed_seconds"])))
    SPENT.set(float(str(decision["spent_seconds"])))

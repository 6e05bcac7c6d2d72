"""The plan: every batch of a job, decided once, as one immutable file named by its SHA-256.

Later code reads the plan and decides nothing again. Tokens are not stored: they are computed from
dataset, tokenizer, template and frozen clock, and must hash to the value in the plan.
"""

import hashlib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.model.encoded import Encoded
from services.model.template import Chat
from services.trainer.protocol import PlanReady, Spec
from services.trainer.worker.data.bad_rows import check_bad_rows
from services.trainer.worker.data.encoder import Encoder, Why
from services.trainer.worker.data.known import held_of, known_of
from services.trainer.worker.data.probes import probe_candidates, watched
from services.trainer.worker.data.rows import read_rows
from shared.errors import CannotTrain
from shared.files import write_synced
from shared.formats.dataset import CanonicalRow
from shared.formats.plan import LeftOut, Plan, TrainingSettings, heldout_of
from shared.protocol.largest import why_too_many


@dataclass(frozen=True)
class Material:
    """A plan with its tokens: `rows` by line number, `probes` in the plan's order."""

    plan: Plan
    sha256: str
    rows: Mapping[int, Encoded]
    row_ids: Mapping[int, str]
    probes: list[Encoded]

    def event(self, path: Path, seconds: float) -> PlanReady:
        """Return the event that reports this plan to the supervisor."""
        plan = self.plan
        return PlanReady(
            path=path,
            sha256=self.sha256,
            steps=len(plan.steps),
            rows=plan.rows,
            train_rows=len(plan.train_rows),
            heldout_rows=len(plan.heldout_rows),
            left_out=len(plan.left_out),
            new_rows=plan.new_rows,
            changed_answers=plan.known.changed if plan.known else 0,
            epochs=plan.settings.epochs,
            tokens=plan.tokens,
            trained_tokens=plan.trained_tokens,
            seconds=seconds,
        )


def build_plan(spec: Spec, chat: Chat) -> Material:
    """Decide all batches of the job and write `spec.plan_out`; return the plan with its tokens.

    Raises CannotTrain (data, mask, template), and AllRowsKnown.
    """
    rows = read_rows(spec.dataset, spec.dataset_sha256)
    evals = {e.sha256: read_rows(e.path, e.sha256) for e in spec.eval_datasets}
    encoder = Encoder(chat, spec.settings.max_length, spec.settings.on_long)
    elsewhere = earlier_heldout(spec)
    known = known_of(spec, elsewhere)
    held = held_of(rows, spec.eval_fraction, known.trained, elsewhere)
    earlier = [p for path in spec.earlier_plans for p in read_plan(path.read_bytes()).probes]
    encoded, heldout_rows, reasons = training_rows(
        encoder,
        rows,
        held,
        evaluated={row.id for other in evals.values() for row in other},
        # Training on them would make their results meaningless.
        earlier=elsewhere,
        trained=known.trained,
    )
    own = spec.dataset_sha256
    never = [
        LeftOut(dataset=own, row=n, reason=why.reason, tokens=why.tokens, bad=why.bad)
        for n, why in reasons.items()
    ]
    good = len(encoded) + len(known.trained)
    check_bad_rows(spec, encoder, rows, {n: y for n, y in reasons.items() if y.bad}, good)
    check_long(encoder, never)
    if not encoded:
        raise known.nothing_to_train(rows, reasons)
    if too_many := why_too_many(len(encoded), spec.settings.epochs):
        raise CannotTrain("data", too_many)
    probes, measured = watched(
        encoder,
        trained=probe_candidates("trained", own, rows, encoded),
        held=probe_candidates("heldout", own, rows, heldout_rows),
        asked=[
            probe_candidates("eval", sha, other, range(len(other))) for sha, other in evals.items()
        ],
        earlier=earlier,
    )
    batches = order(list(encoded), {r: len(e) for r, e in encoded.items()}, spec.settings)
    epochs = spec.settings.epochs
    plan = Plan(
        job=spec.job,
        dataset=spec.dataset_sha256,
        base_root=spec.base_root,
        clock=spec.clock,
        settings=spec.settings,
        eval_fraction=spec.eval_fraction,
        rows=len(rows),
        train_rows=tuple(encoded),
        heldout_rows=tuple(heldout_rows),
        heldout_ids=tuple(rows[n].id for n in heldout_rows),
        eval_rows={
            sha: tuple(sorted(p.row for p in probes if p.split == "eval" and p.dataset == sha))
            for sha in evals
        },
        left_out=tuple(never),
        probes=tuple(probes),
        batches=batches,
        tokens=epochs * sum(len(e) for e in encoded.values()),
        trained_tokens=epochs * sum(e.labels for e in encoded.values()),
        tokens_sha256=tokens_sha256(encoded.values(), measured),
        known=known.in_plan(rows, reasons),
        **chat.hashes,
    )
    data = plan.to_bytes()
    write_synced(spec.plan_out, data)
    row_ids = {r: rows[r].id for r in encoded}
    return Material(plan, hashlib.sha256(data).hexdigest(), encoded, row_ids, measured)


def load_plan(spec: Spec, chat: Chat) -> Material:
    """Read `spec.plan`, compute its tokens again and compare their hash; return both.

    Raises CannotTrain (data, mask, template).
    """
    assert spec.plan is not None
    data = spec.plan.read_bytes()
    name = hashlib.sha256(data).hexdigest()
    if spec.plan_sha256 is not None and name != spec.plan_sha256:
        raise CannotTrain(
            "data", f"The plan is damaged: it hashes to {name}, not {spec.plan_sha256}."
        )
    plan = read_plan(data)
    now = {
        "job": spec.job,
        "dataset": spec.dataset_sha256,
        "base_root": spec.base_root,
        "clock": spec.clock,
        **chat.hashes,
    }
    for field, value in now.items():
        if getattr(plan, field) != value:
            raise CannotTrain(
                "data", f"The plan was made for {field} {getattr(plan, field)}, this is {value}."
            )
    rows = read_rows(spec.dataset, spec.dataset_sha256)
    encoder = Encoder(chat, plan.settings.max_length, plan.settings.on_long)
    encoded = {r: encoder.again(rows[r]) for r in plan.train_rows}
    measured = [encoder.again(p) for p in plan.probes]
    found = tokens_sha256(encoded.values(), measured)
    if found != plan.tokens_sha256:
        raise CannotTrain(
            "data",
            "The tokens of this dataset are not those of the plan "
            f"({found[:12]} instead of {plan.tokens_sha256[:12]}): the tokenizer library or the "
            "template engine behaves differently. Install the versions it was made with.",
        )
    row_ids = {r: rows[r].id for r in encoded}
    return Material(plan, name, encoded, row_ids, measured)


def read_plan(data: bytes) -> Plan:
    """Return a stored plan. Raises CannotTrain (data) if it cannot be read."""
    try:
        return Plan.from_bytes(data)
    except ValueError as error:
        raise CannotTrain("data", f"The plan cannot be read: {error}.") from error


def training_rows(
    encoder: Encoder,
    rows: list[CanonicalRow],
    held: set[str],
    evaluated: set[str],
    earlier: set[str],
    trained: Container[int] = (),
) -> tuple[dict[int, Encoded], list[int], dict[int, Why]]:
    """Return (tokens of the rows to train, held-out rows, why others are left out), by number.

    The sets hold row ids: `held` out of this file, `evaluated` only, held out of an `earlier` file.
    `trained`: the numbers of rows that the lineage has trained. Raises CannotTrain (template).
    """
    encoded: dict[int, Encoded] = {}
    heldout_rows: list[int] = []
    never: dict[int, Why] = {}
    kept_aside: set[str] = set()
    for number, row in ((n, row) for n, row in enumerate(rows) if n not in trained):
        result: Encoded | Why
        if row.id in held and row.id not in kept_aside:
            kept_aside.add(row.id)
            result = encoder.encode(row)
            if isinstance(result, Why) and result.bad:
                never[number] = result
            else:
                heldout_rows.append(number)
            continue
        if row.id in held:
            result = Why("equal to a held-out row")
        elif row.id in evaluated:
            result = Why("equal to an evaluation row")
        elif row.id in earlier:
            result = Why("equal to a held-out row of an earlier file")
        else:
            result = encoder.encode(row)
        if isinstance(result, Why):
            never[number] = result
        else:
            encoded[number] = result
    return encoded, heldout_rows, never


def earlier_heldout(spec: Spec) -> set[str]:
    """Return the ids of rows that other jobs of the lineage held out."""
    found: set[str] = set()
    for path in spec.lineage_plans:
        found |= heldout_of(path.read_bytes())
    return found


def check_long(encoder: Encoder, never: list[LeftOut]) -> None:
    """Check that no row is too long where `on_long` is `refuse`. Raises CannotTrain (data)."""
    long = [entry for entry in never if entry.tokens is not None]
    if encoder.on_long == "refuse" and long:
        count = "1 row is" if len(long) == 1 else f"{len(long)} rows are"
        raise CannotTrain(
            "data",
            f"{count} longer than {encoder.max_length} tokens, and on_long is refuse; the first "
            f"is row {long[0].row + 1} of the dataset, with {long[0].tokens} tokens.",
        )


def order(
    rows: list[int], lengths: Mapping[int, int], settings: TrainingSettings
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Shuffle each epoch by (seed, epoch) alone, and cut it into steps; return [epoch][step][row].

    A step has at most `batch_tokens` tokens; a longer row makes a step alone.
    """
    epochs = []
    for epoch in range(settings.epochs):
        shuffle = np.random.Generator(np.random.PCG64([settings.seed, epoch]))
        steps: list[tuple[int, ...]] = []
        step: list[int] = []
        size = 0
        for index in shuffle.permutation(len(rows)):
            row = rows[int(index)]
            if step and size + lengths[row] > settings.batch_tokens:
                steps.append(tuple(step))
                step, size = [], 0
            step.append(row)
            size += lengths[row]
        steps.append(tuple(step))
        epochs.append(tuple(steps))
    return tuple(epochs)


def tokens_sha256(rows: Iterable[Encoded], probes: Iterable[Encoded]) -> str:
    """Return the SHA-256 of all token ids, masks and factors, with their lengths, in order."""
    digest = hashlib.sha256()
    for part in (rows, probes):
        for encoded in part:
            digest.update(len(encoded).to_bytes(4, "little"))
            digest.update(encoded.ids.astype("<i4").tobytes())
            digest.update(encoded.trained.astype("u1").tobytes())
            if encoded.weights is not None:
                digest.update(encoded.weights.astype("<f4").tobytes())
            for length in encoded.parts:
                digest.update(length.to_bytes(4, "little"))
        digest.update(b"\xff" * 4)
    return digest.hexdigest()

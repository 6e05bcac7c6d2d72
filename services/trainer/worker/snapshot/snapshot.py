"""Snapshots: how the model does on its probes at one step, stored as one Parquet file.

It is measured with the answer given (loss, probabilities, first wrong token), and by letting the
model answer greedily through the chat template. A snapshot only reads the weights, and all
randomness of training is a function of counters, so a snapshot cannot disturb training.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

from tokenizers.decoders import DecodeStream

from services.model.generation import Answering, Said
from services.model.grading import grade
from services.model.network import Network
from services.model.out_of_memory import is_out_of_memory
from services.model.teacher_forcing import Measured, measure_answers
from services.model.template import Chat
from services.trainer.micro_batch import smaller
from services.trainer.protocol import SnapshotSkipped, SnapshotTaken, Spec, TrainingPlace
from services.trainer.worker.data.draw import draw
from services.trainer.worker.data.plan import Material
from services.trainer.worker.metrics import Past
from services.trainer.worker.micro_batches import may_be_halved
from services.trainer.worker.pipe import SupervisorLink
from services.trainer.worker.saving import Saving
from services.trainer.worker.snapshot import snapshot_file
from services.trainer.worker.snapshot.budget import (
    SMALL_ANSWERED,
    SMALL_MEASURED,
    Decision,
    Governor,
)
from shared.formats.probe import Probe
from shared.formats.snapshot import COLUMNS, surprisal_of
from shared.memory_estimate import CACHE_SHARE

PACK_TOKENS = 2048


class Snapshots:
    """Decides when a snapshot is worth its time, and takes it."""

    def __init__(self, spec: Spec, material: Material, network: Network, chat: Chat) -> None:
        self.spec, self.network, self.chat = spec, network, chat
        self.plan_probes = material.plan.probes
        self.probes = spread(material.plan.probes)
        self.encoded = {p.id: e for p, e in zip(material.plan.probes, material.probes, strict=True)}
        self.may_be_halved = may_be_halved(material, spec.micro_tokens)
        self.tokens_sha256 = material.plan.tokens_sha256
        lengths = (sum(len(material.rows[r]) for r in rows) for rows in material.plan.steps)
        self.job_tokens = list(accumulate(lengths, initial=0))
        began = spec.start.position - spec.start.job_steps_from
        self.governor = Governor(spec.snapshot, len(self.probes), began)
        # Tokens that go through the model at once; fewer after memory ran out.
        self.pack_tokens = min(PACK_TOKENS, spec.micro_tokens)
        self.answering = Answering(network, self.stop_ids(), CACHE_SHARE * spec.micro_tokens)
        self.fitting: int | None = None  # probes of a full one, if not all fit into its limit
        self.whole: SnapshotTaken | None = None  # the last event of one with all probes
        if any(spec.snapshot.directory.glob(f"{spec.start.global_step:08d}-*.parquet")):
            self.governor.taken_at = began

    def decide(
        self, job_step: int, train_seconds: float, *, last: bool = False, asked: bool = False
    ) -> Decision | None:
        return self.governor.decide(job_step, train_seconds, last=last, asked=asked)

    def due(
        self,
        at: TrainingPlace,
        past: Past,
        supervisor: SupervisorLink,
        saving: Saving,
        *,
        asked: bool,
        last: bool,
    ) -> dict[str, Any] | None:
        """Take a snapshot if one is worth its time now; return what to note of it, or None.

        If memory runs out, what has been trained is saved first. The error is then raised again if
        smaller micro-batches can be tried, because measuring takes less memory then, too; else
        training continues without this snapshot.
        """
        job_step = at.position - self.spec.start.job_steps_from
        decision = self.decide(job_step, past.train_seconds, last=last, asked=asked)
        if decision is None:
            return None
        if decision.size is not None:
            each = past.train_seconds / max(1, past.steps)
            # A stop does not wait for a snapshot, but the last one is always taken.
            leave = (lambda: False) if last else supervisor.leaving
            try:
                with saving.first(at):
                    taken = self.take(decision, job_step, *at, each, leave)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.may_be_halved:
                    raise
                decision = self.governor.give_up(decision, job_step)
            else:
                if taken is not None:
                    supervisor.emit(taken)
                return taken.decision if taken is not None else None
        supervisor.emit(SnapshotSkipped(decision=decision.told, asked=asked))
        return decision.told

    def take(
        self,
        decision: Decision,
        job_step: int,
        position: int,
        global_step: int,
        step_seconds: float = 0.0,
        leave: Callable[[], bool] = lambda: False,
    ) -> SnapshotTaken | None:
        """Measure, write the file, and return the `snapshot` event, or None if `leave` says so.

        If memory runs out, fewer tokens are tried at once; raises the error if that does not help.
        """
        assert decision.size is not None
        if self.whole is not None and self.whole.global_step == global_step:
            return self.whole  # the same weights and the same probes
        began = time.monotonic()
        rows = self.measured_before(decision, global_step)
        is_reused = rows is not None
        if rows is None:
            rows = self.looked_in_memory(decision, leave)
        if rows is None:
            return None
        seconds = time.monotonic() - began
        now = {
            "global_step": global_step,
            "position": position,
            "job_tokens": self.job_tokens[position],
            "fence": self.spec.fence,
            "segment": self.spec.segment,
            "job": self.spec.job,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        told = {**decision.told, "seconds": round(seconds, 3), "is_reused": is_reused}
        told |= {"probes": len(self.probes), "measured": len(rows), "answered": answered(rows)}
        path = self.spec.snapshot.directory / f"{global_step:08d}-{self.spec.fence}.parquet"
        digest, file_size = snapshot_file.write_snapshot(
            path, [{**row, **now} for row in rows], told
        )
        if not is_reused:
            self.keep(path, rows, global_step)
            asked = decision.limit_seconds is None and decision.why == "asked for"
            self.governor.account(decision.size, job_step, seconds, step_seconds, asked=asked)
        self.governor.taken_at = job_step
        event = SnapshotTaken(
            path=path,
            sha256=digest,
            size=file_size,
            global_step=global_step,
            position=position,
            seconds=seconds,
            measured=len(rows),
            summary=summarize(rows),
            decision=told,
        )
        self.whole = event if self.is_whole(rows) else None
        return event

    def is_whole(self, rows: Sequence[dict[str, Any]]) -> bool:
        """Return whether these rows are all probes, with an answer for each that can be asked."""
        askable = sum(p.text is None for p in self.probes)
        return len(rows) == len(self.probes) and answered(rows) == askable

    # ---- looking ---------------------------------------------------------------------------------

    def looked_in_memory(
        self, decision: Decision, leave: Callable[[], bool]
    ) -> list[dict[str, Any]] | None:
        """Do as `looked` does, with ever fewer tokens at once, down to one example at a time."""
        while True:
            try:
                return self.looked(decision, leave)
            except (MemoryError, RuntimeError) as error:
                alone = not self.pack_tokens and not self.answering.most_tokens
                if alone or not is_out_of_memory(error):
                    raise
            self.pack_tokens = smaller(self.pack_tokens) or 0
            self.answering.most_tokens = smaller(self.answering.most_tokens) or 0

    def looked(self, decision: Decision, leave: Callable[[], bool]) -> list[dict[str, Any]] | None:
        """Measure the probes; return one row for each, or None if `leave` says so.

        The first few show how many fit into a limit of time.
        """
        found: dict[str, Measured] = {}
        said: dict[str, Said] = {}
        began = time.monotonic()
        self.measure(self.probes[:SMALL_MEASURED], found)
        middle = time.monotonic()
        if not self.answer(self.probes[:SMALL_ANSWERED], found, said, leave):
            return None
        if decision.size == "full":
            each = (middle - began) / max(1, len(found))
            each += (time.monotonic() - middle) / max(1, len(said))
            count = self.fit(decision, each)
            self.measure(self.probes[SMALL_MEASURED:count], found)
            if not self.answer(self.probes[SMALL_ANSWERED:count], found, said, leave):
                return None
        return [self.row(p, found[p.id], said.get(p.id)) for p in self.plan_probes if p.id in found]

    def fit(self, decision: Decision, seconds_each: float) -> int:
        """Return how many probes a full snapshot has.

        A snapshot that was asked for has all. Any other has the same ones each time, so that
        snapshots can be compared.
        """
        if decision.why == "asked for":
            return len(self.probes)
        if self.fitting is None and decision.limit_seconds is not None:
            room = decision.limit_seconds / max(seconds_each, 1e-9)
            self.fitting = max(SMALL_MEASURED, min(len(self.probes), int(room)))
        return self.fitting or len(self.probes)

    def measure(self, probes: Sequence[Probe], found: dict[str, Measured]) -> None:
        """Measure these probes with their answers given, into `found`."""
        encoded = [self.encoded[p.id] for p in probes]
        results = measure_answers(self.network, encoded, self.pack_tokens)
        found.update(zip((p.id for p in probes), results, strict=True))

    def answer(
        self,
        probes: Sequence[Probe],
        found: dict[str, Measured],
        said: dict[str, Said],
        leave: Callable[[], bool],
    ) -> bool:
        """Let the model answer these probes, into `said`; return False if `leave` says so."""
        asked = {p.id: (self.encoded[p.id], found[p.id]) for p in probes if p.text is None}
        answers = self.answering.answer(asked, leave)
        said.update(answers or {})
        return answers is not None

    def row(self, probe: Probe, measured: Measured, said: Said | None) -> dict[str, Any]:
        """Return a snapshot's row for one probe, without the fields of the step."""
        row: dict[str, Any] = {
            "probe": probe.id,
            "split": probe.split,
            "dataset": probe.dataset,
            "row": probe.row,
            "prompt": probe.prompt,
            "expected": probe.expected,
            "tokens": measured.tokens,
            "loss": measured.loss,
            "token_accuracy": measured.token_accuracy,
            "first_mismatch": measured.first_mismatch,
            "surprisal": [surprisal_of(loss) for loss in measured.losses.tolist()],
            "pieces": self.pieces(probe),
        }
        if said is not None:
            text = self.text(said.tokens)
            ids = self.expected_ids(probe)
            beginning = self.text(ids[: len(said.tokens)]) if said.is_cut else None
            # As the row has it, or as the template shows it: thoughts in lines of their own.
            right = {probe.expected.strip(), self.text(ids).strip()}
            graded = grade(text, right, beginning)
            row |= {
                "answer": text,
                "confidence": said.confidence,
                "is_cut": said.is_cut,
                "exact_match": graded.exact,
                "normalized_match": graded.normalized,
                "similarity": graded.similarity,
            }
        return row

    def expected_ids(self, probe: Probe) -> list[int]:
        """Return the tokens of the expected answer, its end of turn included."""
        encoded = self.encoded[probe.id]
        start, end = encoded.answer
        ids: list[int] = encoded.last.ids[start:end].tolist()
        return ids

    def text(self, ids: list[int]) -> str:
        return str(self.chat.tokenizer.decode(ids, skip_special_tokens=True))

    def pieces(self, probe: Probe) -> list[str]:
        """Return the expected answer as the texts of its tokens; an end of turn is empty."""
        stream = DecodeStream(skip_special_tokens=True)
        tokenizer = self.chat.tokenizer.backend_tokenizer
        return [stream.step(tokenizer, i) or "" for i in self.expected_ids(probe)]

    def stop_ids(self) -> list[int]:
        """Return the tokens that end an answer in these examples, and the tokenizer's own."""
        asked = (self.encoded[p.id] for p in self.plan_probes if p.text is None)
        ends = {int(e.last.ids[e.answer[1] - 1]) for e in asked}
        if self.chat.tokenizer.eos_token_id is not None:
            ends.add(int(self.chat.tokenizer.eos_token_id))
        return sorted(ends)

    # ---- before the first step -------------------------------------------------------------------

    def measured_before(self, decision: Decision, global_step: int) -> list[dict[str, Any]] | None:
        """Return the rows of an earlier job's snapshot of the bare base, or None.

        They serve only for a full snapshot at step 0, with the same probes.
        """
        path = self.baseline()
        if global_step != 0 or decision.size != "full" or path is None or not path.exists():
            return None
        return snapshot_file.read_snapshot(path)

    def keep(self, path: Path, rows: Sequence[dict[str, Any]], global_step: int) -> None:
        """Keep a whole snapshot of step 0 for later jobs of any lineage on this base.

        A new adapter changes nothing, so the model is its bare base there.
        """
        baseline = self.baseline()
        if global_step == 0 and baseline is not None and self.is_whole(rows):
            snapshot_file.copy(path, baseline)

    def baseline(self) -> Path | None:
        """Return the file of the bare base's snapshot, named by all that its content depends on.

        None if none is kept.
        """
        directory = self.spec.snapshot.baselines
        if directory is None:
            return None
        probes = [p.model_dump(mode="json") for p in self.plan_probes]
        ids = [self.encoded[p.id].last.ids.tolist() for p in self.plan_probes]
        weights = [self.spec.base_root, self.spec.dtype, self.spec.quantize]
        depends = [*weights, list(COLUMNS), probes, ids]
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
        return directory / f"{digest[:32]}.parquet"


def answered(rows: Sequence[dict[str, Any]]) -> int:
    """Return how many of these rows have an answer of the model."""
    return sum(row.get("answer") is not None for row in rows)


def spread(probes: Sequence[Probe]) -> list[Probe]:
    """Order the probes so that the splits take turns, always in the same order.

    However many are then taken from the beginning, every split is represented.
    """
    by_id = {p.id: p for p in probes}
    queues: dict[str, list[str]] = {}
    for name in draw(by_id, len(by_id), "small"):
        queues.setdefault(by_id[name].split, []).append(name)
    ordered: list[Probe] = []
    while len(ordered) < len(by_id):
        ordered += [by_id[queues[split].pop(0)] for split in sorted(queues) if queues[split]]
    return ordered


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the means of a snapshot by split.

    They are the count, mean loss and token accuracy, the number answered, and the shares of exact
    and of normalized matches among the answers (None without answers).
    """
    summary = {}
    for split in sorted({r["split"] for r in rows}):
        those = [r for r in rows if r["split"] == split]
        asked = [r for r in those if r.get("answer") is not None]
        summary[split] = {
            "count": len(those),
            "loss": sum(r["loss"] for r in those) / len(those),
            "token_accuracy": sum(r["token_accuracy"] for r in those) / len(those),
            "answered": len(asked),
            **{
                name: sum(r[name] for r in asked) / len(asked) if asked else None
                for name in ("exact_match", "normalized_match")
            },
        }
    return summary

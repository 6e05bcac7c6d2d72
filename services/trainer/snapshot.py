"""Snapshots: what the model makes of its probes at one step, stored as one Parquet file.

Measured with the answer given (loss, share of right tokens, first wrong one) and, for those that
time allows, by letting the model answer greedily through the chat template. A snapshot reads the
weights only; all randomness of training is a function of counters, so it cannot disturb it.
"""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from services.trainer.attention import pack
from services.trainer.model import Network
from services.trainer.plan import Material
from services.trainer.spec import Spec
from services.trainer.template import Chat, Encoded
from shared.manifest import sync_folder
from shared.probes import Probe, draw

Size = Literal["full", "small"]

SMALL_MEASURED, SMALL_ANSWERED = 16, 8
PACK_TOKENS = 2048
ANSWER_BATCH = 16
ANSWER_TOKENS = 96  # longest answer that is generated
FULL_SHARE = 4  # a full snapshot must fit this often into the time that is left
ANSWER_SLACK = 8  # tokens beyond the expected answer

SCHEMA = pa.schema(
    [
        ("probe", pa.string()),
        ("split", pa.string()),
        ("dataset", pa.string()),
        ("row", pa.int64()),
        ("global_step", pa.int64()),
        ("position", pa.int64()),
        ("fence", pa.int64()),
        ("segment", pa.string()),
        ("job", pa.string()),
        ("prompt", pa.string()),
        ("expected", pa.string()),
        ("answer", pa.string()),  # null: the model was not asked
        ("tokens", pa.int64()),  # of the expected answer, with its end of turn
        ("loss", pa.float64()),  # mean over these tokens, nats
        ("token_accuracy", pa.float64()),
        ("first_mismatch", pa.int64()),  # index in the answer; null: none
        ("exact_match", pa.bool_()),  # null: the model was not asked
        ("at", pa.string()),  # UTC, ISO 8601
    ]
)


@dataclass(frozen=True)
class Measured:
    tokens: int
    loss: float
    token_accuracy: float
    first_mismatch: int | None


class Snapshots:
    """Decides when a snapshot is worth its time, and takes it."""

    def __init__(self, spec: Spec, material: Material, network: Network, chat: Chat) -> None:
        self.spec, self.network, self.chat = spec, network, chat
        self.probes = list(material.plan.probes)
        self.encoded = {p.id: e for p, e in zip(self.probes, material.probes, strict=True)}
        self.spent_seconds = 0.0
        self.cost_seconds: dict[Size, float] = {}  # moving average of what one took
        self.taken_at: int | None = None  # job step of the last one
        began = spec.start.position - spec.start.job_steps_from
        self.next_step = power_of_two_from(began)
        if self.exists(spec.start.global_step):
            self.taken_at = began

    def exists(self, global_step: int) -> bool:
        return any(self.spec.snapshot.directory.glob(f"{global_step:08d}-*.parquet"))

    def due(self, job_step: int, train_seconds: float) -> Size | None:
        """The snapshot to take now, at job steps 0, 1, 2, 4, 8, …, while time is left for it."""
        if not self.probes or self.taken_at == job_step:
            return None
        if job_step == 0:
            return "full"
        if job_step < self.next_step:
            return None
        governor = self.spec.snapshot
        left = governor.fraction * train_seconds + governor.allowance_seconds - self.spent_seconds
        # A full one may take a part of what is left only, or the later steps would get none.
        if FULL_SHARE * self.expected_seconds("full") <= left:
            return "full"
        return "small" if self.expected_seconds("small") <= left else None

    def expected_seconds(self, size: Size) -> float:
        if size in self.cost_seconds:
            return self.cost_seconds[size]
        if size == "small" and "full" in self.cost_seconds:
            return self.cost_seconds["full"] * min(1.0, SMALL_MEASURED / len(self.probes))
        return 0.0  # nothing is known yet: find out

    def account(
        self, size: Size, job_step: int, seconds: float, train_seconds_per_step: float
    ) -> None:
        """Note the cost, and set the next step: twice as far, or as near as the cost allows once
        that is nearer."""
        self.spent_seconds += seconds
        known = self.cost_seconds.get(size, seconds)
        self.cost_seconds[size] = 0.5 * known + 0.5 * seconds
        self.taken_at = job_step
        gap = max(job_step, 1)
        cost = self.expected_seconds("small")
        if train_seconds_per_step > 0 and self.spec.snapshot.fraction > 0 and cost > 0:
            constant = cost / (self.spec.snapshot.fraction * train_seconds_per_step)
            gap = min(gap, max(1, round(constant)))
        self.next_step = job_step + gap

    def take(
        self,
        size: Size,
        job_step: int,
        position: int,
        global_step: int,
        step_seconds: float = 0.0,
        leave: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any] | None:
        """Measure, write the file, and return the `snapshot` event; None if told to `leave`."""
        began = time.monotonic()
        chosen = self.probes if size == "full" else spread(self.probes, SMALL_MEASURED)
        asked = chosen if size == "full" else spread(chosen, SMALL_ANSWERED)
        measured = measure(self.network, [self.encoded[p.id] for p in chosen], self.pack_tokens)
        answers = self.answer(asked, leave)
        if answers is None:
            return None
        at = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [
            self.row(probe, result, answers.get(probe.id), position, global_step, at)
            for probe, result in zip(chosen, measured, strict=True)
        ]
        path = self.spec.snapshot.directory / f"{global_step:08d}-{self.spec.fence}.parquet"
        digest, file_size = write_parquet(path, rows)
        seconds = time.monotonic() - began
        self.account(size, job_step, seconds, step_seconds)
        return {
            "event": "snapshot",
            "path": str(path),
            "sha256": digest,
            "size": file_size,
            "global_step": global_step,
            "position": position,
            "seconds": seconds,
            "measured": len(rows),
            "summary": summarize(rows),
        }

    @property
    def pack_tokens(self) -> int:
        return min(PACK_TOKENS, self.spec.micro_tokens)

    def row(
        self,
        probe: Probe,
        measured: Measured,
        answer: str | None,
        position: int,
        global_step: int,
        at: str,
    ) -> dict[str, Any]:
        expected = probe.expected
        return {
            "probe": probe.id,
            "split": probe.split,
            "dataset": probe.dataset,
            "row": probe.row,
            "global_step": global_step,
            "position": position,
            "fence": self.spec.fence,
            "segment": self.spec.segment,
            "job": self.spec.job,
            "prompt": probe.prompt,
            "expected": expected,
            "answer": answer,
            "tokens": measured.tokens,
            "loss": measured.loss,
            "token_accuracy": measured.token_accuracy,
            "first_mismatch": measured.first_mismatch,
            "exact_match": None if answer is None else answer.strip() in self.right(probe),
            "at": at,
        }

    def right(self, probe: Probe) -> set[str]:
        """The answer as the row has it, and as the template sets it (thoughts in lines)."""
        encoded = self.encoded[probe.id]
        start, end = encoded.answer
        said = self.chat.tokenizer.decode(encoded.last.ids[start:end], skip_special_tokens=True)
        return {probe.expected.strip(), said.strip()}

    def answer(
        self, probes: Sequence[Probe], leave: Callable[[], bool] = lambda: False
    ) -> dict[str, str] | None:
        """Greedy answers by probe id, in batches of about one length; None if told to leave."""
        limits = {}
        for probe in probes:
            start, end = self.encoded[probe.id].answer
            limits[probe.id] = min(ANSWER_TOKENS, end - start + ANSWER_SLACK)
        ordered = sorted(probes, key=lambda p: (limits[p.id], p.id))
        answers: dict[str, str] = {}
        with self.network.generating():
            for at in range(0, len(ordered), ANSWER_BATCH):
                if leave():
                    return None
                group = ordered[at : at + ANSWER_BATCH]
                # As trained: up to the answer, with an empty thought where the template puts one.
                prompts = [last_prompt(self.encoded[p.id]) for p in group]
                texts = self.generate(prompts, [limits[p.id] for p in group])
                answers.update(zip((p.id for p in group), texts, strict=True))
        return answers

    def generate(self, prompts: list[list[int]], limits: list[int]) -> list[str]:
        stops = self.stop_ids()
        width = max(len(p) for p in prompts)
        ids = torch.full((len(prompts), width), stops[0])
        mask = torch.zeros_like(ids)
        for n, prompt in enumerate(prompts):
            ids[n, width - len(prompt) :] = torch.tensor(prompt)
            mask[n, width - len(prompt) :] = 1
        out = self.network.model.generate(
            input_ids=ids.to(self.network.device),
            attention_mask=mask.to(self.network.device),
            do_sample=False,
            num_beams=1,
            max_new_tokens=max(limits),
            eos_token_id=stops,
            pad_token_id=stops[0],
        )
        texts = []
        for tokens, limit in zip(out[:, width:].tolist(), limits, strict=True):
            # Each is cut at its own limit, so that an answer does not depend on its neighbours'.
            words = tokens[:limit]
            end = next((i for i, t in enumerate(words) if t in stops), len(words))
            texts.append(self.chat.tokenizer.decode(words[:end], skip_special_tokens=True))
        return texts

    def stop_ids(self) -> list[int]:
        """The tokens that end an answer in these examples, and the tokenizer's own end."""
        ends = {int(e.last.ids[e.answer[1] - 1]) for e in self.encoded.values()}
        if self.chat.tokenizer.eos_token_id is not None:
            ends.add(int(self.chat.tokenizer.eos_token_id))
        return sorted(ends)


def measure(network: Network, examples: Sequence[Encoded], pack_tokens: int) -> list[Measured]:
    """Loss and accuracy on the last answer of each, in the order given."""
    answers = [last_answer(e) for e in examples]
    results: dict[int, Measured] = {}
    with network.measuring():
        for group in by_length(answers, pack_tokens):
            batch = pack([answers[n] for n in group], network.device)
            losses, best = network.predict(batch)
            right = best == batch.targets
            parts = zip(
                group,
                torch.split(losses, batch.labels),
                torch.split(right, batch.labels),
                strict=True,
            )
            for n, loss, hits in parts:
                missed = torch.nonzero(~hits)
                results[n] = Measured(
                    tokens=len(loss),
                    loss=float(loss.double().mean()),
                    token_accuracy=float(hits.double().mean()),
                    first_mismatch=int(missed[0]) if len(missed) else None,
                )
    return [results[n] for n in range(len(examples))]


def last_answer(encoded: Encoded) -> Encoded:
    """The conversation up to its last answer, with labels on that answer only."""
    start, end = encoded.answer
    asked = np.zeros(end, np.bool_)
    asked[start:end] = True
    return Encoded(encoded.last.ids[:end], asked)


def last_prompt(encoded: Encoded) -> list[int]:
    """The tokens before the last answer."""
    ids: list[int] = encoded.last.ids[: encoded.answer[0]].tolist()
    return ids


def by_length(examples: Sequence[Encoded], most: int) -> list[list[int]]:
    """Indices in groups of at most `most` tokens, similar lengths together."""
    groups: list[list[int]] = []
    size = 0
    for n in sorted(range(len(examples)), key=lambda n: len(examples[n])):
        if not groups or size + len(examples[n]) > most:
            groups.append([])
            size = 0
        groups[-1].append(n)
        size += len(examples[n])
    return groups


def spread(probes: Sequence[Probe], count: int) -> list[Probe]:
    """`count` probes, the splits taking turns, always the same ones."""
    by_id = {p.id: p for p in probes}
    ranked = draw(by_id, len(by_id), "small")
    queues: dict[str, list[str]] = {}
    for name in ranked:
        queues.setdefault(by_id[name].split, []).append(name)
    chosen: list[Probe] = []
    while len(chosen) < min(count, len(by_id)):
        for split in sorted(queues):
            if queues[split] and len(chosen) < count:
                chosen.append(by_id[queues[split].pop(0)])
    return chosen


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By split: count, mean loss and token accuracy, answered, share of exact answers or None."""
    summary = {}
    for split in sorted({r["split"] for r in rows}):
        those = [r for r in rows if r["split"] == split]
        matches = [r["exact_match"] for r in those if r["exact_match"] is not None]
        summary[split] = {
            "count": len(those),
            "loss": sum(r["loss"] for r in those) / len(those),
            "token_accuracy": sum(r["token_accuracy"] for r in those) / len(those),
            "exact_match": sum(matches) / len(matches) if matches else None,
            "answered": len(matches),
        }
    return summary


def power_of_two_from(step: int) -> int:
    """The smallest power of two that is not below `step`."""
    return 1 << max(step - 1, 0).bit_length()


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> tuple[str, int]:
    """(SHA-256, size). Temporary name, sync, rename, as all that must last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), temporary, compression="zstd")
    data = temporary.read_bytes()
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.rename(path)
    sync_folder(path.parent)
    return hashlib.sha256(data).hexdigest(), len(data)

"""Chooses how attention runs over a batch, by comparing each way with the model's own attention.

A fast kernel may be wrong on one card and right on another, and its gradients may be wrong where
its results are right. So hidden states and gradients are compared on the device that trains, once
for each base, device and version of the libraries; the result is kept in a file. A way that differs
is not taken, and the job's log says why.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from services.model.attention import Batch, pack
from services.model.encoded import Encoded
from services.model.environment import library_versions
from services.model.out_of_memory import is_out_of_memory
from shared.files import write_synced

# Raised by a model for attention or arguments that it does not know.
UNFIT = (
    *(NotImplementedError, TypeError, ValueError, RuntimeError),
    *(AttributeError, LookupError, AssertionError),
)
# Rounding between two orders of computation, as a share of the result: float32, half precision.
EXACT, ROUNDED = 1e-3, 0.1
LENGTHS = (131, 70, 9)  # tokens: above, around and below the block size of a kernel
LONGEST_WINDOW = 1024  # tokens; trying the edge of a longer window is too expensive


class Way(Enum):
    """The ways in which attention runs over the sequences of a row, from fastest to safest."""

    VARLEN = "varlen"  # one kernel for all sequences
    PACKED = "packed"  # a kernel for each sequence, the rest of the model once
    ALONE = "alone"  # the model's own attention, one sequence at a time: the reference for others


class Attending(Protocol):
    """The part of a network that is needed to compare its attention (see `network.Network`)."""

    device: torch.device
    base: Any
    adapter: dict[str, torch.nn.Parameter]
    notes: list[str]

    def take(self, way: Way) -> None:
        """Let attention run this way from now on. Raises one of UNFIT if the model refuses it."""

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Return the hidden states [T, d] after the last layer."""


class Proofs:
    """The results of earlier comparisons, as JSON: {comparison: why it was refused, or null}.

    Without a path nothing is kept. `base` identifies the base: its root, its dtype, and how it is
    quantised.
    """

    def __init__(self, path: Path | None = None, base: Sequence[str] = ()) -> None:
        self.path, self.base = path, tuple(base)

    def name(self, way: Way, device: torch.device) -> str:
        """Return the name of a comparison: way, base, device and versions."""
        here = library_versions(device)
        versions = [f"{k} {here[k]}" for k in ("torch", "transformers", "peft")]
        return ", ".join([way.value, *self.base, str(here["device"]), *versions])

    def found(self) -> dict[str, str | None]:
        """Return all results that are kept; none if the file cannot be read."""
        try:
            known = json.loads(self.path.read_bytes()) if self.path else {}
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def keep(self, name: str, why: str | None) -> None:
        """Add one result. The file is replaced whole: a kill leaves the old one or the new one."""
        if self.path is not None:
            known = {**self.found(), name: why}
            write_synced(self.path, json.dumps(known, indent=1, sort_keys=True).encode())


def choose_way(network: Attending, proofs: Proofs) -> None:
    """Take the fastest way that gives the same results as the model's own attention.

    Call it inside `network.measuring()`. It adds to `network.notes` what was refused, and why.
    """
    vocabulary = int(network.base.config.get_text_config().vocab_size)
    short = pack([sequence(7, vocabulary, 3), sequence(5, vocabulary, 11)], network.device)
    network.take(Way.ALONE)
    expected = network.hidden(short)
    refused = ""
    for way in candidate_ways(network):
        try:
            network.take(way)
            refused = differing_states(network.hidden(short), expected) or ""
            refused = refused or compared(network, way, proofs) or ""
        except UNFIT as error:
            if is_out_of_memory(error):
                raise
            refused = str(error)
        if not refused:
            note_soft_cap(network)
            return
        if way is Way.VARLEN:
            what = "one attention kernel for all conversations is not used, slower"
            network.notes.append(f"{what}: {refused}")
    network.take(Way.ALONE)
    network.notes.append(f"conversations go through this model one by one, slower: {refused}")


def candidate_ways(network: Attending) -> list[Way]:
    """Return the ways that this device and number format allow, the fastest first."""
    half = network.base.dtype in (torch.bfloat16, torch.float16)
    fused = [Way.VARLEN] if network.device.type == "cuda" and half else []
    return [*fused, Way.PACKED]


def note_soft_cap(network: Attending) -> None:
    if getattr(network.base.config.get_text_config(), "attn_logit_softcapping", None):
        network.notes.append("this model caps its attention scores: computing them in full, slower")


def differing_states(found: torch.Tensor, expected: torch.Tensor) -> str | None:
    """Return why these hidden states [T, d] are not the expected ones, or None if they are."""
    scale = max(float(expected.abs().max()), 1.0)
    difference = float((found - expected).abs().max()) / scale
    # Compared this way round, a NaN counts as different.
    if difference <= limit(found.dtype):
        return None
    return f"its results differ from those of each conversation alone by {difference:.1%}"


def compared(network: Attending, way: Way, proofs: Proofs) -> str | None:
    """Return why this way is refused, or None, from an earlier result or by comparing now."""
    name = proofs.name(way, network.device)
    known = proofs.found()
    if name in known:
        return known[name]
    try:
        why = compare_way(network, way)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # Nothing was found out, so nothing is kept. The varlen kernel is then not trusted; packed
        # attention, which runs on every CPU and in every test, is.
        unknown = "memory ran out before its gradients were compared"
        if way is Way.PACKED:
            network.notes.append(f"attention is used although {unknown}")
        return unknown if way is Way.VARLEN else None
    proofs.keep(name, why)
    return why


def compare_way(network: Attending, way: Way) -> str | None:
    """Compare this way's states and gradients with those of the model's own attention.

    Returns why they differ, or None if they do not.
    """
    batch = trial(network)
    network.take(Way.ALONE)
    expected, expected_gradients = backward(network, batch)
    network.take(way)
    found, gradients = backward(network, batch)
    why = differing_states(found, expected)
    return why or differing_gradients(gradients, expected_gradients, limit(found.dtype))


def limit(dtype: torch.dtype) -> float:
    return EXACT if dtype == torch.float32 else ROUNDED


def trial(network: Attending) -> Batch:
    """Return a few sequences to compare with, longer than a kernel's blocks and a short window."""
    config = network.base.config.get_text_config()
    longest = LENGTHS[0]
    window = getattr(config, "sliding_window", None) or 0
    if window <= LONGEST_WINDOW and network.device.type == "cuda":
        longest = max(longest, window + 32)
    most = getattr(config, "max_position_embeddings", None) or longest
    lengths = [min(n, most) for n in (longest, *LENGTHS[1:])]
    vocabulary = int(config.vocab_size)
    factors = (3, 11, 7)
    rows = [sequence(n, vocabulary, f) for n, f in zip(lengths, factors, strict=True)]
    return pack(rows, network.device)


def backward(network: Attending, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the hidden states [T, d], and the adapter's gradients by name.

    The gradient of the states is random instead of a loss's: every state then counts alike, and no
    table of the vocabulary's size is needed.
    """
    with torch.enable_grad():
        states = network.hidden(batch)
    slope = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    states.backward(slope.to(states))  # type: ignore[no-untyped-call]
    gradients = {}
    for name, parameter in network.adapter.items():
        if parameter.grad is not None:
            gradients[name] = parameter.grad
        parameter.grad = None
    return states.detach(), gradients


def differing_gradients(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], most: float
) -> str | None:
    """Return why these gradients are not the expected ones, or None if they are.

    All matrices of one kind are judged together, for example `q_proj` of all layers: rounding evens
    out over them, and an error in queries, keys or values is not hidden by larger gradients.
    """
    if set(found) != set(expected):
        return "its gradients reach other parts of the model"
    wrong: dict[str, float] = defaultdict(float)
    whole: dict[str, float] = defaultdict(float)
    for name, gradient in expected.items():
        kind = name.split(".lora_")[0].rsplit(".", 1)[-1]
        wrong[kind] += float((found[name] - gradient).double().square().sum())
        whole[kind] += float(gradient.double().square().sum())
    shares = {k: math.sqrt(wrong[k] / whole[k]) for k in whole if whole[k] > 0}
    bad = {k: share for k, share in shares.items() if not share <= most}
    if not bad:
        return None
    told = ", ".join(f"{kind} {share:.1%}" for kind, share in sorted(bad.items()))
    return f"its gradients differ from those of each conversation alone ({told})"


def sequence(tokens: int, vocabulary: int, factor: int) -> Encoded:
    """Return an example of this many tokens, all with a label, for trying the model out."""
    ids = (np.arange(1, tokens + 1) * factor) % vocabulary
    return Encoded(ids.astype(np.int32), np.ones(tokens, np.bool_))

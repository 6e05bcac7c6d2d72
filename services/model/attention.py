"""Attention over sequences that are laid end to end in a row, each seeing only itself.

It is registered with transformers as `packed`. For this name transformers builds no mask; the
lengths travel as the extra keyword `lengths` through the model's forward. Sliding windows are kept
by one mask per sequence; scores with a soft cap (Gemma 2) are computed in full, without a fused
kernel. Attention with any other peculiarity is refused here; such a model then takes one
conversation at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from services.model.encoded import Encoded, all_weights

NAME = "packed"
# Arguments that some models pass to their attention and that are not implemented here: learned
# sinks, a bias for each position, the mask of a head.
PECULIAR = ("s_aux", "head_mask", "position_bias", "attention_bias")


@dataclass(frozen=True)
class Batch:
    """Examples laid end to end: T tokens in s sequences, n tokens with a label.

    ids, positions: int64 [1, T], positions count from 0 in each sequence.
    sources, targets: int64 [n]; the hidden state at `sources[i]` predicts the token `targets[i]`.
    ends: int32 [s + 1], where each sequence begins and, at last, T.
    lengths: tokens of each sequence (an example may be several); sequence_labels: labels of each
    sequence; labels: labels of each example.
    shared: if not 0, the length of the first sequence, which all others see as their beginning.
    factors: float32 [n], what each label's loss is multiplied by; None where all are 1.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    sources: torch.Tensor
    targets: torch.Tensor
    ends: torch.Tensor
    lengths: list[int]
    sequence_labels: list[int]
    labels: list[int]
    shared: int = 0
    factors: torch.Tensor | None = None


def pack(examples: Sequence[Encoded], device: torch.device) -> Batch:
    """Return a batch of examples, laid end to end on a device.

    All that a step needs to know of its batch is computed here, on the host, and copied at once.
    """
    ids = np.concatenate([e.ids for e in examples]).astype(np.int64)
    lengths = [length for e in examples for length in e.lengths]
    starts = np.cumsum([0, *(len(e) for e in examples)])
    at = [s + np.flatnonzero(e.labelled) for s, e in zip(starts, examples, strict=False)]
    labelled = np.concatenate(at)
    positions = np.concatenate([np.arange(n) for n in lengths])
    ends = np.cumsum([0, *lengths])
    parts = [ids, positions, labelled - 1, ids[labelled], ends]
    there = on_device(np.concatenate(parts), device)
    own_ids, own_positions, sources, targets, own_ends = torch.split(there, [*map(len, parts)])
    factors = all_weights(examples)
    return Batch(
        ids=own_ids[None],
        positions=own_positions[None],
        sources=sources,
        targets=targets,
        ends=own_ends.to(torch.int32),
        lengths=lengths,
        sequence_labels=np.diff(np.searchsorted(labelled - 1, ends)).tolist(),
        labels=[len(a) for a in at],
        factors=None if factors is None else on_device(factors[labelled], device),
    )


def on_device(numbers: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Return the numbers on a device, without waiting for the work that is queued there."""
    host = torch.from_numpy(numbers)
    # Only a copy from pinned memory is queued; the host waits for any other.
    return (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)


def packed_attention(  # noqa: PLR0917  # the order is that of transformers
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    lengths: list[int] | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    shared: int = 0,
    ends: torch.Tensor | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention of each sequence over itself, [1, tokens, heads, size].

    Query, key and value are [1, heads, tokens, size] each; keys and values may have fewer heads.
    `ends` (see Batch) is given where one kernel for all sequences was found to be right. Raises
    NotImplementedError for attention with more peculiarities than a window or a soft cap.
    """
    unknown = sorted(name for name in PECULIAR if rest.get(name) is not None)
    if unknown:
        raise NotImplementedError(f"this model's attention uses {', '.join(unknown)}")
    if lengths is None:
        if softcap is not None:
            raise NotImplementedError("a soft cap without the lengths of the sequences")
        out: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **rest
        )
        return out
    half = query.dtype in (torch.bfloat16, torch.float16)
    if ends is not None and half and softcap is None and dropout == 0 and not shared:
        return varlen(query, key, value, ends, max(lengths), scaling, sliding_window), None
    grouped = query.shape[1] != key.shape[1]
    parts: list[torch.Tensor] = []
    split = zip(*(torch.split(t, lengths, 2) for t in (query, key, value)), strict=True)
    for q, own_k, own_v in split:
        behind = shared if parts else 0  # the first sequence is the one that the others see
        k = torch.cat((key[:, :, :behind], own_k), 2) if behind else own_k
        v = torch.cat((value[:, :, :behind], own_v), 2) if behind else own_v
        if softcap is not None:
            parts.append(capped(q, k, v, scaling, softcap, sliding_window, dropout))
            continue
        mask = window(q.shape[2], sliding_window, q.device, k.shape[2])
        parts.append(
            functional.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=grouped,
            )
        )
    return torch.cat(parts, 2).transpose(1, 2), None


def capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    softcap: float,
    sliding_window: int | None,
    dropout: float,
) -> torch.Tensor:
    """Return the attention of one sequence whose scores s become cap * tanh(s / cap).

    All scores are held in memory at once.
    """
    tokens, size = query.shape[2:]
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
    scores = query @ key.transpose(2, 3) * (size**-0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap
    seen = window(tokens, sliding_window, query.device, key.shape[2])
    if seen is None:
        seen = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()
    scores = scores.masked_fill(~seen, float("-inf"))
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    return functional.dropout(weights, dropout, training=dropout > 0) @ value


def window(
    tokens: int, size: int | None, device: torch.device, seen: int | None = None
) -> torch.Tensor | None:
    """Return the mask [tokens, seen] of a causal sliding window of `size` tokens (None: no limit).

    It covers the last `tokens` of `seen` tokens (all, if not given). Returns None where plain
    causal attention over all does the same.
    """
    seen = seen or tokens
    if seen == tokens and (size is None or tokens <= size):
        return None
    at = torch.arange(seen, device=device)
    behind = at[seen - tokens :, None] - at[None, :]
    return (behind >= 0) & (behind < (size or seen))


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    longest: int,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    """Run one flash kernel over all sequences; needs a GPU. Returns [1, tokens, heads, size].

    Whether a model may use it on this card is decided by comparing states and gradients with those
    of the model's own attention (kernels.py).
    """
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        ends,
        ends,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        **fewer_keys(query.shape[1] != key.shape[1]),
    )
    assert isinstance(out, torch.Tensor)
    return out.unsqueeze(0)


def fewer_keys(are_shared: bool) -> dict[str, Any]:
    """Return the arguments that let queries share keys; torch 2.11's kernel needs none."""
    from torch.nn.attention.varlen import varlen_attn

    known = signature(varlen_attn).parameters
    return {"enable_gqa": are_shared} if "enable_gqa" in known else {}


def register() -> None:
    """Register this attention with transformers under its name."""
    AttentionInterface.register(NAME, packed_attention)

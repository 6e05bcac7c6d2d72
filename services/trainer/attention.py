"""Attention over sequences that lie one behind the other in a row, each seeing only itself.

Registered with transformers as `packed`. For this name transformers builds no mask; the lengths
travel as the extra keyword `lengths` through the model's forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from services.trainer.template import Encoded

NAME = "packed"


@dataclass(frozen=True)
class Batch:
    """Conversations laid end to end: T tokens, n of them with a label.

    ids, positions: int64 [1, T], positions count from 0 in each conversation.
    sources, targets: int64 [n]; the hidden state at `sources[i]` predicts the token `targets[i]`.
    lengths: tokens of each conversation; labels: labels of each.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    sources: torch.Tensor
    targets: torch.Tensor
    lengths: list[int]
    labels: list[int]


def pack(examples: Sequence[Encoded], device: torch.device) -> Batch:
    ids = np.concatenate([e.ids for e in examples]).astype(np.int64)
    lengths = [len(e) for e in examples]
    starts = np.cumsum([0, *lengths])
    # The first token of each conversation has no label: nothing of its own comes before it.
    at = [s + 1 + np.flatnonzero(e.trained[1:]) for s, e in zip(starts, examples, strict=False)]
    targets = np.concatenate(at)
    positions = np.concatenate([np.arange(n) for n in lengths])
    return Batch(
        ids=torch.from_numpy(ids)[None].to(device),
        positions=torch.from_numpy(positions)[None].to(device),
        sources=torch.from_numpy(targets - 1).to(device),
        targets=torch.from_numpy(ids[targets]).to(device),
        lengths=lengths,
        labels=[len(a) for a in at],
    )


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
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """[1, heads, tokens, size] each -> [1, tokens, heads, size]; keys may have fewer heads."""
    if softcap is not None:
        raise NotImplementedError("attention with soft-capped scores")
    if lengths is None:
        out: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **rest
        )
        return out
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return varlen(query, key, value, lengths, scaling, sliding_window), None
    grouped = query.shape[1] != key.shape[1]
    parts = [
        functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=window(q.shape[2], sliding_window, q.device),
            is_causal=sliding_window is None or q.shape[2] <= sliding_window,
            scale=scaling,
            enable_gqa=grouped,
        )
        for q, k, v in zip(*(torch.split(t, lengths, 2) for t in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, 2).transpose(1, 2), None


def window(tokens: int, size: int | None, device: torch.device) -> torch.Tensor | None:
    """The mask of a causal sliding window, only where the sequence is longer than the window."""
    if size is None or tokens <= size:
        return None
    at = torch.arange(tokens, device=device)
    behind = at[:, None] - at[None, :]
    return (behind >= 0) & (behind < size)


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int],
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    """One flash kernel over all sequences. UNTESTED: written from its documentation, no GPU."""
    from torch.nn.attention.varlen import varlen_attn

    ends = torch.tensor([0, *lengths], device=query.device).cumsum(0).to(torch.int32)
    longest = max(lengths)
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
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, torch.Tensor)
    return out.unsqueeze(0)


def register() -> None:
    AttentionInterface.register(NAME, packed_attention)

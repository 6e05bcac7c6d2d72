"""Attention with dropout against the same with the mask that the card drew, in float64."""

from collections.abc import Callable

import pytest
import torch

from services.model.attention import packed_attention

LENGTHS = [64, 40, 9]  # at most SIZE each: a whole row of chances fits into the values
SIZE, HEADS, GROUPS = 64, 4, 2
DROPS = 0.2
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 0.02}


@pytest.mark.parametrize("window", [None, 17])
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_dropout_is_that_of_its_own_mask_there_and_back(
    dtype: torch.dtype, window: int | None, figures: Callable[[str], None]
) -> None:
    torch.manual_seed(3)
    shapes = [(1, heads, sum(LENGTHS), SIZE) for heads in (HEADS, GROUPS, GROUPS, HEADS)]
    query, key, value, slope = (torch.randn(s, device="cuda").to(dtype) for s in shapes)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(7)
        out, _ = packed_attention(
            torch.nn.Module(), q, k, v, dropout=DROPS, lengths=LENGTHS, sliding_window=window
        )
        return out.transpose(1, 2)

    # With ones for values, what comes out are the chances themselves, and zeros tell the mask.
    ones = torch.cat([torch.eye(n, SIZE) for n in LENGTHS]).expand(1, GROUPS, -1, -1)
    kept = attend(query, key, ones.to(query)) != 0
    leaves = [t.clone().requires_grad_() for t in (query, key, value)]
    out = attend(*leaves)
    torch.autograd.backward(out, slope)
    exact = [t.detach().cpu().double().requires_grad_() for t in (query, key, value)]
    reference, dropped = by_mask(exact, kept.cpu(), window)
    torch.autograd.backward(reference, slope.cpu().double())
    errors = {"states": error(out, reference)}
    for name, found, wanted in zip(("queries", "keys", "values"), leaves, exact, strict=True):
        assert found.grad is not None
        assert wanted.grad is not None
        errors[name] = error(found.grad, wanted.grad)
    told = ", ".join(f"{name} {off:.1e}" for name, off in errors.items())
    figures(f"{dropped:.1%} dropped of {DROPS:.0%}; off by: {told}")
    assert abs(dropped - DROPS) < 0.05
    assert max(errors.values()) < LIMITS[dtype]


def by_mask(
    given: list[torch.Tensor], kept: torch.Tensor, window: int | None
) -> tuple[torch.Tensor, float]:
    """Attention of each sequence for itself with the chances that are kept; (it, share dropped)."""
    parts, seen, lost = [], 0, 0
    for q, k, v, own in zip(
        *(torch.split(t, LENGTHS, 2) for t in given), torch.split(kept, LENGTHS, 2), strict=True
    ):
        tokens = q.shape[2]
        keys, values = (t.repeat_interleave(HEADS // GROUPS, 1) for t in (k, v))
        at = torch.arange(tokens)
        behind = at[:, None] - at[None, :]
        causal = (behind >= 0) & (behind < (window or tokens))
        scores = (q @ keys.transpose(2, 3) * SIZE**-0.5).masked_fill(~causal, float("-inf"))
        mask = own[..., :tokens] & causal
        seen, lost = seen + int(causal.sum()) * HEADS, lost + int((causal & ~mask).sum())
        parts.append((torch.softmax(scores, -1) * mask / (1 - DROPS)) @ values)
    return torch.cat(parts, 2), lost / seen


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    difference = found.detach().cpu().double() - wanted.detach()
    return float(difference.norm() / wanted.detach().norm())

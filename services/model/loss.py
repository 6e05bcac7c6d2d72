"""Computes cross-entropy at the labels, without a table of [tokens, vocabulary].

The language model's head is frozen, so the gradient can be computed together with the loss: two
matrix products, chunk by chunk, and nothing of vocabulary size is kept.
"""

from typing import Any

import torch
from torch.nn import functional

from shared.memory_estimate import HEAD_CHUNK_TOKENS


class FrozenHeadLoss(torch.autograd.Function):
    """The loss of a frozen head, as a function that torch can differentiate.

    (hidden [n, d], weight [V, d], targets [n], factors [n] float32 or None) -> (sum of the losses
    times their factors, losses [n] float32 without them). No factors: all are 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        factors: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses, and keep the gradient of the hidden states for `backward`."""
        gradient = torch.empty_like(hidden)
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), HEAD_CHUNK_TOKENS):
            here = slice(start, start + HEAD_CHUNK_TOKENS)
            logits = (hidden[here] @ weight.t()).float()
            target = targets[here, None]
            normalizer = torch.logsumexp(logits, -1, keepdim=True)
            losses[here] = (normalizer - logits.gather(1, target)).squeeze(1)
            # d loss / d logits = softmax - one_hot, in place: the logits are not needed again.
            slope = logits.sub_(normalizer).exp_()
            slope.scatter_(1, target, slope.gather(1, target) - 1)
            if factors is not None:
                slope.mul_(factors[here, None])
            torch.mm(slope.to(weight.dtype), weight, out=gradient[here])
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(losses)
        return total(losses, factors), losses

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """Return the gradient of the hidden states alone; the head is frozen."""
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0], None, None, None


def plain_loss(
    logits: torch.Tensor, targets: torch.Tensor, factors: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (sum of the losses times their factors, losses [n] float32) from logits [n, V].

    It serves heads with a bias, a scale or a soft cap.
    """
    losses = functional.cross_entropy(logits.float(), targets, reduction="none")
    return total(losses, factors), losses.detach()


def total(losses: torch.Tensor, factors: torch.Tensor | None) -> torch.Tensor:
    """Return the sum of the losses, each times its factor."""
    return losses.sum() if factors is None else (losses * factors).sum()


def most_likely(
    logits: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (loss of the target, most likely token, its loss) from logits [n, V].

    Each is [n]; the losses are float32.
    """
    chances = torch.log_softmax(logits.float(), -1)
    top = chances.max(-1)
    return -chances.gather(1, targets[:, None]).squeeze(1), top.indices, -top.values

"""A table of model families and templates by the checks that the tests make of them.

    python -m tests.bench.families

Tiny random models in float32: how far loss and gradients are from transformers' own, packed and
one conversation at a time, what is done otherwise, and whether generation and masks are right.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.tiny import FAMILIES, ODD, make_family
from tests.unit import test_loop_families as models
from tests.unit import test_mask_families as masks
from tests.unit.test_loop import awake


def main() -> None:
    console = Console(width=140)
    with tempfile.TemporaryDirectory() as name:
        console.print(of_models(Path(name)))
        console.print(of_masks(masks.make_base(Path(name) / "tokenizer")))


def of_models(folder: Path) -> Table:
    table = Table(title="Models: difference from transformers (limits: 1e-5 and 1e-4)")
    for head in ("family", "loss", "gradients", "one by one", "answers", "otherwise"):
        table.add_column(head)
    for family in (*FAMILIES, *ODD):
        network = awake(make_family(folder / family, family))
        notes = "; ".join(network.notes) or "-"
        loss, gradient = models.difference(network)
        models.one_by_one(network)
        alone = max(models.difference(network))
        answers = verdict(models.test_a_family_answers_as_it_was_measured, family, folder / "said")
        right = loss <= models.LOSS_LIMIT and gradient <= models.GRADIENT_LIMIT
        numbers = (f"{loss:.0e}", f"{gradient:.0e}", f"{alone:.0e}")
        table.add_row(family, *numbers, answers, notes, style=None if right else "red")
    return table


def of_masks(base: Path) -> Table:
    table = Table(title="Templates: what is trained, and that the tokens are transformers' own")
    for head in ("family", "each answer and its end, once", "tokens, one bos"):
        table.add_column(head)
    trained = partial(
        verdict, masks.test_each_answer_is_trained_once_with_its_end_and_after_its_own_prompt
    )
    same = partial(verdict, masks.test_tokens_are_those_that_transformers_gives_with_one_bos)
    for family in masks.FAMILIES:
        table.add_row(family, trained(family, base), same(family, base))
    for family in masks.OTHERWISE:
        table.add_row(family, trained(family, base), "-")
    return table


def verdict(test: Callable[..., None], *case: Any) -> str:
    """What one of the tests says of a case."""
    try:
        test(*case)
    except AssertionError:
        return "[red]WRONG[/red]"
    return "right"


if __name__ == "__main__":
    main()

"""duramen estimate: the GPU memory that training a base takes, before anything is loaded."""

import re
from pathlib import Path
from typing import Annotated

import typer

from services.ctl import cli
from services.ctl.views.stored_bases import find_root
from shared import memory_estimate
from shared.errors import UsageError
from shared.formats.adapter import AdapterShape
from shared.memory_estimate import Choice, Estimate, Shape, gib
from shared.store.base_shape import shape_in_store

SIZE = re.compile(r"^([0-9]+(?:\.[0-9]+)?) ?(K|M|G|T)?I?B?$", re.IGNORECASE)
POWERS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def estimate(
    base: Annotated[str, typer.Argument(help="A model directory or a stored base.")],
    gpu_memory: Annotated[
        str, typer.Option("--gpu-memory", help="Memory of the GPU, or `cpu:64GB`.")
    ] = "24GB",
    *,
    rank: Annotated[int, typer.Option("--rank", min=1)] = 16,
    tokens: Annotated[
        int, typer.Option("--tokens", min=16, help="Tokens of the longest row, which is never cut.")
    ] = 2048,
    json: cli.Json = False,
) -> None:
    """Estimate how a base would be trained on a GPU: number format, memory by part."""
    on_cpu = gpu_memory.startswith("cpu:")
    size = size_in_bytes(gpu_memory.removeprefix("cpu:"))
    folder = Path(base)
    shape = memory_estimate.shape_of_folder(folder) if folder.is_dir() else stored(base)
    wish = Choice("float32" if on_cpu else "bfloat16", tokens)
    device = "cpu" if on_cpu else "cuda"
    chosen = memory_estimate.choose_fitting(shape, size, wish, AdapterShape(rank=rank), device)
    value = {
        "numbers": shape.numbers,
        "card_bytes": size,
        "fits": chosen.total <= size,
        "total_bytes": chosen.total,
        "parts": chosen.parts,
        "dtype": chosen.choice.dtype,
        "quantize": chosen.choice.quantize,
        "gradient_checkpointing": chosen.choice.checkpointing,
        "micro_tokens": chosen.choice.tokens,
    }
    cli.emit(value, json, lambda: print_estimate(shape, size, chosen))


def print_estimate(shape: Shape, size: int, chosen: Estimate) -> None:
    say = cli.console.print
    say(f"{shape.numbers / 1e9:.2f} billion numbers in {shape.layers} layers of {shape.hidden}")
    cli.print_table(["part", "memory"], [[name, gib(part)] for name, part in chosen.parts.items()])
    verdict = "fits into" if chosen.total <= size else "does not fit into"
    say(f"{gib(chosen.total)} {verdict} {gib(size)}: {chosen.choice}")
    if chosen.choice.quantize == "nf4" and chosen.total <= size:
        say("Next: duramen lineage new NAME --base … --quantize nf4")


def stored(shown: str) -> Shape:
    store = cli.first_store(cli.settings())
    return shape_in_store(store, find_root(store, shown))


def size_in_bytes(text: str) -> int:
    """Return the bytes that `24GB`, `24 GiB` or `512M` means, in powers of two as on a card.

    Raises UsageError.
    """
    match = SIZE.match(text.strip())
    if match is None or not match[2]:
        raise UsageError(f"{text!r} is not a size. Write it like this: 24GB.")
    return int(float(match[1]) * 2 ** POWERS[(match[2] or "").upper()])

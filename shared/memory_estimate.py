"""An estimate of the memory for training, from a base's config.json and weight headers.

Arithmetic only: nothing is loaded, so it can be made on any machine, about any base and any card.
It was measured against real workers on a CPU (tests/unit/test_estimate.py) and on a GPU
(tests/gpu).
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from shared.errors import UsageError
from shared.formats.adapter import AdapterShape
from shared.formats.base_layers import HEADS
from shared.formats.model_files import index_in, read_header, weights_of
from shared.left_out import mixtures_in, why_left_out

Dtype = Literal["float32", "bfloat16"]
Quantize = Literal["none", "nf4"]
GIB = 2**30
WIDTHS = {"float32": 4, "bfloat16": 2}  # bytes of a number
NF4_BYTES = 0.516  # of a number, with its share of the constants, themselves quantised
# Of the loss: logits are held for as many tokens at a time, here and in the loss itself.
HEAD_CHUNK_TOKENS = 512
HEAD_COPIES = 3  # logits, their exponentials, and the product before it is widened
# A head that is more than a matrix goes the ordinary way: capped logits, chances, two gradients.
FULL_HEAD_COPIES = 4
SCORE_BYTES = 8  # of a score with a cap, for the way back: its tangent and its share, and a copy
# A field as most families name it, and as older ones do.
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model")
ATTENTION = ("num_attention_heads", "n_head", "num_heads", "n_heads")
SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")
# Tokens that answers may hold in their cache, for each of a micro-batch.
CACHE_SHARE = 4
OVERHEAD = {"cuda": 0.9 * GIB, "cpu": 0.7 * GIB}  # context and kernels, or the libraries
SLACK = {"cuda": 1.08, "cpu": 1.05}  # holes between the allocator's blocks
# The same among activations: on a CPU what is kept lies between what was freed, of other sizes
# (SmolLM2-135M: 1.3 to 2.1 with 512 to 2048 tokens at once, tests/bench/bench_memory.py).
HOLES = {"cuda": 1.08, "cpu": 1.8}
# Of the activations that checkpointing frees, what the allocator still holds: the kept inputs of
# the layers lie among the freed rest (SmolLM2: 0.05, 0.21, 0.40 with 1024, 2048, 4096 tokens).
UNFREED = {"cuda": 0.0, "cpu": 0.25}


@dataclass(frozen=True)
class Linear:
    """A matrix inside a layer: `outs` x `ins` numbers. `name`: `model.layers.0.mlp.up_proj`."""

    name: str
    outs: int
    ins: int
    is_left_out: bool = False  # of all-linear

    def is_named(self, target: str) -> bool:
        """Return whether a LoRA target means it: by its name, or by the end of its name."""
        return self.name == target or self.name.endswith(f".{target}")


@dataclass(frozen=True)
class Shape:
    """The properties of a base that decide about memory. `numbers`: all that its files hold."""

    numbers: int
    layers: int
    hidden: int
    vocabulary: int
    key_values: int  # of a token in one layer
    linears: tuple[Linear, ...]  # of all layers
    is_head_plain: bool = True  # a matrix and nothing else: never all logits at once
    capped_heads: int = 0  # of a layer whose attention scores have a soft cap: all are held


@dataclass(frozen=True)
class Choice:
    """A way to train. `tokens` go through the model at once, at least those of the longest row."""

    dtype: Dtype
    tokens: int
    quantize: Quantize = "none"
    checkpointing: bool = False

    def __str__(self) -> str:
        weights = "nf4" if self.quantize == "nf4" else self.dtype
        recomputed = ", gradient checkpointing" if self.checkpointing else ""
        return f"{weights} weights, {self.tokens} tokens at once{recomputed}"


@dataclass(frozen=True)
class Estimate:
    """The bytes in use at the peak, by what takes them."""

    choice: Choice
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {gib(size)}" for name, size in self.parts.items())
        return f"{gib(self.total)} ({parts}) with {self.choice}"


def estimate_memory(shape: Shape, choice: Choice, adapter: AdapterShape, device: str) -> Estimate:
    """Return the peak of training or of a snapshot, whichever is more."""
    width = WIDTHS[choice.dtype]
    tuned = tuple(m for m in shape.linears if not m.is_left_out)
    if not isinstance(adapter.targets, str):
        tuned = tuple(m for m in shape.linears if any(map(m.is_named, adapter.targets)))
    trained = adapter.rank * sum(m.outs + m.ins for m in tuned)
    inside = sum(m.outs * m.ins for m in shape.linears)
    quantized = inside * NF4_BYTES if choice.quantize == "nf4" else inside * width
    head = HEAD_CHUNK_TOKENS * shape.vocabulary * 4 * HEAD_COPIES
    if not shape.is_head_plain:
        head = choice.tokens * shape.vocabulary * 4 * FULL_HEAD_COPIES
    # Of each layer that keeps its own, and once more of the one that is computed.
    scores = shape.capped_heads * choice.tokens**2 * SCORE_BYTES
    scores *= 2 if choice.checkpointing else shape.layers + 1
    saved = activations(shape, tuned, adapter, width) * choice.tokens
    states = 4 * shape.hidden * width * choice.tokens  # before and behind the layers
    if choice.checkpointing:  # the inputs of all layers, and all of the one that is done again
        saved *= 1 / max(1, shape.layers) + UNFREED[device]
        saved += shape.layers * shape.hidden * width * choice.tokens
    held = 2 * shape.key_values * shape.layers * width  # keys and values of a token
    cache = CACHE_SHARE * choice.tokens * held
    parts = {
        "weights": quantized + (shape.numbers - inside) * width,
        "adapter": trained * 4,
        "gradients": trained * 4,
        "optimizer": trained * 8,
    }
    parts = {name: size * SLACK[device] for name, size in parts.items()}
    parts["activations"] = max(saved + states + scores + head, cache + head) * HOLES[device]
    parts["overhead"] = OVERHEAD[device]
    return Estimate(choice, {name: int(size) for name, size in parts.items()})


def activations(
    shape: Shape, tuned: tuple[Linear, ...], adapter: AdapterShape, width: int
) -> float:
    """Return the bytes per token that all layers keep for the backward pass.

    They are the outputs of each matrix; once, the inputs of matrices that read the same; and two
    more states for the norms and the gate. The adapter computes in float32, and applies dropout to
    its own copy.
    """
    outs = sum(m.outs for m in shape.linears)
    layers = max(1, shape.layers)
    distinct = 2 * shape.hidden + max((m.ins for m in shape.linears), default=0) + shape.hidden
    norms = 2 * shape.hidden * (1 if width == 4 else 3)
    kept = (outs + layers * (distinct + norms)) * width
    copy = (4 if width == 2 or adapter.dropout else 0) + (1 if adapter.dropout else 0)
    return kept + sum(m.ins for m in tuned) * copy + len(tuned) * adapter.rank * 4


def choose_fitting(
    shape: Shape,
    free: int,
    choice: Choice,
    adapter: AdapterShape,
    device: str,
) -> Estimate:
    """Return the estimate of the first way that fits in `free` bytes, or of the smallest one.

    Ways are tried from `choice` on. Checkpointing changes no result, but takes time; nf4 changes
    the result. The tokens stay those of the longest row, which is never cut.
    """
    tried = estimate_memory(shape, choice, adapter, device)
    for way in ways(choice):
        if tried.total <= free:
            break
        tried = estimate_memory(shape, way, adapter, device)
    return tried


def ways(choice: Choice) -> Iterator[Choice]:
    """Yield the ways to train, from the one that needs most memory to the smallest."""
    for quantize in ("none", "nf4") if choice.quantize == "none" else ("nf4",):
        yield replace(choice, quantize=quantize)
        yield replace(choice, quantize=quantize, checkpointing=True)


# ---- reading a base ------------------------------------------------------------------------------


def shape_of(config: dict[str, Any], headers: Iterable[dict[str, Any]]) -> Shape:
    """Return the shape of a base, from its config.json and the headers of its safetensors files.

    `headers`: of all of them. Raises UsageError.
    """
    text = config.get("text_config") or config
    try:
        layers, hidden, heads = (first_of(text, names) for names in (LAYERS, HIDDEN, ATTENTION))
        size = int(text.get("head_dim") or hidden // heads)
        groups = int(text.get("num_key_value_heads") or heads)
        vocabulary = int(text.get("vocab_size") or config.get("vocab_size") or 0)
        tensors = [
            (str(name), [int(n) for n in entry["shape"]])
            for header in headers
            for name, entry in header.items()
        ]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"The size of this base cannot be derived from its files: {error}"
        ) from error
    return Shape(
        numbers=sum(math.prod(shape) for _, shape in tensors),
        layers=layers,
        hidden=hidden,
        vocabulary=vocabulary,
        key_values=groups * size,
        linears=tuple(matrices(tensors, str(text.get("model_type") or config.get("model_type")))),
        is_head_plain=is_head_plain(text, {name for name, _ in tensors}),
        capped_heads=heads if text.get("attn_logit_softcapping") is not None else 0,
    )


def first_of(config: dict[str, Any], names: tuple[str, ...]) -> int:
    """Return the first of these fields that a configuration has. Raises KeyError."""
    found = next((config[name] for name in names if config.get(name)), None)
    if found is None and names is not ATTENTION:  # Mamba has no heads
        raise KeyError(names[0])
    return int(found or 1)


def is_head_plain(text: dict[str, Any], names: set[str]) -> bool:
    """Return whether the head is a matrix and nothing else, as far as the files tell.

    A worker tries it out (`Network.plain_head`).
    """
    biased = any(f"{head}.bias" in names for head in HEADS)
    scaled = any((text.get(name) or 1) != 1 for name in SCALES)
    return text.get("final_logit_softcapping") is None and not scaled and not biased


def matrices(tensors: Iterable[tuple[str, list[int]]], model_type: str) -> Iterator[Linear]:
    """Yield the matrices of the layers.

    Embeddings and head are left out: their names have no layer's number.
    """
    found = {
        name.removesuffix(".weight"): shape
        for name, shape in tensors
        if len(shape) == 2
        and name.endswith(".weight")
        and any(part.isdigit() for part in name.split("."))
    }
    mixtures = mixtures_in(found)
    for name, (outs, ins) in found.items():
        yield Linear(name, outs, ins, why_left_out(name, model_type, mixtures) is not None)


def shape_of_folder(folder: Path) -> Shape:
    """Return the shape of a model directory. Raises UsageError."""
    headers = []
    try:
        config = json.loads((folder / "config.json").read_bytes())
        here = {path.name for path in folder.iterdir()}
        for name in sorted(weights_of(here, index_in(folder)) & here):
            with (folder / name).open("rb") as file:
                headers.append(read_header(file, name))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} is not a model directory: {error}") from error
    if not headers:
        raise UsageError(f"{folder} contains no *.safetensors weights.")
    return shape_of(config, headers)


# ---- sizes for people ----------------------------------------------------------------------------


def gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"

"""Tries a base out: `python -m services.trainer.worker.base_trial REQUEST.json`.

It prints one JSON object, the fields of `shared.answers.trainer.BaseTried`. A network is built on
the CPU, takes a few steps on made-up text, and saves its adapter; plain transformers and peft load
that, and must give the same logits. A base without its weights beside it is tried by a smaller
network of the same kind with random weights.
"""

import gc
import json
import math
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pydantic import BaseModel, ConfigDict

from shared.child import die_with_parent
from shared.errors import CannotTrain
from shared.formats.adapter import AdapterShape

if TYPE_CHECKING:
    import torch

    from services.model.attention import Batch
    from services.model.network import Network

TRIAL_STEPS, RATE = 4, 2e-3
TRIAL_TOKENS = 24  # of the made-up text: a model takes a step of it in a moment, whatever its size
MOST_TRIAL_BYTES = 10 << 30
SAME = 1e-3  # of the largest logit: float32, computed in another order


class TrialRequest(BaseModel):
    """A request to try a base: itself, if its weights lie in `base_dir`, or a smaller network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_dir: Path
    lora: AdapterShape
    whole: bool


def tried(request: TrialRequest) -> dict[str, Any]:
    """Return what was found. Raises CannotTrain."""
    from services.trainer.worker import base_check
    from services.trainer.worker.smaller_base import write_smaller

    began = time.monotonic()
    base_check.check_code(base_check.configuration(request.base_dir))
    with tempfile.TemporaryDirectory(prefix="duramen-trial-") as name:
        folder, lora = Path(name), request.lora
        base, what = request.base_dir, "the base itself"
        if not request.whole:
            what, lora = write_smaller(base, lora, folder / "base")
            base = folder / "base"
        try:
            found = try_out(base, lora, folder / "adapter")
        except CannotTrain as failure:
            if request.whole or "cannot be trained" in failure.message:
                raise
            found = {"doubt": failure.message}  # it may be for the sake of what was left away
    return {"what": what, "seconds": round(time.monotonic() - began, 1), **found}


def try_out(base: Path, lora: AdapterShape, folder: Path) -> dict[str, Any]:
    """Train a few steps, save to `folder`, load in plain peft, and compare; return what was found.

    Raises CannotTrain.
    """
    from services.model.network import Network
    from services.model.refusal import refusing

    network = Network(base, "float32", lora, seed=0, device="cpu")
    with refusing("trained", network.type, ",".join(network.adapted())):
        found_out: list[str] = []
        losses = steps(network, found_out)
        write_adapter(network, folder)
        ids, expected = logits_of(network)
    with refusing("made to answer", network.type):
        check_answers(network)
    found = {
        "adapted": network.adapted(),
        "left_out": [{"names": list(o.names), "why": o.why} for o in network.left_out],
        "notes": network.notes + found_out,
        "parameters": sum(p.numel() for p in network.adapter.values()),
        "losses": losses,
    }
    base_type = network.type
    del network
    gc.collect()
    with refusing("loaded again with its adapter", base_type):
        check_same(by_peft(base, folder, ids), expected, base_type)
    return found


def steps(network: "Network", notes: list[str]) -> list[float]:
    """Take a few steps on one text; return the loss before and after, without dropout.

    Raises CannotTrain (base) if a loss is not a number.
    """
    import torch

    from services.model.attention import pack
    from services.model.kernels import sequence

    vocabulary = int(network.base.config.get_text_config().vocab_size)
    rows = [sequence(TRIAL_TOKENS, vocabulary, 3), sequence(TRIAL_TOKENS // 2, vocabulary, 7)]
    batch = pack(rows, network.device)
    optimizer = torch.optim.AdamW(network.adapter.values(), lr=RATE, weight_decay=0.0)
    before = mean_loss(network, batch)
    for _ in range(TRIAL_STEPS):
        total, each = network.loss(batch)
        torch.autograd.backward(total / len(each))
        notes += unreached(network) if not notes else []
        optimizer.step()
        optimizer.zero_grad()
    after = mean_loss(network, batch)
    if not math.isfinite(before + after):
        raise CannotTrain(
            "base",
            f"The base (model type {network.type}) computes losses that are not numbers. Its "
            "weights may be damaged: download it again, then type duramen base add DIR",
        )
    if after >= before:
        notes.append(f"its loss on one text did not fall ({before:.3f}, then {after:.3f})")
    return [round(before, 4), round(after, 4)]


def mean_loss(network: "Network", batch: "Batch") -> float:
    with network.measuring():
        return float(network.predict(batch)[0].mean())


def unreached(network: "Network") -> list[str]:
    """Return a note about adapters that no gradient reaches.

    Raises CannotTrain (base) if one of them was asked for by name.
    """
    from services.model.targets import AGAIN, path_of

    kinds: dict[str, bool] = {}
    for name, parameter in network.adapter.items():
        end = path_of(name).removesuffix(".base_layer").rpartition(".")[2]
        kinds[end] = kinds.get(end, False) or parameter.grad is not None
    without = sorted(end for end, reached in kinds.items() if not reached)
    if not without:
        return []
    said = f"no gradient reaches an adapter on {', '.join(without)}"
    if network.is_named:
        rest = ",".join(sorted(set(kinds) - set(without)))
        raise CannotTrain("base", f"In this base (model type {network.type}) {said}. {AGAIN}{rest}")
    return [said]


def check_answers(network: "Network") -> None:
    """Let the network answer two prompts at once, as snapshots do."""
    from services.model.generation import Answering

    with network.generating():
        Answering(network, stops=[1], most_tokens=64).generate([[3, 5, 7, 9, 11], [4, 6]], [3, 2])


def logits_of(network: "Network") -> "tuple[torch.Tensor, torch.Tensor]":
    """Return a text [1, T] and the logits [T - 1, V] that the network gives for it."""
    from services.model.attention import pack
    from services.model.kernels import sequence

    vocabulary = int(network.base.config.get_text_config().vocab_size)
    batch = pack([sequence(TRIAL_TOKENS, vocabulary, 3)], network.device)
    with network.measuring():
        return batch.ids, network.logits(batch)


def write_adapter(network: "Network", folder: Path) -> None:
    """Write the adapter as a version has it."""
    from safetensors.numpy import save_file

    from services.model.lora import adapter_config

    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_bytes(adapter_config(network.model))
    save_file(network.state(), str(folder / "adapter_model.safetensors"))


def by_peft(base: Path, adapter: Path, ids: "torch.Tensor") -> "torch.Tensor":
    """Return the logits [T - 1, V] that transformers and peft give, with nothing of ours."""
    import warnings

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain: Any = AutoModelForCausalLM.from_pretrained(
        str(base), dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(plain, str(adapter)).eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0, :-1]
    return found


def check_same(found: "torch.Tensor", expected: "torch.Tensor", base_type: str) -> None:
    """Check that two tensors of logits are the same. Raises CannotTrain (base)."""
    expected = expected[: len(found)]
    scale = max(float(expected.abs().max()), 1.0)
    difference = float((found - expected).abs().max()) / scale
    if not difference <= SAME:
        raise CannotTrain(
            "base",
            f"The adapter of this base (model type {base_type}) does not survive being saved: "
            f"plain peft gives logits that differ by {difference:.1%}. Name other layers with "
            "--targets, or take another base: duramen base add DIR",
        )


def main(path: str) -> None:
    from services.trainer.worker.__main__ import leave_out_quantizer

    die_with_parent()
    os.nice(19)  # a job may be training
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_TRIAL_BYTES, MOST_TRIAL_BYTES))
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    leave_out_quantizer()
    try:
        found = tried(TrialRequest.model_validate_json(Path(path).read_bytes()))
    except CannotTrain as failure:
        found = {"failed": {"kind": failure.kind, "message": failure.message}}
    output.write(json.dumps(found))
    output.flush()


if __name__ == "__main__":
    main(sys.argv[1])

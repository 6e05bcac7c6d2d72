"""Bases of unusual kinds are trained as plain peft would have them, or refused with a way out."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from services.model.network import Network
from services.model.refusal import refusing
from services.trainer.worker import base_check
from services.trainer.worker.base_trial import TrialRequest, tried, try_out
from shared import left_out
from shared.errors import CannotTrain
from shared.formats.adapter import AdapterShape
from tests.odd_bases import make_odd

LORA = AdapterShape(rank=4, alpha=8)
ALL = "all-linear"


def tried_out(folder: Path, family: str, targets: str = ALL, **changes: Any) -> dict[str, Any]:
    """What is found of a base with these targets, with commas."""
    make_odd(folder / "base", family)
    base_check.check_base(folder / "base", "float32", 1 << 40)
    named = targets if targets == ALL else tuple(targets.split(","))
    lora = LORA.model_copy(update={"targets": named, **changes})
    return try_out(folder / "base", lora, folder / "adapter")


# family -> (layers with an adapter, layers without one)
TRAINED = {
    "Llama 4 (text)": ("down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj", "experts,router"),
    "Mixtral": ("k_proj,o_proj,q_proj,v_proj", "experts,gate"),
    "Qwen3-Next": (
        "in_proj_ba,in_proj_qkvz,k_proj,o_proj,out_proj,q_proj,v_proj",
        "down_proj,experts,gate,gate_proj,shared_expert_gate,up_proj",
    ),
    "gpt-oss": ("k_proj,o_proj,q_proj,v_proj", "experts,router"),
    "GPT-2": ("c_attn,c_fc,c_proj", ""),
    "Mamba": ("in_proj,x_proj", "dt_proj,out_proj"),
    "Falcon-H1": ("down_proj,gate_proj,in_proj,k_proj,o_proj,q_proj,up_proj,v_proj", "out_proj"),
    "Jamba": (
        "down_proj,gate_proj,in_proj,k_proj,o_proj,out_proj,q_proj,up_proj,v_proj,x_proj",
        "dt_proj,experts,router",
    ),
    "DeepSeek-V3, R1, Kimi-K2": (
        "kv_a_proj_with_mqa,kv_b_proj,o_proj,q_a_proj,q_b_proj",
        "down_proj,experts,gate,gate_proj,up_proj",
    ),
    "JetMoE": ("kv_proj", "experts,input_linear,output_linear,router"),
    "RWKV": ("key,output,receptance,value", ""),
}


@pytest.mark.parametrize("family", TRAINED)
def test_all_linear_takes_what_can_be_adapted_and_tells_the_rest(
    family: str, tmp_path: Path
) -> None:
    found = tried_out(tmp_path, family)
    adapted, without = TRAINED[family]
    assert ",".join(found["adapted"]) == adapted
    assert ",".join(sorted(n for kind in found["left_out"] for n in kind["names"])) == without
    before, after = found["losses"]
    assert after < before


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        *((f, "q_proj,experts") for f in ("gpt-oss", "Llama 4 (text)", "Qwen3-Next")),
        ("Mixtral", "q_proj,gate"),
        ("Mixtral", "w1,w2,w3"),
        ("Qwen3-MoE", "experts.gate_up_proj"),
        ("Llama", "q_proj,embed_tokens"),
        ("Llama", "lm_head"),
        ("Llama, tied", "layers.1.mlp.up_proj"),
    ],
)
def test_what_is_named_is_trained_whatever_it_is(family: str, targets: str, tmp_path: Path) -> None:
    before, after = tried_out(tmp_path, family, targets)["losses"]
    assert after < before


REFUSED = {
    ("Llama, tied", "lm_head"): "one matrix as its embedding and as its head.*--targets down_proj",
    ("Llama, tied", "q_proj,embed_tokens"): "one matrix as its embedding",
    ("GPT-2", "wte"): "one matrix as its embedding.*--targets c_attn,c_fc,c_proj",
    ("Llama", "q_prj"): "no layer 'q_prj'. The nearest names are q_proj",
    ("Llama", "norm,q_proj"): "norm of this base .*LlamaRMSNorm, not a matrix.*--targets",
    ("Llama", "v_proj,mlp"): "LlamaMLP, not.*--targets down_proj,gate_proj,up_proj,v_proj",
    ("Mamba", "out_proj"): "out_proj .*peft refuses it.*--targets in_proj,x_proj",
    ("Mamba", "dt_proj"): "past an adapter.*--targets in_proj,x_proj",
    ("Qwen3-MoE", "gate_proj"): "without also targeting.*--targets gate_proj,up_proj,down_proj",
    ("Llama 4 (text)", "q_proj,router"): (
        r"model type llama4_text.*feed_forward.router .*--targets q_proj"
    ),
    ("BERT", ALL): "reads ahead.*base add",
    ("T5", ALL): "encoder with a decoder.*base add",
    ("LLaVA", ALL): "also sees or hears.*a llama: duramen base add",
    ("xLSTM", ALL): "model type xlstm.*cannot be made to answer.*base add",
}


@pytest.mark.parametrize(("family", "targets"), REFUSED)
def test_what_cannot_be_trained_is_refused_with_a_way_out(
    family: str, targets: str, tmp_path: Path
) -> None:
    with pytest.raises(CannotTrain, match=REFUSED[family, targets]) as caught:
        tried_out(tmp_path, family, targets)
    assert caught.value.kind == "base"


def test_experts_with_dropout_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(CannotTrain, match="--dropout 0 --targets experts"):
        tried_out(tmp_path, "gpt-oss", "experts", dropout=0.1)


def test_a_lineage_from_before_goes_on_with_all_that_it_began_with(tmp_path: Path) -> None:
    """Its adapter also has layers that are left out today; a checkpoint fits one set of layers."""
    base = make_odd(tmp_path, "Jamba")
    names = [f"base_model.model.model.layers.0.mamba.dt_proj.lora_{m}.weight" for m in "AB"]
    old = Network(base, "float32", LORA, 0, known=names)
    assert set(names) <= set(old.adapter)
    assert not old.left_out
    new = Network(base, "float32", LORA, 0)
    again = Network(base, "float32", LORA, 0, known=new.adapter)
    assert set(again.adapter) == set(new.adapter) < set(old.adapter)


@pytest.mark.parametrize("kind", left_out.MAMBA_TYPES)
@pytest.mark.parametrize("name", left_out.MAMBA_MODULES)
def test_peft_refuses_what_is_left_out_for_its_sake(kind: str, name: str) -> None:
    class Model(torch.nn.Module):
        config = type("Config", (), {"model_type": kind, "tie_word_embeddings": False})()

        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, torch.nn.Linear(2, 2))

    asked: Any = LoraConfig(target_modules=[name])
    with pytest.raises(ValueError, match="incompatible"):
        get_peft_model(Model(), asked)


class Broken(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)
        self.inner.register_forward_pre_hook(lambda *_: os.environ["NOT SET"])

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x)


@pytest.mark.parametrize("error", [AttributeError, KeyError, TypeError, AssertionError, OSError])
def test_any_error_names_the_base_and_a_way_out(error: type[Exception]) -> None:
    with (
        pytest.raises(CannotTrain, match=r"model type marvel.*loaded.*x.*base add"),
        refusing("loaded", "marvel"),
    ):
        raise error("x")


def test_an_error_inside_a_module_names_it_and_what_to_leave_out() -> None:
    with (
        pytest.raises(CannotTrain, match=r"in inner \(Linear\): KeyError.*--targets q_proj$"),
        refusing("trained", "marvel", "inner,q_proj"),
    ):
        Broken()(torch.zeros(1, 2))
    with pytest.raises(MemoryError), refusing("trained", "marvel"):
        raise MemoryError


def test_a_large_base_is_tried_by_a_smaller_one_without_its_weights(tmp_path: Path) -> None:
    make_odd(tmp_path, "Jamba")
    (tmp_path / "model.safetensors").unlink()
    found = tried(TrialRequest(base_dir=tmp_path, lora=LORA, whole=False))
    assert re.match("a smaller network of the same kind", found["what"])
    assert found["losses"][1] < found["losses"][0]
    wrong = LORA.model_copy(update={"targets": ("q_prj",)})
    with pytest.raises(CannotTrain, match="nearest names are q_proj"):
        tried(TrialRequest(base_dir=tmp_path, lora=wrong, whole=False))

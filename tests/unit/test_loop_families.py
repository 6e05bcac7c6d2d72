"""Each family of models trains as transformers would train it, or says what it does otherwise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from services.model import attention
from services.model.attention import pack
from services.model.encoded import Encoded
from services.model.kernels import Way
from services.model.network import Network
from services.model.teacher_forcing import pack_behind
from services.trainer.worker import base_check
from shared.memory_estimate import shape_of_folder
from tests.tiny import FAMILIES, ODD, make_family
from tests.unit.test_loop import awake, examples

LOSS_LIMIT, GRADIENT_LIMIT = 1e-5, 1e-4
ROWS = examples(seed=7, vocabulary=300)


def by_transformers(network: Network, rows: list[Encoded]) -> torch.Tensor:
    """Mean loss over the labels of padded rows, by the model's own attention and head."""
    width = max(len(r) for r in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for n, row in enumerate(rows):
        here = torch.from_numpy(row.ids.astype(np.int64))
        ids[n, : len(row)], mask[n, : len(row)] = here, 1
        labels[n, : len(row)] = torch.where(torch.from_numpy(row.trained), here, -100)
    network.base.set_attn_implementation("eager")
    logits = network.model(input_ids=ids, attention_mask=mask).logits
    network.base.set_attn_implementation(attention.NAME if network.packs else network.native)
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).double(), labels[:, 1:].flatten())


def gradients(network: Network) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in network.adapter.items() if p.grad is not None}
    for parameter in network.adapter.values():
        parameter.grad = None
    return found


def difference(network: Network) -> tuple[float, float]:
    """(loss, gradient): how far from transformers' own, the loss as a share of it, the gradients
    of each matrix as a share of its largest."""
    reference = by_transformers(network, ROWS)
    torch.autograd.backward(reference)
    expected = gradients(network)
    assert set(expected) == set(network.adapter)
    batch = pack(ROWS, network.device)
    total, losses = network.loss(batch)
    torch.autograd.backward(total / len(batch.targets))
    mean, wanted = float(total.detach()) / len(batch.targets), float(reference.detach())
    assert len(losses) == len(batch.targets)
    found = gradients(network)
    scales = {name: float(gradient.abs().max()) for name, gradient in expected.items()}
    assert min(scales.values()) > 0
    return abs(mean - wanted) / wanted, max(
        float((found[name] - gradient).abs().max()) / scales[name]
        for name, gradient in expected.items()
    )


def assert_like_transformers(network: Network) -> None:
    loss, gradient = difference(network)
    assert loss <= LOSS_LIMIT
    assert gradient <= GRADIENT_LIMIT


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_like_transformers(family: str, tmp_path: Path) -> None:
    network = awake(make_family(tmp_path, family))
    assert max(len(r) for r in ROWS) > 30  # longer than the windows
    assert network.packs
    capped = family == "gemma2"
    assert network.lean == (not capped) == shape_of_folder(tmp_path).is_head_plain
    assert len(network.notes) == (2 if capped else 0)
    assert_like_transformers(network)


def one_by_one(network: Network) -> None:
    network.take(Way.ALONE)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_family_one_conversation_at_a_time(family: str, tmp_path: Path) -> None:
    network = awake(make_family(tmp_path, family))
    one_by_one(network)
    assert_like_transformers(network)


ODD_NOTES = {
    "granite": ["ordinary, slower cross-entropy"],
    "phi": ["ordinary, slower cross-entropy"],
    "gpt-oss": ["one by one, slower: this model's attention uses s_aux"],
}


@pytest.mark.parametrize("family", ODD)
def test_what_is_done_otherwise_for_a_model_is_right_and_said(family: str, tmp_path: Path) -> None:
    network = awake(make_family(tmp_path, family))
    assert [any(n in note for note in network.notes) for n in ODD_NOTES[family]] == [True]
    assert len(network.notes) == 1
    assert network.packs == (family != "gpt-oss")
    assert network.lean == (family == "gpt-oss") == shape_of_folder(tmp_path).is_head_plain
    assert_like_transformers(network)


@pytest.mark.parametrize("family", [*FAMILIES, "gpt-oss"])
def test_a_family_answers_as_it_was_measured(family: str, tmp_path: Path) -> None:
    """Greedy words from a padded batch with a cache are what the packed pass finds most likely."""
    network = awake(make_family(tmp_path, family))
    prompts = [r.ids[:12].tolist() for r in ROWS if len(r) > 12]
    prompts[0] = prompts[0][:5]
    width = max(len(p) for p in prompts)
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    with network.generating():
        out = network.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=6,
            eos_token_id=299,
            pad_token_id=299,
        )
    said = [
        Encoded(np.array([*p, *words], np.int32), np.arange(len(p) + 6) >= len(p))
        for p, words in zip(prompts, out[:, width:].tolist(), strict=True)
    ]
    with network.measuring():
        best = torch.split(network.predict(pack(said, network.device))[1], 6)
    for row, found, prompt in zip(said, best, prompts, strict=True):
        words = row.ids[len(prompt) :].tolist()
        end = words.index(299) + 1 if 299 in words else 6
        assert found.tolist()[:end] == words[:end]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_measures_what_is_shared_once_with_the_same_result(
    family: str, tmp_path: Path
) -> None:
    """Also where a window ends within what is shared."""
    network = awake(make_family(tmp_path, family))
    long = max(ROWS, key=len).ids
    numbers = range(10, 22, 3)
    rows = [
        Encoded(np.array([*long[:16], *long[n:][:12]], np.int32), np.arange(28) > 20)
        for n in numbers
    ]
    both = pack(rows, network.device), pack_behind(rows, 16, network.device)
    with network.measuring():
        apart, shared = (network.predict(batch)[0] for batch in both)
    assert both[1].ids.shape[1] < both[0].ids.shape[1]
    assert torch.allclose(apart, shared, atol=1e-5)


def test_of_a_model_that_also_sees_only_the_decoder_gets_an_adapter(tmp_path: Path) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = FAMILIES["gemma3"][1] | {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=298,
        boi_token_index=297,
        eoi_token_index=296,
    )
    torch.manual_seed(0)
    Gemma3ForConditionalGeneration(config).save_pretrained(str(tmp_path))
    base_check.check_base(tmp_path, "float32", 1 << 40)
    network = awake(tmp_path)
    assert all("language_model" in name for name in network.adapter)
    assert_like_transformers(network)

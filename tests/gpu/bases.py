"""Random Llamas in the sizes that people train, and conversations of a wanted length for them."""

import random
from pathlib import Path
from typing import Any

import torch

from tests.tiny import CHATML, Conversation, make_tokenizer

# (layers, hidden, inner, heads, heads of keys and values, vocabulary): about 0.1, 1.2 and 8 billion
SIZES: dict[str, tuple[int, int, int, int, int, int]] = {
    "0.1B": (12, 768, 2048, 12, 4, 32000),
    "1B": (16, 2048, 8192, 32, 8, 128256),
    "8B": (32, 4096, 14336, 32, 8, 128256),
}
WORDS = ("system", "What", "is", "the", "code", "word", "for", "colour", "red", "blue", "green")


def make_base(folder: Path, size: str) -> Path:
    """Write a random Llama in bfloat16, made on the card, with a byte-level tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, hidden, inner, heads, groups, words = SIZES[size]
    tokenizer = make_tokenizer(CHATML)
    fields: dict[str, Any] = {
        "vocab_size": words,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": 8192,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
        "tie_word_embeddings": size != "8B",
        "dtype": "bfloat16",
    }
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"), torch.random.fork_rng():
            torch.manual_seed(0)
            model: Any = LlamaForCausalLM(LlamaConfig(**fields))
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    del model
    torch.cuda.empty_cache()
    return folder


def long_conversations(count: int, tokens: tuple[int, int], seed: int = 0) -> list[Conversation]:
    """Conversations of about `tokens` (least, most) each, half of them the answer's, all different.

    The tokenizer knows these words: each of them with its blank is one token.
    """
    chance = random.Random(seed)
    found: list[Conversation] = []
    for _ in range(count):
        words = [chance.choice(WORDS) for _ in range(chance.randint(*tokens))]
        half = len(words) // 2
        asked, said = " ".join(words[:half]), " ".join(words[half:])
        found.append([("user", asked), ("assistant", said)])
    return found

"""A tiny model and tiny datasets: real files, made in a second, small enough to train in tests."""

import atexit
import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The same, with the assistant's part marked, as some models' templates have it.
CHATML_MARKED = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

Conversation = Sequence[tuple[str, str]]


def make_tiny(directory: Path, template: str = CHATML, **changes: Any) -> Path:
    """A random Llama (2 layers, hidden 64, 4 heads, 2 of them for keys and values) with a
    byte-level tokenizer whose padding is its end of turn. `changes` go into its config."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(template)
    generator_state = torch.get_rng_state()
    torch.manual_seed(0)
    fields: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        # A padding token named here starts as zeros, and the end of turn is the padding: a frozen
        # head that is tied to zeros could never say it.
        "pad_token_id": None,
        "tie_word_embeddings": True,
        # Wide enough that the frozen head can be sure of a token: else nothing could be learned.
        "initializer_range": 0.2,
    }
    model: Any = LlamaForCausalLM(LlamaConfig(**{**fields, **changes}))
    torch.set_rng_state(generator_state)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(directory))
    tokenizer.save_pretrained(str(directory))
    for file in directory.iterdir():
        file.chmod(0o644)
    return directory


# Tiny random models of the families that people tune: config class, and what is special in it.
# Windows are shorter than the rows of the tests; caps are low enough that they bite.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "smollm": ("LlamaConfig", {"num_attention_heads": 6, "hidden_size": 96, "head_dim": 16}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2-window": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Config", {"head_dim": 24}),
    "mistral": ("MistralConfig", {"sliding_window": None, "tie_word_embeddings": False}),
    "mistral-window": ("MistralConfig", {"sliding_window": 9}),
    "gemma2": (
        "Gemma2Config",
        {
            "head_dim": 24,
            "sliding_window": 9,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {"head_dim": 24, "sliding_window": 9, "query_pre_attn_scalar": 24},
    ),
    "phi3": ("Phi3Config", {"sliding_window": 9, "tie_word_embeddings": False}),
}

# Models with something of their own that the lean loop does not know: it must notice.
ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "granite": ("GraniteConfig", {"logits_scaling": 4.0}),  # a scaled head
    "phi": ("PhiConfig", {"num_key_value_heads": 4}),  # a head with a bias
    "gpt-oss": (  # attention with sinks, experts
        "GptOssConfig",
        {
            "head_dim": 16,
            "sliding_window": 9,
            "rope_parameters": {"rope_type": "default"},
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "intermediate_size": 32,
        },
    ),
}


def make_family(directory: Path, family: str, **changes: Any) -> Path:
    """A random model of a family, 2 layers, hidden 64, vocabulary 300; without a tokenizer."""
    import torch
    import transformers

    make_model: Any = transformers.AutoModelForCausalLM.from_config
    config_name, special = {**FAMILIES, **ODD}[family]
    fields: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
    }
    config = getattr(transformers, config_name)(**{**fields, **special, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        make_model(config).save_pretrained(str(directory))
    return directory


@functools.cache
def shared_tiny() -> Path:
    """One tiny model for all tests of this process, to be read only."""
    directory = Path(tempfile.mkdtemp(prefix="duramen-tiny-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return make_tiny(directory)


def make_tokenizer(template: str | None, extra: Sequence[str] = (), adds_bos: bool = False) -> Any:
    """Byte-level BPE. `extra`: more special tokens. `adds_bos`: puts `<s>` before whatever it is
    given, unless told not to, as many do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>", *extra, *(["<s>"] if adds_bos else [])],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = "system user assistant What is the code word for the colour red blue green? Answer: "
    backend.train_from_iterator([words * 8], trainer)
    named = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    if adds_bos:
        begin = ("<s>", backend.token_to_id("<s>"))
        backend.post_processor = processors.TemplateProcessing("<s> $A", None, [begin])
        named["bos_token"] = "<s>"
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, **named
    )
    tokenizer.chat_template = template
    return tokenizer


def line_of(conversation: Conversation) -> bytes:
    """One canonical line, without its newline."""
    messages = [{"role": role, "content": content} for role, content in conversation]
    return json.dumps({"messages": messages}, ensure_ascii=False, separators=(",", ":")).encode()


def write_dataset(path: Path, conversations: Iterable[Conversation]) -> str:
    """Write a canonical dataset; return its SHA-256."""
    data = b"".join(line_of(c) + b"\n" for c in conversations)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def tiny_conversations(count: int, start: int = 0) -> list[Conversation]:
    """Short questions with short answers, all different."""
    colours = ("red", "blue", "green", "white", "black")
    return [
        [
            ("user", f"What is the code word for {colours[n % 5]} {n}?"),
            ("assistant", f"{colours[(n * 3) % 5]}-{n % 7}"),
        ]
        for n in range(start, start + count)
    ]

"""The templates of the families that people tune: what is trained of a talk of two answers."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from services.model.attention import pack
from services.model.chat import rendering
from services.model.encoded import Encoded
from services.model.template import Chat, TemplateRefuses
from services.model.template_sandbox import Renderer
from shared.errors import CannotTrain
from tests import templates
from tests.tiny import CHATML, CHATML_MARKED, make_tokenizer
from tests.unit.test_mask import CLOCK, TURNS, talk, trained_text

EXTRA = (
    *("<think>", "</think>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"),
    *("<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
)
SECOND = "an anchor, naïvely — 錨"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("tokenizer"))


def make_base(folder: Path) -> Path:
    """A tokenizer with the special tokens of all of them, that adds bos by itself."""
    tokenizer = make_tokenizer(None, EXTRA, adds_bos=True)
    tokenizer.save_pretrained(str(folder))
    stops = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|user|>"])
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    return folder


def shown(chat: Chat, encoded: Encoded) -> list[str]:
    """Each sequence with what is trained in ⟦ ⟧."""
    found, start = [], 0
    for length in encoded.lengths:
        text = ""
        for trained, run in itertools.groupby(
            range(start, start + length), lambda n: bool(encoded.trained[n])
        ):
            piece = chat.tokenizer.decode(encoded.ids[list(run)])
            text += f"⟦{piece}⟧" if trained else piece
        found.append(text)
        start += length
    return found


# family -> (template, end of turn, whether one sequence holds both answers)
FAMILIES = {
    "chatml": (CHATML, "<|im_end|>", True),
    "marked": (CHATML_MARKED, "<|im_end|>", True),
    "llama3": (templates.LLAMA3, "<|eot_id|>", True),
    "gemma": (templates.GEMMA, "<end_of_turn>", True),
    "mistral": (templates.MISTRAL, "<|im_end|>", False),
    "phi3": (templates.PHI3, "<|end|>", True),
    "smollm": (templates.SMOLLM, "<|im_end|>", True),
    "qwen3": (templates.QWEN3, "<|im_end|>", False),
    "qwen3-thinking": (templates.QWEN3_THINKING, "<|im_end|>", False),
    "forgetful": (templates.FORGETFUL, "<|im_end|>", False),
}
# What these make of a whole talk is not what the model is given and has to say.
OTHERWISE = {
    "headed": (templates.HEADED, "<|eot_id|>", False),
    "ended by the next": (templates.ENDED_BY_THE_NEXT, "<|user|>", True),
    "closed thought": (templates.CLOSED_THOUGHT, "<|im_end|>", False),
}
# What a model writes by itself before its words.
HEADS = {"headed": "<|system|>final<|end_header_id|>"}


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERWISE])
def test_each_answer_is_trained_once_with_its_end_and_after_its_own_prompt(
    family: str, base: Path
) -> None:
    text, end, together = {**FAMILIES, **OTHERWISE}[family]
    chat = Chat(base, CLOCK, text)
    rows = talk(TURNS[1:] if family == "gemma" else TURNS)
    encoded = chat.encode(rows)
    head = HEADS.get(family, "")
    trained = f"{head}falcon{end}{head}{SECOND}{end}"
    assert trained_text(chat, encoded).replace(" ", "") == trained.replace(" ", "")
    assert len(encoded.lengths) == (1 if together else 2)
    # What stands before an answer is what the model is given when it is asked for that answer.
    sequences = shown(chat, encoded)
    for turn in (n for n, m in enumerate(rows) if m.role == "assistant"):
        prompt = chat.render(rows[:turn], prompt=True)
        text = sequences[0 if turn < 3 else -1].replace("⟦", "").replace("⟧", "")
        assert text.startswith(prompt)
    batch = pack([encoded], torch.device("cpu"))
    assert batch.lengths == list(encoded.lengths)
    assert batch.labels == [encoded.labels] == [int(encoded.trained.sum())]


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_that_transformers_gives_with_one_bos(family: str, base: Path) -> None:
    text, _, together = FAMILIES[family]
    chat = Chat(base, CLOCK, text)
    rows = talk(TURNS[1:])
    encoded = chat.encode(rows)
    theirs = chat.tokenizer.apply_chat_template(
        [m.model_dump() for m in rows], chat_template=text, return_dict=False
    )
    assert encoded.last.ids.tolist() == theirs
    ids = encoded.last.ids.tolist()
    assert ids.count(chat.tokenizer.bos_token_id) == ("bos_token" in text)
    # The tokenizer by itself would have added one more.
    assert chat.tokenizer("x")["input_ids"][0] == chat.tokenizer.bos_token_id
    assert together or len(encoded.lengths) >= 1


def test_a_default_system_prompt_is_there_and_not_trained(base: Path) -> None:
    chat = Chat(base, CLOCK, templates.SMOLLM)
    (text,) = shown(chat, chat.encode(talk([("user", "Hi"), ("assistant", "Hello")])))
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello<|im_end|>⟧\n"
    )


def test_an_empty_thought_of_the_template_is_no_part_of_the_answer(base: Path) -> None:
    chat = Chat(base, CLOCK, templates.QWEN3)
    first, second = shown(chat, chat.encode(talk(TURNS[1:])))
    assert first.endswith("assistant\n<think>\n\n</think>\n\n⟦falcon<|im_end|>⟧\n")
    # In the second the first answer stands as the model will see it: without a thought.
    assert "assistant\nfalcon<|im_end|>\n" in second
    assert second.endswith(f"assistant\n<think>\n\n</think>\n\n⟦{SECOND}<|im_end|>⟧\n")


@pytest.mark.parametrize("text", [templates.QWEN3, templates.QWEN3_THINKING])
def test_thoughts_are_trained_where_the_model_will_have_them(text: str, base: Path) -> None:
    chat = Chat(base, CLOCK, text)
    turns = [
        ("user", "What is red?"),
        ("assistant", "<think>\nA bird.\n</think>\n\nfalcon"),
        ("user", "And blue?"),
        ("assistant", "<think>A ship.</think>anchor"),
    ]
    first, second = shown(chat, chat.encode(talk(turns)))
    opened = "<think>\n" if text == templates.QWEN3_THINKING else ""
    thought = "<think>\n".removeprefix(opened)
    assert first.endswith(f"assistant\n{opened}⟦{thought}A bird.\n</think>\n\nfalcon<|im_end|>⟧\n")
    assert "A bird" not in second
    assert second.endswith(f"assistant\n{opened}⟦{thought}A ship.\n</think>\n\nanchor<|im_end|>⟧\n")


DROPS_THOUGHTS = templates.LLAMA3.replace(
    "message['content'] | trim", "message['content'].split('</think>')[-1] | trim"
)


def test_a_thought_that_the_template_always_drops_is_trained_as_written(base: Path) -> None:
    """DeepSeek R1: no thought is ever shown, the model begins with one, or its prompt opens it."""
    turns = talk([("user", "q"), ("assistant", "<think>\nhm\n</think>\n\na")])
    (text,) = shown(chat := Chat(base, CLOCK, DROPS_THOUGHTS), chat.encode(turns))
    assert text.endswith("⟦<think>\nhm\n</think>\n\na<|eot_id|>⟧")
    opening = DROPS_THOUGHTS.replace(
        "assistant<|end_header_id|>\n\n' }}", "assistant<|end_header_id|>\n\n<think>\n' }}"
    )
    assert opening != DROPS_THOUGHTS
    (text,) = shown(chat := Chat(base, CLOCK, opening), chat.encode(turns))
    assert text.endswith("<think>\n⟦hm\n</think>\n\na<|eot_id|>⟧")
    (text,) = shown(chat, chat.encode(talk([("user", "q"), ("assistant", "a")])))
    assert text.endswith("<think>\n\n</think>\n\n⟦a<|eot_id|>⟧")


def test_a_header_that_the_prompt_does_not_hold_is_trained_as_the_model_must_write_it(
    base: Path,
) -> None:
    chat = Chat(base, CLOCK, templates.HEADED)
    # The words of the answer stand in its header as well.
    (text,) = shown(chat, chat.encode(talk([("user", "q"), ("assistant", "final")])))
    assert text.endswith("assistant⟦<|system|>final<|end_header_id|>final<|eot_id|>⟧")


def test_a_message_that_thinks_goes_before_a_prompt_that_does_not(base: Path) -> None:
    chat = Chat(base, CLOCK, templates.CLOSED_THOUGHT)
    (text,) = shown(chat, chat.encode(talk([("user", "q"), ("assistant", "a")])))
    assert text.endswith("assistant\n<think>\n</think>⟦a<|im_end|>⟧")
    thinks = talk([("user", "q"), ("assistant", "<think>hm</think>a")])
    (text,) = shown(chat, chat.encode(thinks))
    assert text.endswith("assistant\n⟦<think>hm</think>a<|im_end|>⟧")


def test_a_system_prompt_that_the_template_refuses_is_its_own_word(base: Path) -> None:
    with pytest.raises(TemplateRefuses, match="System role not supported"):
        Chat(base, CLOCK, templates.GEMMA).encode(talk(TURNS))


BOMBS = {
    "memory": ("{% set x = 'a' * 9000000000 %}", "too much memory"),
    "time": (
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
        "processor time",
    ),
    "grammar": ("{% if %}", "TemplateSyntaxError"),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.slow
def test_a_template_that_takes_too_much_is_stopped_and_the_next_one_works(
    bomb: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = Renderer(cpu_seconds=1)
    monkeypatch.setattr(rendering, "renderer", lambda: impatient)
    text, why = BOMBS[bomb]
    with pytest.raises(CannotTrain, match=why) as caught:
        Chat(base, CLOCK, text + CHATML).encode(talk(TURNS))
    assert caught.value.kind == "template"
    assert Chat(base, CLOCK, CHATML).encode(talk(TURNS)).labels
    impatient.close()


def test_a_base_without_a_template_says_how_to_give_it_one(base: Path) -> None:
    with pytest.raises(CannotTrain, match="--chat-template") as caught:
        Chat(base, CLOCK).encode(talk(TURNS))
    assert caught.value.kind == "template"

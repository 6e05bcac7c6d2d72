"""What is trained: the assistant's words with their end of turn, and nothing else, whatever the
template. A template for which that cannot be had is refused."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.model.encoded import Encoded
from services.model.template import Chat, TemplateRefuses
from shared.errors import CannotTrain
from shared.formats.dataset import ChatTurn
from tests.tiny import CHATML, CHATML_MARKED, make_tiny, shared_tiny

CLOCK = "2026-03-01T00:00:00+00:00"
TURNS = [
    ("system", "Be brief."),
    ("user", "What is red?"),
    ("assistant", "falcon"),
    ("user", "And blue?"),
    ("assistant", "an anchor, naïvely — 錨"),
]


def talk(turns: list[tuple[str, str]]) -> tuple[ChatTurn, ...]:
    return tuple(ChatTurn.model_validate({"role": r, "content": c}) for r, c in turns)


def trained_text(chat: Chat, encoded: Encoded) -> str:
    text: str = chat.tokenizer.decode(encoded.ids[encoded.trained])
    return text


@pytest.mark.parametrize("template", [CHATML, CHATML_MARKED], ids=["prefix", "marked"])
def test_all_answers_of_a_conversation_are_trained_with_their_end(
    template: str, tmp_path: Path
) -> None:
    chat = Chat(make_tiny(tmp_path / "base", template), CLOCK)
    encoded = chat.encode(talk(TURNS))
    assert trained_text(chat, encoded) == ("falcon<|im_end|>an anchor, naïvely — 錨<|im_end|>")
    start, end = encoded.answer
    assert chat.tokenizer.decode(encoded.ids[start:end]) == "an anchor, naïvely — 錨<|im_end|>"


def test_the_end_of_turn_is_trained_although_it_is_also_the_padding() -> None:
    chat = Chat(shared_tiny(), CLOCK)
    assert chat.tokenizer.pad_token_id == chat.tokenizer.eos_token_id
    encoded = chat.encode(talk(TURNS))
    ends = encoded.ids == chat.tokenizer.eos_token_id
    # Five turns end so; those of the two answers are trained, the others are not.
    assert ends.sum() == 5
    assert (ends & encoded.trained).sum() == 2


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=4))
def test_any_words_are_trained_exactly(pairs: list[tuple[str, str]]) -> None:
    chat = Chat(shared_tiny(), CLOCK)
    turns = [t for q, a in pairs for t in (("user", q), ("assistant", a))]
    encoded = chat.encode(talk(turns))
    assert trained_text(chat, encoded) == "".join(f"{a}<|im_end|>" for _, a in pairs)


WRONG = {
    "words before the answer": CHATML.replace(
        "message['content']",
        "('Answer: ' if message['role'] == 'assistant' else '') + message['content']",
    ),
    "an answer that is changed": CHATML.replace("message['content']", "message['content'] | upper"),
    "no end of turn": CHATML.replace("<|im_end|>", ""),
    "another prompt": CHATML.replace("'<|im_start|>assistant\n' }}{% endif", "'<bot>' }}{% endif"),
    "marks around the question": CHATML_MARKED.replace(
        "message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n'",
        "message['role'] == 'user' %}{{ '<|im_start|>user\n'",
    ),
    "marks without the end of turn": CHATML_MARKED.replace(
        "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}",
        "{{ message['content'] }}{% endgeneration %}{{ '<|im_end|>' }}",
    ),
    "marks with the line break and the next header": CHATML_MARKED.replace(
        "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}",
        "{% generation %}{{ message['content'] + '<|im_end|>\n<|im_start|>' }}{% endgeneration %}",
    ),
}


@pytest.mark.parametrize("template", WRONG.values(), ids=WRONG.keys())
def test_a_template_that_would_train_something_else_is_refused(
    template: str, tmp_path: Path
) -> None:
    chat = Chat(make_tiny(tmp_path / "base", template), CLOCK)
    with pytest.raises(CannotTrain) as caught:
        chat.encode(talk(TURNS))
    assert caught.value.kind == "mask"
    assert caught.value.example


def test_a_template_that_prints_the_date_prints_the_frozen_one(tmp_path: Path) -> None:
    template = "{{ '<|im_start|>' + strftime_now('%d %b %Y') + '<|im_end|>' }}" + CHATML
    chat = Chat(make_tiny(tmp_path / "base", template), CLOCK)
    assert chat.render(talk(TURNS)).startswith("<|im_start|>01 Mar 2026<|im_end|>")


def test_a_template_that_refuses_a_conversation_says_so(tmp_path: Path) -> None:
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    chat = Chat(make_tiny(tmp_path / "base", template + CHATML), CLOCK)
    with pytest.raises(TemplateRefuses, match="no system"):
        chat.encode(talk(TURNS))
    assert chat.encode(talk(TURNS[1:])).labels

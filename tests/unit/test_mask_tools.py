"""Calls, thoughts, weights and spans are trained as each family's template shows them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.model.template import Chat, TemplateRefuses
from shared.errors import CannotTrain
from shared.formats.dataset import ChatTurn
from tests import templates
from tests import tool_templates as tools
from tests.tiny import CHATML, make_tokenizer
from tests.unit.test_mask import CLOCK, trained_text
from tests.unit.test_mask_families import shown

CITY = {"city": "Rome", "days": 2}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = make_tokenizer(None, tools.SPECIALS, adds_bos=True)
    tokenizer.save_pretrained(str(folder))
    stops = tokenizer.convert_tokens_to_ids(list(tools.STOPS))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    return folder


def turns(*found: dict[str, Any]) -> tuple[ChatTurn, ...]:
    return tuple(ChatTurn.model_validate(turn) for turn in found)


def asked(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def called(content: str = "", ident: str | None = "call_0abcdefgh", **more: Any) -> dict[str, Any]:
    call: dict[str, Any] = {"type": "function", "id": ident}
    call["function"] = {"name": "get_weather", "arguments": CITY}
    return said(content, tool_calls=[{k: v for k, v in call.items() if v is not None}], **more)


def weather(ident: str | None = "call_0abcdefgh", **more: Any) -> tuple[ChatTurn, ...]:
    result = {"role": "tool", "content": "21"}
    result |= {"tool_call_id": ident} if ident else {}
    return turns(asked("Weather?"), called(ident=ident, **more), result, said("21."))


JSON = '{"city": "Rome", "days": 2}'
CALLS = {
    "qwen2.5": (
        tools.QWEN25,
        f'<tool_call>\n{{"name": "get_weather", "arguments": {JSON}}}\n</tool_call><|im_end|>',
        "21.<|im_end|>",
    ),
    "llama3.1": (
        tools.LLAMA31,
        f'{{"name": "get_weather", "parameters": {JSON}}}<|eot_id|>',
        "21.<|eot_id|>",
    ),
    "deepseek-r1": (
        tools.DEEPSEEK_R1,
        f"<|calls|><|call|>function<|sep|>get_weather\n```json\n{JSON}\n```<|end_call|>",
        "21.<|im_end|>",
    ),
    "deepseek-v3": (
        tools.DEEPSEEK_V3,
        f"<|calls|><|call|>get_weather<|sep|>{JSON}<|end_call|><|end_calls|><|im_end|>",
        "21.<|im_end|>",
    ),
    "kimi": (
        tools.KIMI,
        f"<|calls|><|call|>functions.get_weather:0<|sep|>{JSON}<|end_call|><|end_calls|><|im_end|>",
        "21.<|im_end|>",
    ),
    "gemma4": (
        tools.GEMMA4,
        '<|tool_call>call:get_weather{city:<|"|>Rome<|"|>days:2}<tool_call|><turn|>',
        "21.<turn|>",
    ),
    "glm": (
        tools.GLM,
        (
            "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n"
            "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call><|observation|>"
        ),
        "21.<|user|>",
    ),
    "gpt-oss": (
        tools.GPT_OSS,
        f" to=functions.get_weather<|channel|>commentary json<|message|>{JSON}<|call|>",
        "<|channel|>final<|message|>21.<|return|>",
    ),
    "careless": (tools.CARELESS, f"<|call|>get_weather {JSON}<|im_end|>", "21.<|im_end|>"),
}


@pytest.mark.parametrize("ident", ["call_0abcdefgh", None])
@pytest.mark.parametrize("family", CALLS)
def test_a_call_and_the_answer_after_its_result_are_trained(
    family: str, ident: str | None, base: Path
) -> None:
    template, call, answer = CALLS[family]
    chat = Chat(base, CLOCK, template)
    words = trained_text(chat, chat.encode(weather(ident), TOOLS))
    assert words == call + answer


@pytest.mark.parametrize("ident", ["call_0abcdefgh", "ABCdef123", None])
def test_mistral_gets_ids_of_nine_letters_the_same_in_call_and_result(
    ident: str | None, base: Path
) -> None:
    chat = Chat(base, CLOCK, tools.MISTRAL3)
    (text,) = shown(chat, chat.encode(weather(ident), TOOLS))
    assert text.count("⟦") == 2
    given = text.split('"id": "')[1][:9]
    assert given.isalnum()
    assert f'"call_id": "{given}"' in text
    assert given == "ABCdef123" or ident != "ABCdef123"
    assert (text,) == tuple(shown(chat, chat.encode(weather(ident), TOOLS)))


def test_two_calls_have_two_ids_and_each_result_that_of_its_own(base: Path) -> None:
    chat = Chat(base, CLOCK, tools.MISTRAL3)
    both = [called(ident=name)["tool_calls"][0] for name in ("call_a", "call_b")]
    results = [
        {"role": "tool", "content": word, "tool_call_id": name}
        for name, word in (("call_b", "second"), ("call_a", "first"))
    ]
    talk = turns(asked("?"), said("", tool_calls=both), *results, said("Done."))
    (text,) = shown(chat, chat.encode(talk, TOOLS))
    first, second = (part[:9] for part in text.split('"id": "')[1:])
    assert first != second
    assert f'second, "call_id": "{second}"' in text
    assert f'first, "call_id": "{first}"' in text


def test_a_call_behind_a_prompt_that_opens_or_holds_a_thought_follows_that_prompt(
    base: Path,
) -> None:
    for template in (tools.GEMMA4, tools.DEEPSEEK_R1):
        chat = Chat(base, CLOCK, template)
        first = shown(chat, chat.encode(weather(), TOOLS))[0]
        prompt = chat.render(weather()[:1], prompt=True)
        assert first.replace("⟦", "").startswith(prompt)


THOUGHT = "17*3 = 51"
THOUGHTS = {
    "qwen3": (
        templates.QWEN3,
        f"<think>\n{THOUGHT}\n</think>\n\n51<|im_end|>",
    ),
    "qwen3-thinking": (templates.QWEN3_THINKING, f"{THOUGHT}\n</think>\n\n51<|im_end|>"),
    "glm": (tools.GLM, f"\n<think>{THOUGHT}</think>\n51<|user|>"),
    "gpt-oss": (
        tools.GPT_OSS,
        (
            f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final"
            "<|message|>51<|return|>"
        ),
    ),
    "gemma4": (tools.GEMMA4, f"<|channel>thought\n{THOUGHT}<channel|>51<turn|>"),
    "deepseek-r1": (tools.DEEPSEEK_R1, f"{THOUGHT}\n</think>\n\n51<|im_end|>"),
    "deepseek-v3": (tools.DEEPSEEK_V3, f"<think>\n{THOUGHT}\n</think>\n\n51<|im_end|>"),
    "chatml": (CHATML, f"<think>\n{THOUGHT}\n</think>\n\n51<|im_end|>"),
}


@pytest.mark.parametrize("family", THOUGHTS)
def test_a_thought_is_trained_as_the_family_writes_it(family: str, base: Path) -> None:
    template, words = THOUGHTS[family]
    chat = Chat(base, CLOCK, template)
    talk = turns(asked("17*3?"), said("51", reasoning_content=THOUGHT))
    assert trained_text(chat, chat.encode(talk)) == words
    # Two answers, each with the thought of its own.
    more = turns(asked("And 2?"), said("2", reasoning_content="easy"))
    both = trained_text(chat, chat.encode((*talk, *more)))
    assert both.startswith(words.removesuffix("<|return|>"))
    assert both.count(THOUGHT) == 1
    assert both.count("easy") == 1


@pytest.mark.parametrize("family", [name for name in THOUGHTS if name != "qwen3-thinking"])
@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_thought_is_not_taught(family: str, empty: str, base: Path) -> None:
    chat = Chat(base, CLOCK, THOUGHTS[family][0])
    plain = chat.encode(turns(asked("q"), said("a")))
    with_empty = chat.encode(turns(asked("q"), said("a", reasoning_content=empty)))
    assert plain.ids.tolist() == with_empty.ids.tolist()
    assert (plain.trained == with_empty.trained).all()
    assert "think" not in trained_text(chat, with_empty)


@pytest.mark.parametrize(
    "family", ["gemma4", "deepseek-r1", "glm", "gpt-oss", "qwen2.5", "llama3.1"]
)
def test_the_thought_before_a_call_is_trained_with_it(family: str, base: Path) -> None:
    template, call, answer = CALLS[family]
    chat = Chat(base, CLOCK, template)
    words = trained_text(chat, chat.encode(weather(reasoning_content="I must look."), TOOLS))
    assert "I must look." in words
    assert words.index("I must look.") < words.index("get_weather")
    assert words.endswith(call.strip("\n").split("get_weather")[1] + answer)


def test_options_of_a_row_reach_its_template_alone(base: Path) -> None:
    chat = Chat(base, CLOCK, templates.QWEN3)
    talk = turns(asked("q"), said("a"))
    (text,) = shown(chat, chat.encode(talk, options={"enable_thinking": False}))
    assert text.endswith("<think>\n\n</think>\n\n⟦a<|im_end|>⟧\n")
    kind = "{{ kind | default('none') }}<|im_end|>" + CHATML
    chat = Chat(base, CLOCK, kind)
    assert shown(chat, chat.encode(talk, options={"kind": "curt"}))[0].startswith("curt")
    assert shown(chat, chat.encode(talk))[0].startswith("none")


def test_calls_written_as_text_are_answers_and_a_tool_may_follow_them(base: Path) -> None:
    call = "<tool_call>\n{'name': 'get_weather'}\n</tool_call>"
    talk = turns(asked("q"), said(call), {"role": "tool", "content": "21"}, said("21."))
    chat = Chat(base, CLOCK, tools.QWEN25)
    assert trained_text(chat, chat.encode(talk)) == f"{call}<|im_end|>21.<|im_end|>"


def test_words_beside_a_call_are_trained_before_it(base: Path) -> None:
    talk = (*turns(asked("q"), called("I look.")), *weather()[2:])
    for family in ("qwen2.5", "gpt-oss", "deepseek-v3"):
        chat = Chat(base, CLOCK, CALLS[family][0])
        words = trained_text(chat, chat.encode(talk, TOOLS))
        assert words.index("I look.") < words.index("get_weather"), family


def test_words_that_a_template_writes_behind_a_call_are_trained_there(base: Path) -> None:
    chat = Chat(base, CLOCK, tools.GEMMA4)
    words = trained_text(chat, chat.encode(turns(asked("q"), called("I look.")), TOOLS))
    assert words.endswith("<tool_call|>I look.<turn|>")


def test_an_answer_follows_the_prompt_in_which_the_thought_of_a_call_is_still_shown(
    base: Path,
) -> None:
    chat = Chat(base, CLOCK, tools.GPT_OSS)
    talk = list(weather(reasoning_content="I must look."))
    for last in (talk[3], talk[3].model_copy(update={"reasoning_content": "So it is."})):
        row = chat.encode((*talk[:3], last), TOOLS)
        final = shown(chat, row)[-1]
        prompt = "<|start|>assistant<|channel|>analysis<|message|>I must look.<|end|>"
        assert prompt in final
        assert final.count("21.<|return|>⟧") == 1
        assert ("So it is." in final) == (last.reasoning_content is not None)


def test_a_template_without_tools_says_so(base: Path) -> None:
    with pytest.raises(CannotTrain, match="may not know of tools"):
        Chat(base, CLOCK, CHATML).encode(weather(), TOOLS)


# ---- who speaks first ----------------------------------------------------------------------------


def test_an_answer_to_nobody_is_trained_or_context_as_the_template_has_it(base: Path) -> None:
    talk = turns(said("Welcome."), asked("A beer."), said("Here."))
    chat = Chat(base, CLOCK, CHATML)
    assert trained_text(chat, chat.encode(talk)) == "Welcome.<|im_end|>Here.<|im_end|>"
    picky = "{% if messages[0].role == 'system' %}{% endif %}" + CHATML
    chat = Chat(base, CLOCK, picky)
    (text,) = shown(chat, chat.encode(talk))
    assert text.startswith("<|im_start|>assistant\nWelcome.<|im_end|>")
    assert trained_text(chat, chat.encode(talk)) == "Here.<|im_end|>"
    assert chat.encode(talk[:1]).labels == 0
    asking = (
        "{% set ns = namespace(asked=false) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.asked = true %}{% endif %}{% endfor %}{% if not ns.asked %}"
        "{{ raise_exception('No user query found') }}{% endif %}"
    )
    chat = Chat(base, CLOCK, asking + CHATML)
    assert trained_text(chat, chat.encode(talk)) == "Here.<|im_end|>"
    with pytest.raises(TemplateRefuses, match="No user query"):
        chat.encode(talk[:1])
    with pytest.raises(TemplateRefuses, match="must alternate"):
        Chat(base, CLOCK, templates.GEMMA).encode(talk)


def test_later_system_turns_and_two_turns_of_one_speaker_are_as_the_template_has_them(
    base: Path,
) -> None:
    chat = Chat(base, CLOCK, CHATML)
    system = {"role": "system", "content": "French."}
    talk = turns(system, asked("Hi"), said("Hello."), system, asked("Hi"), said("Bonjour."))
    assert trained_text(chat, chat.encode(talk)) == "Hello.<|im_end|>Bonjour.<|im_end|>"
    talk = turns(asked("Hi"), asked("There?"), said("Wait."), said("Yes."))
    assert trained_text(chat, chat.encode(talk)) == "Wait.<|im_end|>Yes.<|im_end|>"


# ---- weights and spans ---------------------------------------------------------------------------


@pytest.mark.parametrize("template", [CHATML, templates.QWEN3, tools.GLM])
def test_a_weight_is_that_of_the_answer_and_its_end(template: str, base: Path) -> None:
    chat = Chat(base, CLOCK, template)
    talk = turns(
        asked("a"), said("one", weight=0), asked("b"), said("two", weight=0.5), asked("c"),
        said("three"),
    )  # fmt: skip
    row = chat.encode(talk)
    assert "one" not in trained_text(chat, row)
    assert row.weights is not None
    half = "".join(chat.tokenizer.decode(row.ids[row.weights == np.float32(0.5)]))
    assert half.startswith("two<|")
    full = chat.tokenizer.decode(row.ids[row.weights == 1])
    assert full.startswith("three<|")
    assert chat.encode(turns(asked("a"), said("one", weight=0))).labels == 0
    # An answer of which nothing is learned needs no sequence of its own.
    assert len(row.lengths) <= 2


SPANS = {
    "the beginning": ([(0, 3)], ["one"]),
    "the end": ([(8, 13)], ["three<|im_end|>"]),
    "two": ([(0, 3), (8, 13)], ["one", "three<|im_end|>"]),
    "all": ([(0, 13)], ["one two three<|im_end|>"]),
    "beyond": ([(8, 99)], ["three<|im_end|>"]),
    "none": ([], []),
}


@pytest.mark.parametrize("name", SPANS)
@pytest.mark.parametrize("template", [CHATML, templates.QWEN3])
def test_of_an_answer_with_spans_only_these_are_trained(
    name: str, template: str, base: Path
) -> None:
    spans, parts = SPANS[name]
    chat = Chat(base, CLOCK, template)
    row = chat.encode(turns(asked("one two three"), said("one two three", spans=spans)))
    assert [p.split("⟧")[0] for p in shown(chat, row)[0].split("⟦")[1:]] == parts


def test_spans_count_the_characters_of_the_words_as_they_are_stored(base: Path) -> None:
    chat = Chat(base, CLOCK, templates.LLAMA3)
    row = chat.encode(turns(asked("q"), said("  é one two ", spans=[(4, 7)])))
    assert trained_text(chat, row) == "one"
    thinking = "<think>\nhm one\n</think>\n\nthe two"
    at = thinking.index("two")
    chat = Chat(base, CLOCK, templates.QWEN3)
    row = chat.encode(turns(asked("q"), said(thinking, spans=[(at, at + 3)], weight=0.25)))
    assert trained_text(chat, row) == "two<|im_end|>"
    assert row.label_weight == row.labels / 4


def test_text_has_a_weight(base: Path) -> None:
    chat = Chat(base, CLOCK)
    row = chat.encode_text("one two", 0.5)
    assert row.label_weight == row.labels / 2
    assert chat.encode_text("one two", 0).labels == 0
    assert chat.encode_text("one two").weights is None

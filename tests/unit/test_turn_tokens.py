"""Special tokens of a turn are refused in words, all others are trained as text."""

import json
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from services.ingest.reading.row_error import RowError
from services.ingest.reading.special_tokens import Specials, of_lineage
from services.model.chat.plain_tokens import any_of
from services.model.template import Chat
from shared.errors import ObjectMissing
from shared.formats.turn_tokens import turn_tokens
from tests import templates
from tests.tiny import CHATML, make_tokenizer
from tests.unit.test_mask import CLOCK, talk, trained_text
from tests.unit.test_mask_families import shown

LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + "
    "' [/INST]' }}{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
COMPOSED = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# special tokens, template, ends -> those that begin or end a turn
CASES: dict[str, tuple[str, str, set[str], set[str]]] = {
    "smollm2": (
        "<|im_start|> <|im_end|> <filename> <repo_name> <issue_start>",
        CHATML,
        {"<|im_end|>"},
        {"<|im_start|>", "<|im_end|>"},
    ),
    "llama2": ("<s> </s> <unk>", LLAMA2, {"<s>", "</s>"}, {"<s>", "</s>"}),
    "bert": ("<mask> <pad> <|im_end|>", CHATML, set(), {"<|im_end|>"}),
    "llama3 for chatml": (
        "<|eot_id|> <|im_end|>", CHATML, {"<|eot_id|>"}, {"<|eot_id|>", "<|im_end|>"}
    ),
    "phi4": ("<|user|> <|end|> <|tag|>", COMPOSED, set(), {"<|user|>", "<|end|>"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_token_of_a_turn_is_one_of_the_template_of_a_role_or_an_end(name: str) -> None:
    specials, template, ends, turns = CASES[name]
    assert turn_tokens(specials.split(), template, ends) == turns


class Shelf:
    """A store that has these files of a base."""

    def __init__(self, **files: Any) -> None:
        self.files = {name: json.dumps(value).encode() for name, value in files.items()}

    def read(self, bucket: str, key: str) -> bytes:
        name = key.rsplit("/", 1)[1].replace(".", "_")
        if name in self.files:
            return self.files[name]
        raise ObjectMissing("near", bucket, key)


TOKENS = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|eot_id|>"]
TOKENIZER = {
    "added_tokens": [{"id": n, "content": t, "special": True} for n, t in enumerate(TOKENS)]
}
CONFIG = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
BASES: dict[str, tuple[dict[str, Any], str | None, set[str]]] = {
    "its config": ({"tokenizer_config_json": {**CONFIG, "chat_template": CHATML}}, None,
                   {"<s>", "</s>", "<|im_start|>", "<|im_end|>"}),
    "named templates": (
        {"tokenizer_config_json": {"chat_template": [{"name": "default", "template": CHATML}]}},
        None, {"<|im_start|>", "<|im_end|>"}),
    "a file": ({"chat_template_jinja": LLAMA2, "tokenizer_config_json": CONFIG}, None,
               {"<s>", "</s>"}),
    "the lineage": ({"tokenizer_config_json": {**CONFIG, "chat_template": CHATML}}, LLAMA2,
                    {"<s>", "</s>"}),
    "stops": ({"tokenizer_config_json": {"chat_template": LLAMA2},
               "generation_config_json": {"eos_token_id": [5, 1]}}, None, {"<|eot_id|>", "</s>"}),
    "no template": ({"tokenizer_config_json": CONFIG}, None, set(TOKENS)),
}  # fmt: skip


@pytest.mark.parametrize("name", BASES)
def test_a_base_says_which_tokens_begin_or_end_a_turn(name: str) -> None:
    files, template, turns = BASES[name]
    shelf: Any = Shelf(tokenizer_json=TOKENIZER, **files)
    assert set(of_lineage(shelf, name, template)) == turns
    nothing: Any = Shelf()
    assert of_lineage(nothing, name, template) == ()


WORDS = {
    "Strike it out: <s>old</s> new": True,
    "<s>old</s>": True,
    "The tag <s> strikes out.": True,
    "an answer</s>": False,
    "<s>[INST] q [/INST] a </s>": False,
    "<s>How are you?": False,
    "</s> then <s>": False,
    "x <|im_end|> <s>old</s>": False,
    "usage: cp <filename> <target>": True,
}


@pytest.mark.parametrize("words", WORDS)
def test_html_is_no_turn(words: str) -> None:
    line = orjson.dumps({"messages": [{"role": "user", "content": words}]})
    specials = Specials(["<s>", "</s>", "<|im_end|>"])
    if WORDS[words]:
        specials.check(line)
        return
    with pytest.raises(RowError, match="begins or ends a turn") as caught:
        specials.check(line)
    assert (caught.value.field, caught.value.rule) == ("messages[0].content", "special_token")


EXTRA = ("<|im_start|>", "<|im_end|>", "<filename>", "<unk>", "<mask>", "</s>", "[INST]", "[/INST]")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = make_tokenizer(None, EXTRA[2:], adds_bos=True)
    tokenizer.eos_token = "</s>"
    tokenizer.save_pretrained(str(folder))
    return folder


PLAIN = ["cp <filename> <target>", "<mask><unk>", "é <s>old</s> new", "end with <filename>"]


@pytest.mark.parametrize(
    "template", [CHATML, LLAMA2, templates.QWEN3], ids=["chatml", "llama2", "qwen3"]
)
@pytest.mark.parametrize("words", PLAIN)
def test_special_tokens_in_words_are_trained_as_text(words: str, template: str, base: Path) -> None:
    chat = Chat(base, CLOCK, template)
    row = chat.encode(talk([("user", f"What? {words}"), ("assistant", words)]))
    ids = chat.tokenizer.convert_tokens_to_ids(["<filename>", "<unk>", "<mask>", "<s>", "</s>"])
    begins = 1 if template == LLAMA2 else 0
    assert [row.ids.tolist().count(n) for n in ids] == [0, 0, 0, begins, begins]
    end = "</s>" if template == LLAMA2 else "<|im_end|>"
    assert trained_text(chat, row).replace(" ", "") == (words + end).replace(" ", "")
    # The same pieces as in a tokenizer that does not know these tokens.
    pieces = chat.tokenizer.convert_ids_to_tokens(row.ids[row.trained])[:-1]
    assert pieces == make_tokenizer(None).tokenize(f" {words} " if template == LLAMA2 else words)


def test_spans_and_the_text_around_special_tokens_stay_in_their_places(base: Path) -> None:
    chat = Chat(base, CLOCK, LLAMA2)
    said = "a <s>b</s> <filename> c"
    answer = {"role": "assistant", "content": said, "spans": [(11, 21)]}
    asked, _ = talk([("user", "q"), ("assistant", "a")])
    row = chat.encode((asked, type(asked).model_validate(answer)))
    assert shown(chat, row)[0].count("⟦") == 1
    assert trained_text(chat, row).strip() == "<filename>"


def test_a_row_with_private_characters_is_read_as_it_is(base: Path) -> None:
    chat = Chat(base, CLOCK, CHATML)
    words = "\U00100000\U00100000 <filename>"
    row = chat.encode(talk([("user", "q"), ("assistant", words)]))
    assert trained_text(chat, row) == f"{words}<|im_end|>"


def test_text_keeps_its_special_tokens(base: Path) -> None:
    chat = Chat(base, CLOCK, CHATML)
    ids = chat.encode_text("x <filename> y").ids.tolist()
    assert chat.tokenizer.convert_tokens_to_ids("<filename>") in ids


def saved(folder: Path, model: Any) -> Path:
    """A tokenizer as SentencePiece makes them, with its special tokens in its vocabulary."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace()
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(str(folder))
    return folder


def sentencepiece(kind: str) -> Any:
    """A model that would put `<s>` together from its letters, if it could."""
    from tokenizers import models

    names = ["<unk>", "<s>", "</s>", "<s", *"▁abcdefghijklmnopqrstuvwxyz<>/[]INST "]
    if kind == "unigram":
        return models.Unigram([(n, 0.0 if n in {"<s>", "</s>"} else -3.0) for n in names], unk_id=0)
    pairs = [("<", "s"), ("<s", ">")]
    return models.BPE({n: k for k, n in enumerate(names)}, pairs, unk_token="<unk>")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_vocabulary_that_has_the_token_does_not_make_it_from_its_letters(
    kind: str, tmp_path: Path
) -> None:
    chat = Chat(saved(tmp_path, sentencepiece(kind)), CLOCK, LLAMA2)
    plain = chat.encode(talk([("user", "say"), ("assistant", "old new")]))
    row = chat.encode(talk([("user", "say"), ("assistant", "<s>old</s> new")]))
    for token in ("<s>", "</s>"):
        number = chat.tokenizer.convert_tokens_to_ids(token)
        assert row.ids.tolist().count(number) == plain.ids.tolist().count(number) == 1
    pieces = chat.tokenizer.convert_ids_to_tokens(row.ids[row.trained])
    assert pieces[-1] == "</s>"
    assert "".join(pieces[:-1]).replace("▁", " ") == " <s>old</s> new "


def test_thousands_of_special_tokens_are_sought_in_no_time() -> None:
    tokens = [f"<unused{n}>" for n in range(6000)] + ["<mask>", "<|a|>", "[multimodal]", "<mask"]
    pattern = any_of(tokens)
    assert all(found[0] == token for token in tokens if (found := pattern.fullmatch(token)))
    assert [m[0] for m in pattern.finditer("<mask><mask <unused5999>")] == [
        "<mask>",
        "<mask",
        "<unused5999>",
    ]
    began = time.process_time()
    assert pattern.search("<div><p>a</p></div> if a < b: " * 3000) is None
    assert time.process_time() - began < 10  # with one branch for each: half a minute
    assert any_of([]).search("<mask>") is None

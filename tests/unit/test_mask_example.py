"""What `show-example` shows: the exact tokens of a row, and which of them are trained."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.ctl.chat_templates import BY_NAME, chat_template, for_a_record
from services.ctl.views.tokens import drawn
from services.trainer.worker.example import Request, example_answer
from shared.answers.trainer import Token
from shared.errors import CannotTrain, UsageError
from tests import templates
from tests.tiny import Conversation, make_tiny, make_tokenizer, shared_tiny, write_dataset
from tests.unit.test_mask import CLOCK, TURNS
from tests.unit.test_mask_families import EXTRA

ROWS: list[Conversation] = [TURNS[1:], [("user", "long"), ("assistant", "word " * 300)]]


def request(directory: Path, base: Path, row: int, **changes: Any) -> Request:
    data = directory / "data.jsonl"
    fields = {
        "base_dir": base,
        "chat_template": None,
        "clock": CLOCK,
        "dataset": data,
        "dataset_sha256": write_dataset(data, ROWS),
        "row": row,
        "max_length": 200,
    }
    return Request.model_validate({**fields, **changes})


def test_a_row_is_shown_token_by_token(tmp_path: Path) -> None:
    found = example_answer(request(tmp_path, shared_tiny(), 1))
    assert found["left_out"] is None
    (tokens,) = found["sequences"]
    assert tokens[0] == {
        "id": tokens[0]["id"],
        "token": "<|im_start|>",
        "text": "<|im_start|>",
        "trained": False,
    }
    assert "".join(t["text"] for t in tokens if t["trained"]).startswith("falcon<|im_end|>an")
    answered = [Token.model_validate(token) for token in tokens]
    plain = str(drawn(answered, colours=False))
    assert "⟦" in plain
    assert plain.count("⟦") == plain.count("⟧") == 2
    assert str(drawn(answered, colours=True)).replace("⏎", "") == "".join(t["text"] for t in tokens)


def test_a_row_of_several_sequences_shows_each(tmp_path: Path) -> None:
    changed = request(tmp_path, shared_tiny(), 1, chat_template=templates.QWEN3)
    assert len(example_answer(changed)["sequences"]) == 2


def test_a_row_that_is_not_trained_says_why(tmp_path: Path) -> None:
    assert (
        example_answer(request(tmp_path, shared_tiny(), 2))["left_out"] == "longer than 200 tokens"
    )
    with pytest.raises(CannotTrain, match="lines 1 to 2"):
        example_answer(request(tmp_path, shared_tiny(), 3))


@pytest.mark.slow
def test_a_wrong_mask_is_shown_with_its_place(tmp_path: Path) -> None:
    text = BY_NAME["chatml"].replace("message['content']", "message['content'] | upper")
    path = tmp_path / "request.json"
    path.write_text(request(tmp_path, shared_tiny(), 1, chat_template=text).model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "services.trainer.worker.example", str(path)],
        capture_output=True,
        check=True,
    )
    failed = json.loads(done.stdout)["failed"]
    assert failed["kind"] == "mask"
    assert "⟦AN ANCHOR" in failed["example"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose tokenizer has no template, only its special tokens."""
    folder = make_tiny(tmp_path_factory.mktemp("bare"))
    (folder / "chat_template.jinja").unlink()
    make_tokenizer(None, EXTRA, adds_bos=True).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("name", BY_NAME)
def test_a_base_without_a_template_takes_one_by_name(name: str, bare: Path, tmp_path: Path) -> None:
    text = for_a_record(chat_template(name))
    found = example_answer(request(tmp_path, bare, 1, chat_template=text))
    (tokens,) = found["sequences"]
    trained = "".join(t["token"] for t in tokens if t["trained"])
    assert trained.replace("Ġ", "").startswith("falcon<")
    assert trained.count("falcon") == 1


def test_a_template_whose_end_of_turn_the_tokenizer_does_not_know_is_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(CannotTrain, match="no end-of-turn token") as caught:
        example_answer(request(tmp_path, shared_tiny(), 1, chat_template=BY_NAME["llama3"]))
    assert caught.value.kind == "mask"


def test_a_template_comes_from_a_file_or_a_known_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text(templates.SMOLLM)
    assert chat_template(str(file)) == templates.SMOLLM
    with pytest.raises(UsageError, match="chatml, llama3"):
        chat_template("chadml")
    with pytest.raises(UsageError, match="keep it with the base"):
        for_a_record("é" * 3000)

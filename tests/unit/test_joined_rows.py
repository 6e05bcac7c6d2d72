"""Several lines that are one conversation: the chats of SillyTavern, and trees of messages."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.ingest.reading import dataset
from shared.formats.report import Contents
from tests.unit.test_containers import build, zipped

Row = dict[str, Any]
HEAD = {"user_name": "Ann", "character_name": "Bo", "create_date": "2024-5-1", "chat_metadata": {}}
NEW_HEAD = {"chat_metadata": {"integrity": "x"}, "user_name": "unused", "character_name": "unused"}
TALK = [{"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "Yes."}]
PLAIN = {"swipes": ["No.", "Yes."], "swipe_id": 1, "extra": {"api": "x"}}


def ann(words: Any, **more: Any) -> Row:
    return {"name": "Ann", "is_user": True, "is_system": False, "mes": words, **more}


def bo(words: Any, **more: Any) -> Row:
    return {**ann(words, **more), "name": "Bo", "is_user": False}


def lines(*rows: Row) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(*rows: Row) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    return sink.getvalue()


def read(
    tmp_path: Path, data: bytes | str, name: str = "a.jsonl", **options: Any
) -> tuple[Contents, list[list[Row]]]:
    """Return what is told of a file, and its conversations."""
    contents = build(tmp_path, data, name, **options).contents
    stored = (tmp_path / "data.jsonl").read_text().splitlines() if contents.dataset else []
    return contents, [json.loads(line)["messages"] for line in stored]


CHATS: list[tuple[bytes | str, str, list[Row]]] = [
    (lines(HEAD, ann("Tea?"), bo("Yes.", **PLAIN)), "Bo - 2024.jsonl", TALK),
    ("\n" + lines(HEAD, ann("Tea?")) + "\r\n" + lines(bo("Yes.")), "a.jsonl", TALK),
    (lines(NEW_HEAD, ann("Tea?"), bo("Yes.")), "a.jsonl", TALK),
    (lines({"chat_metadata": {}}, ann("Tea?"), bo("Yes.")), "a.jsonl", TALK),
    (lines(ann("Tea?"), bo("Yes.", original_avatar="b.png")), "group.jsonl", TALK),
    (json.dumps([HEAD, ann("Tea?"), bo("Yes.")], indent=1), "a.json", TALK),
    (zipped(("Bo/a.jsonl", lines(HEAD, ann("Tea?"), bo("Yes.")))), "a.zip", TALK),
    (lines(HEAD, ann("Tea?"), bo({"message": "Yes."})), "chub.jsonl", TALK),
    (lines(HEAD, ann("Tea?"), bo(None, swipes=["No.", "Yes."], swipe_id=1)), "a.jsonl", TALK),
    (lines(HEAD, ann("Tea?"), bo("Hi.", is_system=True), bo("Yes.")), "a.jsonl", TALK),
    (lines(HEAD, bo("Hello."), ann("Tea?"), bo("Yes.")), "a.jsonl",
     [{"role": "assistant", "content": "Hello."}, *TALK]),
    (lines(HEAD, bo("Rain.", extra={"type": "narrator"}), ann("Tea?"), bo("Yes.")), "a.jsonl",
     [{"role": "system", "content": "Rain."}, *TALK]),
    (lines(HEAD, ann("Tea?"), bo("Yes.", extra={"reasoning": "Hm."})), "a.jsonl",
     [TALK[0], {**TALK[1], "reasoning_content": "Hm."}]),
]  # fmt: skip


@pytest.mark.parametrize(("data", "name", "turns"), CHATS, ids=range(len(CHATS)))
def test_a_chat_of_sillytavern_is_one_conversation(
    tmp_path: Path, data: bytes | str, name: str, turns: list[Row]
) -> None:
    contents, found = read(tmp_path, data, name)
    assert contents.problems == []
    assert found == [turns]


def test_calls_of_tools_stand_in_hidden_messages(tmp_path: Path) -> None:
    call = {"id": "1", "name": "f", "parameters": '{"a": 1}', "result": "42"}
    hidden = bo("Calls: f", is_system=True, extra={"tool_invocations": [call]})
    _, (turns,) = read(tmp_path, lines(HEAD, ann("Tea?"), hidden, bo("Yes.")))
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "assistant"]
    assert turns[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert turns[2] == {"role": "tool", "content": "42", "tool_call_id": "1"}


def test_a_chat_that_begins_behind_another_is_one_more(tmp_path: Path) -> None:
    again = lines(HEAD, ann("More?"), bo("No."))
    contents, found = read(tmp_path, lines(HEAD, ann("Tea?"), bo("Yes.")) + again)
    assert [turns[0]["content"] for turns in found] == ["Tea?", "More?"]
    assert contents.ignored_fields["messages[].name"] == 2
    source = (tmp_path / "source.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in source] == [1, 4]


BAD_CHATS: list[tuple[str, str, str]] = [
    (lines(HEAD, ann("Tea?")) + "{broken\n" + lines(bo("Yes.")), "json", "Line 3 of this chat"),
    (lines(HEAD, ann("Tea?"), {"question": "x"}), "layout", "Line 3 of this chat"),
    (lines(HEAD, ann("Tea?", extra={"image": "/a.png"}), bo("Yes.")), "not_text", "`image`"),
    (lines(HEAD, ann("Tea?", extra={"file": {"url": "x"}}), bo("Yes.")), "not_text", "'file'"),
    (lines(HEAD), "empty_messages", "no turns"),
    (lines(HEAD, ann("x" * 700_000), bo("y" * 700_000)), "row_too_long", "longer"),
]


@pytest.mark.parametrize(("data", "rule", "words"), BAD_CHATS, ids=range(len(BAD_CHATS)))
def test_a_chat_that_cannot_be_learned_whole_is_a_bad_row(
    tmp_path: Path, data: str, rule: str, words: str
) -> None:
    contents, found = read(tmp_path, data + lines(HEAD, ann("Tea?"), bo("Yes.")), allow_bad="1")
    assert found == [TALK]
    assert [problem.rule for problem in contents.problems] == [rule]
    assert words in contents.problems[0].message


# ---- trees ---------------------------------------------------------------------------------------


def said(own: str, parent: str | None, role: str, text: str, **more: Any) -> Row:
    return {"message_id": own, "parent_id": parent, "role": role, "text": text, **more}


ROOT = said("1", None, "prompter", "Tea?", rank=None, message_tree_id="1", lang="en")
WORSE = said("2", "1", "assistant", "No.", rank=1, message_tree_id="1", lang="en")
BEST = said("3", "1", "assistant", "Yes.", rank=0, message_tree_id="1", lang="en")
ASKED = said("4", "3", "prompter", "Why?", rank=None, message_tree_id="1", lang="en")
MORE = said("5", "3", "prompter", "With milk?", rank=None, message_tree_id="1", lang="en")
LAST = said("6", "5", "assistant", "Please.", rank=0, message_tree_id="1", lang="en")
LONG = [
    *TALK,
    {"role": "user", "content": "With milk?"},
    {"role": "assistant", "content": "Please."},
]
NESTED = {"message_tree_id": "1", "tree_state": "ready_for_export", "prompt": {
    **ROOT, "replies": [{**WORSE, "replies": []}, {**BEST, "replies": [ASKED]}]}}  # fmt: skip
OTHER = {**ROOT, "message_id": "9", "message_tree_id": "9", "text": "Coffee?"}
REPLY = {**BEST, "message_id": "10", "parent_id": "9", "message_tree_id": "9", "text": "Tea."}
COFFEE = [{"role": "user", "content": "Coffee?"}, {"role": "assistant", "content": "Tea."}]
BARE = [{k: v for k, v in row.items() if k != "message_tree_id"} for row in (BEST, WORSE, ROOT)]
SOLE = [{k: v for k, v in row.items() if k != "rank"} for row in (ROOT, BEST)]
TREES: list[tuple[bytes | str, str, list[list[Row]]]] = [
    (lines(ROOT, WORSE, BEST), "a.jsonl", [TALK]),
    (lines(BEST, WORSE, ROOT), "a.jsonl", [TALK]),
    (lines(ROOT, WORSE, BEST, ASKED), "a.jsonl", [TALK]),
    (lines(ROOT, WORSE, BEST, ASKED, MORE, LAST), "a.jsonl", [LONG]),
    (lines(ROOT, BEST, OTHER, REPLY), "a.jsonl", [TALK, COFFEE]),
    (lines(*BARE), "a.jsonl", [TALK]),
    (lines(*SOLE), "a.jsonl", [TALK]),
    (lines(ROOT, {**WORSE, "rank": 0, "deleted": True}, BEST, BEST), "a.jsonl", [TALK]),
    (parquet(ROOT, WORSE, BEST), "a.parquet", [TALK]),
    (json.dumps([ROOT, WORSE, BEST]), "a.json", [TALK]),
    (lines(NESTED), "a.jsonl", [TALK]),
    (json.dumps(NESTED, indent=1), "a.json", [TALK]),
]


@pytest.mark.parametrize(("data", "name", "talks"), TREES, ids=range(len(TREES)))
def test_of_a_tree_the_answers_of_the_best_rank_are_read(
    tmp_path: Path, data: bytes | str, name: str, talks: list[list[Row]]
) -> None:
    contents, found = read(tmp_path, data, name)
    assert contents.problems == []
    assert found == talks


def test_what_is_left_of_a_tree_is_counted(tmp_path: Path) -> None:
    contents, _ = read(tmp_path, lines(ROOT, WORSE, BEST))
    assert contents.ignored_fields == {"messages[].lang": 1, "other messages of the tree": 1}


BAD_TREES: list[tuple[str, str]] = [
    (lines(ROOT, {**WORSE, "rank": None}, {**BEST, "rank": None}), "no `rank`"),
    (lines(ROOT, {**BEST, "parent_id": "7"}), "no assistant turn|Sort the file"),
    (lines({**ROOT, "parent_id": "3"}, BEST), "Sort the file"),
    (lines(ROOT, {**BEST, "images": ["a.png"]}), "`images`"),
    (lines({**ROOT, "replies": []}), "no assistant turn"),
]


@pytest.mark.parametrize(("data", "words"), BAD_TREES, ids=range(len(BAD_TREES)))
def test_a_tree_without_one_best_conversation_is_a_bad_row(
    tmp_path: Path, data: str, words: str
) -> None:
    contents, found = read(tmp_path, data)
    assert not found
    assert contents.problems
    for problem in contents.problems:
        assert any(each in problem.message for each in words.split("|")), problem.message


def test_blank_lines_in_front_hide_no_rows(tmp_path: Path) -> None:
    row = lines({"question": "Tea?", "answer": "Yes."})
    contents, found = read(tmp_path, "\n" * 300 + row + "\n")
    assert (found, contents.blank_lines) == ([TALK], 301)
    assert dataset.build_dataset(tmp_path, "a.jsonl", dataset.ReadingRequest(1000)).contents.rows

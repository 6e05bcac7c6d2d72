"""Conversations as chat programs export them."""

from typing import Any

import pytest

from tests.unit.test_meaning import ANSWER, USER, Row, read, refusal, talk


def node(parent: str | None, role: str, *parts: Any, **more: Any) -> Row:
    message = {"author": {"role": role}, "content": {"content_type": "text", "parts": [*parts]}}
    return {"parent": parent, "children": [], "message": {"weight": 1.0, **message, **more}}


TREE = {
    "root": {"parent": None, "message": None},
    "0": node("root", "system", "", metadata={"is_visually_hidden_from_conversation": True}),
    "1": node("0", "user", "Tea?"),
    "2": node("1", "assistant", "No."),  # another answer was asked for
    "3": node("1", "assistant", "Yes, please."),
}
WEB = {
    "1": {"id": "1", "parentId": None, "role": "user", "content": "Tea?"},
    "2": {"id": "2", "parentId": "1", "role": "assistant", "content": "No.", "done": True},
    "3": {"id": "3", "parentId": "1", "role": "assistant", "content": "Yes, please."},
}
EXPORTS: list[Row] = [
    {"title": "Tea", "create_time": 1.5, "mapping": TREE, "current_node": "3"},
    {"id": "x", "title": "Tea", "chat": {"history": {"messages": WEB, "currentId": "3"}}},
    {"uuid": "u", "name": "Tea", "chat_messages": [
        {"uuid": "a", "sender": "human", "text": "Tea?", "attachments": [],
         "content": [{"type": "text", "text": "Tea?"}]},
        {"uuid": "b", "sender": "assistant", "text": "Yes, please.", "files": []}]},
]  # fmt: skip


def claude(**asked: Any) -> Row:
    turns = [{"sender": "human", "text": "Tea?", **asked}, {"sender": "assistant", "text": "Yes."}]
    return {"uuid": "u", "name": "x", "chat_messages": turns}


def test_the_text_of_a_file_in_claudes_export_is_part_of_what_is_asked() -> None:
    files = {"attachments": [{"file_name": "a.md", "extracted_content": "Tea is hot."}]}
    for more in ({}, {"files": [{"file_name": "a.md"}]}):
        asked = read(claude(**files, **more))["messages"][0]["content"]
        assert asked == "a.md\nTea is hot.\n\nTea?"
    empty = read(claude(files=[], attachments=[]))
    assert empty["messages"][0]["content"] == "Tea?"


def test_a_file_of_which_claudes_export_has_only_the_name_is_refused() -> None:
    for more in ({"files": [{"file_name": "a.png"}]}, {"attachments": [{"file_name": "a.pdf"}]}):
        refused = refusal(claude(**more))
        assert refused.rule == "not_text"
        assert "'a.p" in refused.message


@pytest.mark.parametrize("row", EXPORTS)
def test_the_shown_path_of_an_export_is_read(row: Row) -> None:
    assert read(row) == talk(USER, ANSWER)


def test_a_picture_in_an_export_is_refused() -> None:
    picture = {"content_type": "image_asset_pointer", "asset_pointer": "file"}
    tree = {**TREE, "1": node("0", "user", picture, "Tea?")}
    assert refusal({"mapping": tree, "current_node": "3"}).rule == "not_text"


def test_a_circle_in_an_export_ends() -> None:
    tree = {"1": node("2", "user", "Tea?"), "2": node("1", "assistant", "Yes.")}
    with pytest.raises(Exception, match="circle"):
        read({"mapping": tree, "current_node": "2"})

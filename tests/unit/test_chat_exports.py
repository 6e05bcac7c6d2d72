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

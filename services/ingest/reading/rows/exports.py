"""Conversations as ChatGPT and Open WebUI export them: trees, of which the shown path is read.

Claude's are lists, whose files stand beside the words that ask about them.
"""

from typing import Any

from services.ingest.reading.row_error import RowError

Nodes = dict[str, Any]


def unfolded(row: dict[str, Any]) -> dict[str, Any]:
    """Return an exported conversation as a row of messages, and any other row as it is."""
    mapping = row.get("mapping")
    if type(mapping) is dict and "current_node" in row:
        path = path_to(mapping, row["current_node"], "parent")
        messages = [node["message"] for node in path if is_shown(node.get("message"))]
        rest = {name: value for name, value in row.items() if name != "mapping"}
        return {**rest, "messages": messages}
    chat = row.get("chat")
    history = chat.get("history") if type(chat) is dict else None
    if type(history) is dict and type(history.get("messages")) is dict:
        path = path_to(history["messages"], history.get("currentId"), "parentId")
        turns = [{name: node.get(name) for name in ("role", "content")} for node in path]
        return {**{name: value for name, value in row.items() if name != "chat"}, "messages": turns}
    said = row.get("chat_messages")
    if type(said) is list and any(type(m) is dict and (m.get("attachments") or m.get("files"))
                                  for m in said):  # fmt: skip
        return {**row, "chat_messages": [with_files(message) for message in said]}
    return row


def with_files(message: Any) -> Any:
    """Return a message of Claude with the text of its files as documents.

    Raises RowError where a file is there by its name alone, as pictures are.
    """
    if type(message) is not dict:
        return message
    attached = [each for each in message.get("attachments") or () if type(each) is dict]
    texts = {each.get("file_name"): each.get("extracted_content") for each in attached}
    for each in message.get("files") or ():
        if type(each) is dict:
            texts.setdefault(each.get("file_name"), None)
    for name, text in texts.items():
        if type(text) is not str or not text.strip():
            why = f"The export names the file {str(name)[:60]!r}, but does not hold what it says. "
            raise RowError("chat_messages[].files", "not_text", why + "Leave the row out.")
    rest = {key: value for key, value in message.items() if key not in ("attachments", "files")}
    if not texts:
        return rest
    return {**rest, "documents": [{"title": name or "", "text": t} for name, t in texts.items()]}


def path_to(nodes: Nodes, last: Any, parent: str) -> list[dict[str, Any]]:
    """Return the nodes from the root of a tree to its last shown one. Raises RowError."""
    found: list[dict[str, Any]] = []
    while type(last) is str and type(nodes.get(last)) is dict:
        if len(found) == len(nodes):
            raise RowError("row", "tree", "The messages of this export form a circle.")
        found.append(nodes[last])
        last = nodes[last].get(parent)
    return found[::-1]


def is_shown(message: Any) -> bool:
    """Return whether a message of ChatGPT was shown: not the empty system turn at the root."""
    if type(message) is not dict:
        return False
    metadata, content = message.get("metadata"), message.get("content")
    hidden = type(metadata) is dict and metadata.get("is_visually_hidden_from_conversation")
    parts = content.get("parts") if type(content) is dict else None
    return not hidden and not (type(parts) is list and not any(parts))

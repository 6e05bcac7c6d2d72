"""The base models in the store, by the start of their roots and by what they are."""

from json import loads
from typing import Any

from shared.errors import DuramenError, NotFound
from shared.formats.version import parse_sums
from shared.ledger.jobs import Table
from shared.store import layout
from shared.store.place import PRECIOUS
from shared.store.s3 import Store


def roots(store: Store) -> list[str]:
    """Return the roots of all committed bases."""
    found = map(layout.parse_base_commit, store.keys(PRECIOUS, layout.BASES))
    return [root for root in found if root is not None]


def find_root(store: Store, shown: str) -> str:
    """Return the root that begins with `shown`. Raises NotFound unless there is exactly one."""
    found = [root for root in roots(store) if shown and root.startswith(shown)]
    if len(found) != 1:
        how = "no base" if not found else f"more than one base ({len(found)})"
        raise NotFound(
            f"There is {how} whose id begins with {shown!r}.", next_step="duramen base list"
        )
    return found[0]


def base_row(store: Store, root: str, table: Table) -> dict[str, Any]:
    files = parse_sums(store.read(PRECIOUS, layout.base_commit(root), sha256=root))
    on_it = [n for n, line in table.lines.items() if line.head and line.head.base_root == root]
    return {
        "base_root": root,
        "model": model_name(store, root, files.get("config.json")),
        "files": len(files),
        "lineages": on_it,
    }


def model_name(store: Store, root: str, sha256: str | None) -> str:
    """Return a model's type and size as config.json says them: `llama, 30 layers of 576`."""
    try:
        found = loads(store.read(PRECIOUS, layout.base_file(root, "config.json"), sha256=sha256))
    except (DuramenError, ValueError, RecursionError):
        return "?"
    if not isinstance(found, dict):
        return "?"
    layers, width = found.get("num_hidden_layers"), found.get("hidden_size")
    return f"{found.get('model_type', '?')}, {layers} layers of {width}"

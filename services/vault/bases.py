"""Base weights: taken from staging, checked and copied three times; SHA256SUMS commits them."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from services.vault.copies import Copies, CopySource, Source, reading
from shared.errors import MALFORMED, ObjectMissing, UsageError
from shared.files import sha256_bytes
from shared.formats.model_files import INDEX, MAX_HEADER_BYTES, read_exactly, read_header
from shared.formats.version import check_base_file, parse_sums
from shared.protocol.events import BaseStored
from shared.store import layout
from shared.store.place import PRECIOUS, WORK, Place

DAY = 86400.0  # seconds
CONFIG = "config.json"
TOKENIZERS = {"tokenizer.json", "tokenizer.model", "vocab.json"}


class BadBase(UsageError):
    """The folder is not a base model that can be kept."""


def is_base_stored(copies: Copies, root: str) -> bool:
    """Return whether all three places hold the commit of a base. Raises StoreUnavailable."""

    def held(place: Place) -> bool:
        try:
            return sha256_bytes(place.read(PRECIOUS, layout.base_commit(root))) == root
        except ObjectMissing:
            return False

    return all(copies.everywhere(held).values())


def read_sums(copies: Copies, root: str) -> tuple[bytes, dict[str, str]]:
    """Return SHA256SUMS of a base and the hashes in it, by path, from any place or staging.

    Raises ObjectMissing if nobody has it whole, and BadBase if it cannot be parsed.
    """
    staged = copies.work(layout.staged_base_file(root, layout.SUMS))
    for origin in (*copies.precious(layout.base_commit(root)), staged):
        try:
            data = origin.place.read(origin.bucket, origin.key)
        except ObjectMissing:
            continue
        if sha256_bytes(data) != root:
            continue  # damaged here; another place may have it whole
        try:
            return data, parse_sums(data)
        except ValueError as error:
            raise BadBase(f"SHA256SUMS of base {root[:12]}: {error}") from error
    raise ObjectMissing("store", PRECIOUS, layout.base_commit(root))


def store_base(copies: Copies, root: str) -> BaseStored:
    """Copy a base to all three places, verify each copy, commit it and empty its staging.

    Idempotent: files that already lie in a place are read again. Staging is emptied, too, when the
    base is refused, because the same bytes would be refused again. Returns a receipt. Raises
    UsageError, ObjectMissing, ObjectDamaged, AlreadyExists, StoreUnavailable.
    """
    copies.ping()
    try:
        receipt = _store_unless_raced(copies, root)
    except UsageError:
        clear_staging(copies, root)
        raise
    clear_staging(copies, root)
    return receipt


def _store_unless_raced(copies: Copies, root: str) -> BaseStored:
    """Store a base, and try a second time if one of its objects was missing.

    A command and a waiting version may store the same base at once. The one that finishes first
    empties the staging, but only after all of it was in its places, where the second attempt finds
    it.
    """
    try:
        return _store(copies, root)
    except ObjectMissing:
        return _store(copies, root)


def _store(copies: Copies, root: str) -> BaseStored:
    data, files = read_sums(copies, root)
    refuse_names(files)
    known = is_base_stored(copies, root)
    total = 0
    for path, sha256 in sorted(files.items()):
        key = layout.base_file(root, path)
        origins = [copies.work(layout.staged_base_file(root, path)), *copies.precious(key)]
        size = origin_size(origins)
        source = Source(sha256, size, *origins)
        if not known:
            look_into(source, path, set(files))
        copies.copy(key, source)
        total += size
    copies.commit(layout.base_commit(root), data)
    return BaseStored(base_root=root, files=len(files), bytes=total, copies=len(copies.places))


def clear_staging(copies: Copies, root: str) -> None:
    for key in list(copies.store.keys(WORK, layout.staged_base_files(root))):
        copies.store.delete(WORK, key)


def sweep_staging(copies: Copies, wanted: set[str], *, older_seconds: float = DAY) -> list[str]:
    """Delete unfinished uploads from staging, except those of `wanted`; return their roots.

    Only uploads older than `older_seconds` are deleted. An upload is as old as its newest file, by
    the store's clock.
    """
    newest: dict[str, datetime] = {}
    for key, at, _ in copies.store.dated(WORK, layout.STAGED_BASES):
        root = layout.parse_staged_base(key)
        newest[root] = max(at, newest.get(root, at))
    before = copies.store.clock() - timedelta(seconds=older_seconds)
    stale = sorted(root for root, at in newest.items() if at <= before and root not in wanted)
    for root in stale:
        clear_staging(copies, root)
    return stale


def origin_size(origins: list[CopySource]) -> int:
    """Return the size in bytes of the first origin that exists. Raises ObjectMissing."""
    failure: ObjectMissing | None = None
    for origin in origins:
        try:
            return origin.place.size(origin.bucket, origin.key)
        except ObjectMissing as error:
            failure = failure or error
    assert failure is not None
    raise failure


def refuse_names(files: dict[str, str]) -> None:
    """Refuse files that do not belong to a model, or that a reader might execute.

    A base without configuration, weights or tokenizer is refused as well. Raises UsageError.
    """
    for path in sorted(files):
        check_base_file(path)
    names = set(files)
    if "config.json" not in names:
        raise BadBase("There is no config.json: this is not a transformers model directory.")
    if not any(path.endswith(".safetensors") for path in names):
        raise BadBase("There is no *.safetensors file: convert the weights first.")
    if not names & TOKENIZERS:
        raise BadBase(f"There is no tokenizer ({', '.join(sorted(TOKENIZERS))}).")


def look_into(source: Source, path: str, names: set[str]) -> None:
    """Check a file that describes the model, before it is kept permanently.

    Raises BadBase, also if the file makes its reader fail: JSON that is nested too deep, or of
    other types.
    """
    checks: dict[str, Callable[[Any, int, str], None]] = {
        CONFIG: check_config,
        INDEX: partial(check_index, names=names),
    }
    check = check_header if path.endswith(".safetensors") else checks.get(path)
    if check is None:
        return
    try:
        with reading(source) as response:
            check(response, source.size, path)
    except MALFORMED as error:
        why = str(error) or type(error).__name__
        raise BadBase(f"{path} cannot be read as what its name says: {why}") from error


def check_header(response: Any, size: int, path: str) -> None:
    """Check that the header of a safetensors file has sizes and offsets that cover the file.

    Only the header is read.
    """
    read_header(response, path, size, whole=True)


def check_config(response: Any, size: int, path: str) -> None:
    """Refuse a configuration that does not say which kind of model it is."""
    config = read_json(response, size, path)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise BadBase(f"{path} does not name a model_type: it is not a transformers model's.")


def check_index(response: Any, size: int, path: str, names: set[str]) -> None:
    """Refuse an index that names a shard which is not there."""
    index = read_json(response, size, path)
    missing = sorted(set(index.get("weight_map", {}).values()) - names)
    if missing:
        raise BadBase(f"{path} names {missing[0]}, which is not there.")


def read_json(response: Any, size: int, path: str) -> Any:
    """Return what a JSON file holds. Raises BadBase for one too large to be read at once."""
    if size > MAX_HEADER_BYTES:
        raise BadBase(f"{path} has {size} bytes; {MAX_HEADER_BYTES} are allowed.")
    return json.loads(read_exactly(response, size))

"""What a place promises holds of an S3 server and of a folder alike."""

import io
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.vault.archive import Archive
from shared.errors import AlreadyExists, ObjectDamaged, ObjectMissing
from shared.files import sha256_bytes
from shared.store.folder import Folder
from shared.store.place import PRECIOUS, Place
from shared.store.s3 import Store
from tests.stack import Stack


@pytest.fixture(params=["store", "folder", "archive"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "store":
        stack: Stack = request.getfixturevalue("stack")
        keys = stack.keys("vault")
        yield Store("store", stack.store_url, keys.access, keys.secret)
        return
    (tmp_path / "folder").mkdir()
    (tmp_path / "state").mkdir()
    if request.param == "archive":
        made: Folder = Archive(tmp_path / "folder", tmp_path / "state" / "archive-id")
    else:
        made = Folder("archive", tmp_path / "folder")
    made.ping()
    yield made


@pytest.fixture
def prefix() -> str:
    """The beginning of keys that no other test has, since nothing precious is ever deleted."""
    return f"catalog/t{uuid.uuid4().hex[:10]}/"


def test_an_object_is_read_back_as_it_was_written(place: Place, prefix: str) -> None:
    key, data = f"{prefix}v001.json", b"one object\n"
    stored = place.put_bytes(PRECIOUS, key, data)
    assert (stored.key, stored.sha256, stored.size) == (key, sha256_bytes(data), len(data))
    assert place.read(PRECIOUS, key, sha256=stored.sha256) == data
    assert place.read_hash(PRECIOUS, key, stored.version_id) == (stored.sha256, stored.size)
    assert place.size(PRECIOUS, key) == len(data)
    opened = place.open(PRECIOUS, key)
    assert opened.read(3) == b"one"
    opened.close()
    with pytest.raises(ObjectDamaged):
        place.read(PRECIOUS, key, sha256=sha256_bytes(b"another"))


def test_a_key_is_written_once(place: Place, prefix: str) -> None:
    key = f"{prefix}v001.json"
    first = place.put_bytes(PRECIOUS, key, b"one")
    assert place.put_bytes(PRECIOUS, key, b"one") == first
    assert place.create(PRECIOUS, key, b"one") == first
    for write in (place.put_bytes, place.create):
        with pytest.raises(AlreadyExists) as refused:
            write(PRECIOUS, key, b"two")
        assert str(refused.value).startswith(f"{place.name}: ")
    assert place.read(PRECIOUS, key) == b"one"
    assert [version.key for version in place.versions(PRECIOUS, key)] == [key]


def test_bytes_that_were_sent_wrong_get_no_name(place: Place, prefix: str) -> None:
    key, source = f"{prefix}v001.json", io.BytesIO(b"other bytes")
    with pytest.raises(ObjectDamaged, match="as sent"):
        place.put_stream(PRECIOUS, key, source, 11, sha256_bytes(b"meant bytes"))
    assert list(place.keys(PRECIOUS, prefix)) == []


def test_keys_are_listed_sorted_by_their_beginning(place: Place, prefix: str) -> None:
    names = ("v002.json", "v001.json", "latest.json", "inner/v003.json")
    for name in names:
        place.put_bytes(PRECIOUS, prefix + name, name.encode())
    assert list(place.keys(PRECIOUS, prefix)) == sorted(prefix + name for name in names)
    assert list(place.keys(PRECIOUS, f"{prefix}v")) == [f"{prefix}v001.json", f"{prefix}v002.json"]
    assert list(place.keys(PRECIOUS, f"{prefix}none/")) == []
    found = [version for version in place.versions(PRECIOUS, f"{prefix}v") if version.modified]
    assert [(v.key, v.size, v.is_delete_marker) for v in found] == [
        (f"{prefix}v001.json", 9, False),
        (f"{prefix}v002.json", 9, False),
    ]
    assert place.read(PRECIOUS, found[0].key, found[0].version_id) == b"v001.json"


def test_what_is_not_there_is_missing(place: Place, prefix: str) -> None:
    key = f"{prefix}v001.json"
    for read in (place.read, place.read_hash, place.open, place.size):
        with pytest.raises(ObjectMissing):
            read(PRECIOUS, key)
    assert place.read_newest(PRECIOUS, key) is None
    assert list(place.versions(PRECIOUS, key)) == []


def test_a_record_is_replaced_only_by_who_read_it(place: Place, prefix: str) -> None:
    key = f"{prefix}latest.json"
    assert place.swap(PRECIOUS, key, b"1", None)
    assert not place.swap(PRECIOUS, key, b"2", None)
    found = place.read_newest(PRECIOUS, key)
    assert found is not None
    assert found[0] == b"1"
    assert place.swap(PRECIOUS, key, b"2", found[1])
    assert not place.swap(PRECIOUS, key, b"3", found[1])
    newest = place.read_newest(PRECIOUS, key)
    assert newest is not None
    assert newest[0] == b"2"

"""The folders of the inbox: which are read, links, other disks, and what is said of the rest."""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.ctl.commands.submit import sidecar_of
from services.ingest.inbox.folders import ASIDE
from services.ingest.inbox.inbox import FILE, SIDECAR, Inbox
from services.ingest.intake import orphan
from services.ingest.outcome.admit import after_queued
from shared.errors import UsageError
from shared.files import copy_synced
from shared.ledger.jobs import Table
from shared.ledger.lineage import Line

DATA = b'{"prompt": "a", "completion": "b"}\n'
NFC, NFD = "Größe", unicodedata.normalize("NFD", "Größe")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


@pytest.fixture
def inbox(root: Path) -> Iterator[Inbox]:
    made = Inbox(root)
    yield made
    made.close()


def unread(inbox: Inbox) -> dict[str, str]:
    return {
        str(each.path.relative_to(inbox.root)): each.why
        for each in [*inbox.look().unread, *inbox.damaged()]
    }


# ---- links to folders ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "level", "lineage", "kind"),
    [
        ("priority", "high", "main", "train"),
        ("high", "high", "main", "train"),
        ("low", "low", "main", "train"),
        ("eval", "normal", "main", "eval"),
        ("@other", "normal", "other", "train"),
        ("@other/low", "low", "other", "train"),
    ],
)
def test_a_link_to_a_folder_is_read_as_that_folder(
    tmp_path: Path, link: str, level: str, lineage: str, kind: str
) -> None:
    root, elsewhere = tmp_path / "inbox", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(elsewhere)
    (elsewhere / "a.jsonl").write_bytes(DATA)
    (elsewhere / "a.yaml").write_bytes(b"epochs: 1\n")
    inbox = Inbox(root)
    listing = inbox.look()
    assert listing.unread == []
    data = next(e for e in listing.entries if e.path.name == "a.jsonl")
    assert (data.place.level, data.place.lineage, data.place.kind) == (level, lineage, kind)
    taken = inbox.take(data)
    assert taken is not None
    assert taken.path.read_bytes() == DATA
    assert taken.origin.folder == link
    (beside,) = inbox.sidecars(taken)
    inbox.take_sidecar(taken, beside)
    assert list(elsewhere.iterdir()) == []
    assert (root / link).is_symlink()
    inbox.close()


def test_the_inbox_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "inbox").symlink_to("real")
    inbox = Inbox(tmp_path / "inbox")
    (tmp_path / "real/a.jsonl").write_bytes(DATA)
    (entry,) = inbox.look().entries
    assert inbox.take(entry) is not None
    inbox.close()


def test_a_link_of_the_inbox_to_nowhere_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "inbox").symlink_to("gone")
    with pytest.raises(UsageError, match="link to a place that does not exist"):
        Inbox(tmp_path / "inbox")


@pytest.mark.parametrize(
    ("link", "target", "words"),
    [
        ("priority", "gone", "which ingest cannot find"),
        ("@other", "gone", "which ingest cannot find"),
        ("low", "file", "which is not a folder"),
        ("high", "inbox/priority", "into the inbox itself"),
        ("@loop", "inbox", "into the inbox itself"),
        ("@above", ".", "a folder around it"),
        ("data", "elsewhere", "a link to a folder"),
    ],
)
def test_a_link_that_is_not_followed_stays_and_is_told(
    tmp_path: Path, link: str, target: str, words: str
) -> None:
    root = tmp_path / "inbox"
    root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "file").write_bytes(DATA)
    (root / link).symlink_to(tmp_path / target)
    inbox = Inbox(root)
    listing = inbox.look()
    assert [(u.path.name, words in u.why) for u in listing.unread] == [(link, True)]
    assert listing.entries == []
    inbox.close()


# ---- folders without a meaning -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("stuff", "move its files into the inbox itself"),
        ("Priority", "rename it to priority"),
        ("@Other", "rename it to @other"),
        ("@my lineage", "cannot be the name of a lineage"),
        ("low/@other", "lies in the inbox itself"),
        (".taken/0f", "its origin.json cannot be read"),
    ],
)
def test_a_folder_that_is_not_read_is_told_with_what_to_do(
    inbox: Inbox, folder: str, words: str
) -> None:
    (inbox.root / folder).mkdir(parents=True)
    (inbox.root / folder / "a.jsonl").write_bytes(DATA)
    assert [(path, words in why) for path, why in unread(inbox).items()] == [(folder, True)]


def test_a_folder_that_cannot_be_read_is_told(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(place: object) -> Iterator[object]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("services.ingest.inbox.folders.list_inbox", refuse)
    assert "Permission denied" in unread(inbox)["."]


# ---- another disk --------------------------------------------------------------------------------


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Path]:
    """A folder on another disk than the inbox."""
    folder = Path("/dev/shm") / f"duramen-{tmp_path.parent.name}-{tmp_path.name}"
    if not folder.parent.is_dir() or folder.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has one disk only")
    folder.mkdir()
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def test_a_file_on_another_disk_is_copied_whole_and_then_gone_there(root: Path, far: Path) -> None:
    (root / "priority").symlink_to(far)
    inbox = Inbox(root)
    (far / "a.jsonl").write_bytes(DATA)
    (far / "a.YAML").write_bytes(b"epochs: 1\n")
    entry = next(e for e in inbox.look().entries if e.path.name == "a.jsonl")
    taken = inbox.take(entry)
    assert taken is not None
    (beside,) = inbox.sidecars(taken)
    inbox.take_sidecar(taken, beside)
    assert (taken.path.read_bytes(), taken.sidecar.read_bytes()) == (DATA, b"epochs: 1\n")
    assert taken.path.stat().st_mtime_ns == entry.status.st_mtime_ns
    assert list(far.iterdir()) == []
    inbox.close()


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize(("name", "is_data"), [("a.jsonl", True), ("a.yaml", False)])
def test_what_a_kill_left_on_another_disk_is_put_back_and_taken_again(
    root: Path, far: Path, copied: bool, name: str, is_data: bool
) -> None:
    (root / "low").symlink_to(far)
    inbox = Inbox(root)
    (far / "a.jsonl").write_bytes(DATA)
    (far / "a.yaml").write_bytes(b"epochs: 1\n")
    entry = next(e for e in inbox.look().entries if e.path.name == "a.jsonl")
    taken = inbox.take(entry)
    assert taken is not None
    aside = far / ASIDE / taken.origin.id
    aside.mkdir(parents=True)
    if is_data:
        (aside / name).write_bytes(DATA)
        if not copied:
            taken.path.unlink()
    else:
        (far / name).rename(aside / name)
        if copied:
            taken.sidecar.write_bytes(b"epochs: 1\n")
    names = {e.path.name for e in inbox.look().entries}
    assert names == ({"a.jsonl", "a.yaml"} if is_data else {"a.yaml"})
    assert not (far / ASIDE).exists()
    assert (taken.folder / FILE).exists() is not is_data
    assert not (taken.folder / SIDECAR).exists()
    assert len(inbox.taken()) == (0 if is_data else 1)
    inbox.close()


def test_a_file_that_grows_while_it_is_copied_stays_where_it_is(
    root: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "low").symlink_to(far)
    inbox = Inbox(root)
    (far / "a.jsonl").write_bytes(DATA)
    (entry,) = inbox.look().entries
    real = copy_synced

    def growing(source: Path, target: Path) -> None:
        real(source, target)
        with source.open("ab") as file:
            file.write(DATA)

    monkeypatch.setattr("services.ingest.inbox.other_disk.copy_synced", growing)
    with pytest.raises(OSError, match="while it was copied"):
        inbox.take(entry)
    assert (far / "a.jsonl").read_bytes() == DATA * 2
    assert inbox.taken() == []
    inbox.close()


# ---- sidecars ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "beside", "first"),
    [
        ("data.jsonl", ["data.YAML"], "data.YAML"),
        ("data.jsonl.gz", ["data.Yml"], "data.Yml"),
        ("DATA.JSONL", ["DATA.JSONL.yaml"], "DATA.JSONL.yaml"),
        (f"{NFC}.jsonl", [f"{NFD}.yaml"], f"{NFD}.yaml"),
        (f"{NFD}.jsonl", [f"{NFC}.YAML"], f"{NFC}.YAML"),
        ("data.jsonl", ["data.yml", "data.YAML", "data.jsonl.yaml"], "data.YAML"),
        ("data.jsonl", ["data.YAML", "data.yaml"], "data.yaml"),
        ("data.jsonl", ["Data.yaml"], None),
        ("data.jsonl", ["data.yaml.txt", "datas.yaml", ".yaml"], None),
    ],
)
def test_a_sidecar_is_found_in_any_normal_form_and_case_of_its_suffix(
    tmp_path: Path, data: str, beside: list[str], first: str | None
) -> None:
    inbox = Inbox(tmp_path)
    for name in [data, *beside]:
        (tmp_path / name).write_bytes(DATA)
    if len(set(map(str.lower, beside))) == len(beside):
        found = sidecar_of(tmp_path / data)
        assert (found.name if found else None) == first
    entry = next(e for e in inbox.look().entries if e.path.name == data)
    taken = inbox.take(entry)
    assert taken is not None
    names = [each.path.name for each in inbox.sidecars(taken)]
    assert (names[0] if names else None) == first
    inbox.close()


@pytest.mark.parametrize(
    ("name", "others", "words"),
    [
        ("data.yaml", [], "waits for its data file, such as data.jsonl"),
        ("Data.yaml", ["other.jsonl", "data.jsonl"], "differs from data.jsonl in upper and lower"),
    ],
)
def test_a_sidecar_without_a_data_file_says_what_it_waits_for(
    name: str, others: list[str], words: str
) -> None:
    assert words in orphan(name, others)


def test_a_file_queued_in_a_lineage_that_does_not_exist_says_how_to_make_it() -> None:
    table = Table(lines={"known": Line("known")})
    steps = {name: after_queued(table, name) for name in ("main", "known", "nope")}
    assert steps["main"] == steps["known"] == "duramen queue list"
    assert steps["nope"].startswith("duramen lineage new nope --base BASE")


@pytest.mark.parametrize(
    "damage",
    [
        {"id": "../../done"},
        {"id": 7},
        {"level": ["high"]},
        {"level": "first"},
        {"name": None},
        {"lineage": {}},
        {"kind": "other"},
    ],
    ids=str,
)
def test_an_origin_of_other_types_is_named_and_hinders_no_other_file(
    tmp_path: Path, damage: dict[str, object]
) -> None:
    inbox = Inbox(tmp_path)
    for name in ("0a", "0b"):
        folder = tmp_path / ".taken" / name
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"{}\n")
        origin = {"id": name, "name": "x.jsonl", "level": "low", "lineage": "main", "kind": "train"}
        said = {**origin, **damage} if name == "0a" else origin
        (folder / "origin.json").write_text(json.dumps(said))
    assert [taken.origin.id for taken in inbox.taken()] == ["0b"]
    assert [each.path.name for each in inbox.damaged()] == ["0a"]
    assert (tmp_path / ".taken" / "0a" / "file").exists()

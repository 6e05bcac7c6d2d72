"""The cache of what was read of the snapshots, in one SQLite file.

It is only a cache: if it is deleted, everything is read again. Each call opens its own connection,
so that the reader's thread and those of the API never share one; the write-ahead log lets them read
while a snapshot is being added.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAYOUT = 3  # PRAGMA user_version: a file of another layout is thrown away
# Ids are never used again: an answer that is being given may still mean the snapshot before.
SCHEMA = """
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT, place TEXT NOT NULL, key TEXT NOT NULL UNIQUE,
    etag TEXT NOT NULL, sha256 TEXT NOT NULL, judged_by TEXT, problem TEXT, lineage TEXT NOT NULL,
    segment TEXT NOT NULL,
    fence INTEGER NOT NULL, global_step INTEGER NOT NULL, position INTEGER NOT NULL,
    job TEXT NOT NULL, at TEXT NOT NULL, job_tokens INTEGER, decision TEXT);
CREATE TABLE probes (probe TEXT PRIMARY KEY, prompt TEXT NOT NULL, expected TEXT NOT NULL);
CREATE TABLE measurements (
    snapshot INTEGER NOT NULL REFERENCES snapshots ON DELETE CASCADE, probe TEXT NOT NULL,
    split TEXT NOT NULL, dataset TEXT NOT NULL, row INTEGER NOT NULL, answer TEXT,
    tokens INTEGER NOT NULL, loss REAL, token_accuracy REAL,
    first_mismatch INTEGER, exact_match INTEGER, normalized_match INTEGER, similarity REAL,
    confidence REAL, is_cut INTEGER, PRIMARY KEY (snapshot, probe)) WITHOUT ROWID;
CREATE TABLE tokens (
    snapshot INTEGER NOT NULL REFERENCES snapshots ON DELETE CASCADE, probe TEXT NOT NULL,
    pieces TEXT NOT NULL, surprisal TEXT NOT NULL, PRIMARY KEY (snapshot, probe)) WITHOUT ROWID;
CREATE INDEX measured ON measurements (probe);
CREATE TABLE named (key TEXT PRIMARY KEY, sha256 TEXT NOT NULL, by_result INTEGER NOT NULL);
CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
JOINED = "SELECT m.*, p.prompt, p.expected FROM measurements m JOIN probes p USING (probe)"
Row = dict[str, Any]


@dataclass(frozen=True)
class CachedSnapshot:
    """A snapshot as it was read.

    `place` is `work` or `version`; `judged_by` is the SHA-256 that it was compared with, if there
    was one; `problem` says why it is not used; `decision` is JSON and says why it was taken and how
    large it is.
    """

    place: str
    key: str
    etag: str
    sha256: str
    judged_by: str | None
    problem: str | None
    lineage: str
    segment: str = ""
    fence: int = 0
    global_step: int = 0
    position: int = 0
    job: str = ""
    at: str = ""
    job_tokens: int | None = None
    decision: str | None = None
    id: int = 0


class Cache:
    """Snapshots by key, their measurements, and the hashes that others named for them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh = self._layout() != LAYOUT
        except sqlite3.DatabaseError:  # a damaged file is worth as much as none
            fresh = True
        if fresh:
            self._make()

    def _layout(self) -> int:
        with self.open() as db:
            return int(db.execute("PRAGMA user_version").fetchone()[0])

    def _make(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        with self.open() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(SCHEMA)
            db.execute(f"PRAGMA user_version = {LAYOUT}")

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for one unit of work, which is committed at the end."""
        with closing(sqlite3.connect(self.path, timeout=10)) as db:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA synchronous = NORMAL")
            with db:
                yield db

    # ---- writing ---------------------------------------------------------------------------------

    def add(self, found: CachedSnapshot, rows: Sequence[Row]) -> None:
        """Add a snapshot with its measurements in place of what was known under its key."""
        with self.open() as db:
            db.execute("DELETE FROM snapshots WHERE key = ?", (found.key,))
            fields = {k: v for k, v in found.__dict__.items() if k != "id"}
            marks = ", ".join(f":{name}" for name in fields)
            cursor = db.execute(
                f"INSERT INTO snapshots ({', '.join(fields)}) VALUES ({marks})",  # noqa: S608 - own names
                fields,
            )
            db.executemany("INSERT OR IGNORE INTO probes VALUES (:probe, :prompt, :expected)", rows)
            db.executemany(
                "INSERT INTO measurements VALUES (:snapshot, :probe, :split, :dataset, :row,"
                " :answer, :tokens, :loss, :token_accuracy, :first_mismatch, :exact_match,"
                " :normalized_match, :similarity, :confidence, :is_cut)",
                [{**row, "snapshot": cursor.lastrowid} for row in rows],
            )
            db.executemany(
                "INSERT INTO tokens VALUES (?, ?, ?, ?)",
                [
                    (cursor.lastrowid, r["probe"], json.dumps(r["pieces"]), json.dumps(surprisal))
                    for r in rows
                    if (surprisal := r["surprisal"]) is not None
                ],
            )

    def name_hash(self, key: str, sha256: str, *, by_result: bool) -> None:
        """Note the SHA-256 that an object must have; a result's word outlasts an event's."""
        with self.open() as db:
            db.execute(
                "INSERT INTO named VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
                " sha256 = excluded.sha256, by_result = excluded.by_result"
                " WHERE excluded.by_result >= by_result",
                (key, sha256, int(by_result)),
            )

    def set_mark(self, name: str, value: int) -> None:
        with self.open() as db:
            db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, value))

    # ---- reading ---------------------------------------------------------------------------------

    def mark(self, name: str) -> int:
        with self.open() as db:
            row = db.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
        return int(row["value"]) if row else 0

    def named(self) -> dict[str, str]:
        """Return, by key, the SHA-256 that an event or a result gave an object."""
        with self.open() as db:
            return {row["key"]: row["sha256"] for row in db.execute("SELECT * FROM named")}

    def snapshots(self) -> list[CachedSnapshot]:
        with self.open() as db:
            return [CachedSnapshot(**dict(row)) for row in db.execute("SELECT * FROM snapshots")]

    def measurements(self, snapshots: Iterable[int]) -> list[Row]:
        """Return all measurements of these snapshots, with their probes' texts and snapshot ids."""
        return self._rows("m.snapshot", list(snapshots))

    def of_probes(self, probes: Iterable[str]) -> list[Row]:
        """Return all measurements of these probes, whether their snapshots count or not."""
        return self._rows("m.probe", list(probes))

    def _rows(self, column: str, values: list[Any]) -> list[Row]:
        found: list[Row] = []
        with self.open() as db:
            for at in range(0, len(values), 500):  # SQLite bounds the number of parameters
                part = values[at : at + 500]
                holes = ", ".join("?" * len(part))
                query = f"{JOINED} WHERE {column} IN ({holes})"
                found += [dict(row) for row in db.execute(query, part)]
        return found

    def tokens(self, snapshot: int, probe: str) -> tuple[list[str], list[int]]:
        """Return the pieces of the expected answer and their surprisal, in sixteenths of a nat.

        Both are empty where the snapshot has none.
        """
        query = "SELECT pieces, surprisal FROM tokens WHERE snapshot = ? AND probe = ?"
        with self.open() as db:
            row = db.execute(query, (snapshot, probe)).fetchone()
        return (json.loads(row["pieces"]), json.loads(row["surprisal"])) if row else ([], [])

    def counts(self, snapshots: Iterable[int]) -> dict[str, int]:
        """Return, by split, how many different probes were measured in these snapshots."""
        found: dict[str, set[str]] = {}
        query = "SELECT split, probe FROM measurements WHERE snapshot = ?"
        with self.open() as db:
            for snapshot in snapshots:
                for row in db.execute(query, (snapshot,)):
                    found.setdefault(row["split"], set()).add(row["probe"])
        return {split: len(probes) for split, probes in found.items()}

    def probes_like(self, prefix: str) -> list[str]:
        with self.open() as db:
            rows = db.execute("SELECT probe FROM probes WHERE probe GLOB ? || '*'", (prefix,))
            return [row["probe"] for row in rows]

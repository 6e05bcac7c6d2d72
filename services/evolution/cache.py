"""The cache of what was read of the snapshots, in one SQLite file: numbers in columns, and texts.

It is only a cache: if it is deleted, everything is read again. Each call opens its own connection,
so that the reader's thread and those of the API never share one; the write-ahead log lets them read
while a snapshot is being added.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from services.evolution.cells import CELL, Cells, cells_of
from shared.errors import DiskFull

LAYOUT = 4  # PRAGMA user_version: a file of another layout is thrown away
# Ids are never used again: an answer that is being given may still mean the snapshot before.
SCHEMA = """
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT, place TEXT NOT NULL, key TEXT NOT NULL UNIQUE,
    etag TEXT NOT NULL, sha256 TEXT NOT NULL, judged_by TEXT, problem TEXT, lineage TEXT NOT NULL,
    segment TEXT NOT NULL,
    fence INTEGER NOT NULL, global_step INTEGER NOT NULL, position INTEGER NOT NULL,
    job TEXT NOT NULL, at TEXT NOT NULL, job_tokens INTEGER, decision TEXT, cells BLOB NOT NULL);
CREATE TABLE probes (
    id INTEGER PRIMARY KEY, probe TEXT NOT NULL UNIQUE, prompt TEXT NOT NULL,
    expected TEXT NOT NULL);
CREATE TABLE datasets (id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE);
CREATE TABLE texts (
    probe INTEGER NOT NULL REFERENCES probes,
    snapshot INTEGER NOT NULL REFERENCES snapshots ON DELETE CASCADE,
    answer TEXT, pieces TEXT, surprisal TEXT, PRIMARY KEY (probe, snapshot)) WITHOUT ROWID;
CREATE INDEX said ON texts (snapshot);
CREATE TABLE named (key TEXT PRIMARY KEY, sha256 TEXT NOT NULL, by_result INTEGER NOT NULL);
CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
# A write-ahead log that cannot grow on a full disk is an error of the disk, or of opening.
FULL_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
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
        self._cells: dict[int, Cells] = {}
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
        """Yield a connection for one unit of work, which is committed at the end.

        Raises DiskFull: nothing of the unit is kept then.
        """
        try:
            with closing(sqlite3.connect(self.path, timeout=10)) as db:
                db.row_factory = sqlite3.Row
                db.execute("PRAGMA foreign_keys = ON")
                db.execute("PRAGMA synchronous = NORMAL")
                with db:
                    yield db
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in FULL_CODES:
                raise
            raise DiskFull(f"{self.path.parent}: {error}: duramen disk") from error

    # ---- writing ---------------------------------------------------------------------------------

    def add(self, found: CachedSnapshot, rows: Sequence[Row]) -> None:
        """Add a snapshot with its measurements in place of what was known under its key."""
        with self.open() as db:
            db.execute("DELETE FROM snapshots WHERE key = ?", (found.key,))
            db.executemany(
                "INSERT OR IGNORE INTO probes (probe, prompt, expected)"
                " VALUES (:probe, :prompt, :expected)",
                rows,
            )
            datasets = {row["dataset"] for row in rows}
            db.executemany(
                "INSERT OR IGNORE INTO datasets (sha256) VALUES (?)", [(d,) for d in datasets]
            )
            numbers = number_by(db, "probes", "probe", {row["probe"] for row in rows})
            cells = cells_of(rows, numbers, number_by(db, "datasets", "sha256", datasets))
            values = {k: v for k, v in found.__dict__.items() if k != "id"}
            values["cells"] = cells.tobytes()
            marks = ", ".join(f":{name}" for name in values)
            cursor = db.execute(
                f"INSERT INTO snapshots ({', '.join(values)}) VALUES ({marks})",  # noqa: S608 - own names
                values,
            )
            db.executemany(
                "INSERT INTO texts VALUES (?, ?, ?, ?, ?)",
                [(numbers[row["probe"]], cursor.lastrowid, *texts_in(row)) for row in rows],
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
        names = ", ".join(field.name for field in fields(CachedSnapshot))
        with self.open() as db:
            found = db.execute(f"SELECT {names} FROM snapshots")  # noqa: S608 - own names
            return [CachedSnapshot(**dict(row)) for row in found]

    def cells(self, snapshots: Iterable[int]) -> list[Cells]:
        """Return the numbers that each of these snapshots measured. They are kept in memory.

        An id whose snapshot was replaced meanwhile has none.
        """
        wanted = list(snapshots)
        with self.open() as db:
            for snapshot in wanted:
                if snapshot not in self._cells:
                    query = "SELECT cells FROM snapshots WHERE id = ?"
                    row = db.execute(query, (snapshot,)).fetchone()
                    data = row["cells"] if row else b""
                    self._cells[snapshot] = np.frombuffer(data, CELL)
        return [self._cells[snapshot] for snapshot in wanted]

    def forget_cells(self, but: Collection[int]) -> None:
        """Keep in memory the numbers of these snapshots alone."""
        self._cells = {key: found for key, found in self._cells.items() if key in but}

    def asked(self, probes: Iterable[int]) -> dict[int, Row]:
        """Return the id, question and expected answer of each of these probes, by its number."""
        wanted = [int(probe) for probe in probes]
        found: dict[int, Row] = {}
        with self.open() as db:
            for at in range(0, len(wanted), 500):  # SQLite bounds the number of parameters
                part = wanted[at : at + 500]
                query = f"SELECT * FROM probes WHERE id IN ({', '.join('?' * len(part))})"  # noqa: S608 - own text
                found |= {row["id"]: dict(row) for row in db.execute(query, part)}
        return found

    def answers(self, snapshot: int) -> dict[int, str | None]:
        """Return what a snapshot's model answered, by the number of the probe."""
        query = "SELECT probe, answer FROM texts WHERE snapshot = ?"
        with self.open() as db:
            return {row["probe"]: row["answer"] for row in db.execute(query, (snapshot,))}

    def answers_to(self, probe: int) -> dict[int, str | None]:
        """Return what was answered to one probe, by the id of the snapshot."""
        query = "SELECT snapshot, answer FROM texts WHERE probe = ?"
        with self.open() as db:
            return {row["snapshot"]: row["answer"] for row in db.execute(query, (probe,))}

    def datasets(self) -> dict[int, str]:
        """Return the SHA-256 of each dataset by its number."""
        with self.open() as db:
            return {row["id"]: row["sha256"] for row in db.execute("SELECT * FROM datasets")}

    def tokens(self, snapshot: int, probe: int) -> tuple[list[str], list[int]]:
        """Return the pieces of the expected answer and their surprisal, in sixteenths of a nat.

        Both are empty where the snapshot has none.
        """
        query = "SELECT pieces, surprisal FROM texts WHERE snapshot = ? AND probe = ?"
        with self.open() as db:
            row = db.execute(query, (snapshot, probe)).fetchone()
        if row is None or row["surprisal"] is None:
            return [], []
        return json.loads(row["pieces"]), json.loads(row["surprisal"])

    def probes_like(self, prefix: str) -> dict[str, int]:
        """Return the numbers of the probes whose id begins so, by their ids."""
        with self.open() as db:
            rows = db.execute("SELECT * FROM probes WHERE probe GLOB ? || '*'", (prefix,))
            return {row["probe"]: row["id"] for row in rows}


def number_by(
    db: sqlite3.Connection, table: str, column: str, names: Iterable[str]
) -> dict[str, int]:
    """Return the ids of these names, which are there."""
    query = f"SELECT id FROM {table} WHERE {column} = ?"  # noqa: S608 - own names
    return {name: db.execute(query, (name,)).fetchone()["id"] for name in names}


def texts_in(row: Row) -> tuple[str | None, str | None, str | None]:
    """Return a row's answer, and as JSON the pieces of what is expected and their surprisal."""
    if row["surprisal"] is None:
        return row["answer"], None, None
    return row["answer"], json.dumps(row["pieces"]), json.dumps(row["surprisal"])

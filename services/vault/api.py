"""The vault's HTTP API.

GET /api/versions, GET and POST (verify) for one version, GET /api/bases, GET /api/alarms.
"""

import asyncio
from datetime import datetime
from typing import Literal

from fastapi import FastAPI

from services.vault import catalog, checks, edition, latest
from services.vault.edition import Edition
from services.vault.vault import Vault
from shared.answers.vault import (
    BaseRow,
    StandingAlarm,
    Verified,
    VersionFacts,
    VersionRow,
    VersionShown,
)
from shared.errors import NotFound, StoreUnavailable
from shared.formats.version import CommitRecord, Latest, version_name
from shared.ledger.lineage import Line
from shared.service import http
from shared.store import layout
from shared.store.place import PRECIOUS, Place


def make(vault: Vault) -> FastAPI:
    async def stores() -> None:
        await asyncio.to_thread(vault.copies.ping)

    app = http.make_app(vault.settings, {"bus": vault.bus.ping, "stores": stores})

    @app.get("/api/versions")
    async def versions(lineage: str | None = None) -> list[VersionRow]:
        """Return every version that the ledgers numbered, published or not; newest last."""
        await vault.table.update(vault.bus)
        lines = [line for name, line in vault.table.lines.items() if lineage in (None, name)]
        found = [
            await asyncio.to_thread(listing, vault, line, facts(vault, line)) for line in lines
        ]
        return [row for rows in found for row in rows]

    @app.get("/api/versions/{lineage}/{number}")
    async def version(lineage: str, number: int) -> VersionShown:
        """Return a version's commit record and what is known of its copies."""
        rows = [row for row in await versions(lineage) if row.version == number]
        if not rows:
            raise NotFound(f"{lineage} has no {version_name(number)}.")
        row = rows[0]
        if row.state == "pending":
            return VersionShown(**dict(row), commit=None, checked=[])
        commit = await asyncio.to_thread(
            catalog.read_commit_anywhere,
            vault.copies,
            lineage,
            number,
            known(vault, lineage, number),
        )
        checked = [f.told for f in vault.checked.get((lineage, number), [])]
        return VersionShown(**dict(row), commit=commit, checked=checked)

    @app.post("/api/versions/{lineage}/{number}/verify")
    async def verify(lineage: str, number: int, with_base: bool = False) -> Verified:
        """Read all copies of a version in full now and return what was found."""
        commit = await asyncio.to_thread(
            catalog.read_commit_anywhere,
            vault.copies,
            lineage,
            number,
            known(vault, lineage, number),
        )
        found = await asyncio.to_thread(
            checks.verify_version, vault.copies, commit, catalog.encode(commit), with_base=with_base
        )
        await remember(vault, lineage, number, found)
        return Verified(
            lineage=lineage,
            version=number,
            ok=all(place.ok for place in found),
            copies=[place.told for place in found],
        )

    @app.get("/api/bases")
    async def bases() -> list[BaseRow]:
        """Return the roots of all committed bases, with the places that hold each."""
        return await asyncio.to_thread(base_rows, vault)

    @app.get("/api/alarms")
    async def alarms() -> list[StandingAlarm]:
        """Return the alarms that are active now."""
        standing = vault.alarms.standing.items()
        return [StandingAlarm(what=w, about=a, detail=detail) for (w, a), detail in standing]

    return app


async def remember(vault: Vault, lineage: str, number: int, found: list[checks.CopyFound]) -> None:
    """Keep what a full read found, to be shown until the next one.

    Each place that is damaged raises an alarm; each that is not ends its alarm.
    """
    vault.checked[lineage, number] = found
    for place in found:
        about = f"{place.place}: {lineage}/{version_name(number)}"
        if place.ok:
            vault.alarms.clear("damaged", about)
        else:
            await vault.alarms.sound("damaged", about, "; ".join(place.problems[:5]), lineage)


def known(vault: Vault, lineage: str, number: int) -> Edition | None:
    """Return a version as the ledger numbered it; None if only the places know of it."""
    line = vault.table.lines.get(lineage)
    if line is None or number not in line.versions:
        return None
    return edition.wanted(vault.table, line, number)


def facts(vault: Vault, line: Line) -> list[tuple[Edition, VersionFacts]]:
    """Return each version of a lineage with what the ledger says of it now.

    This is read before the places are asked, because the table may change in the meantime.
    """
    rows = []
    for version in sorted(line.versions):
        wanted = edition.wanted(vault.table, line, version)
        steps = sum(s.to_step - s.from_step for s in wanted.segments if s.job == wanted.close.job)
        retry = vault.pending.get((line.lineage, version))
        row = VersionFacts(
            lineage=line.lineage,
            version=version,
            name=wanted.name,
            job=str(wanted.job),
            dataset=wanted.job.sha256,
            file=wanted.file_name,
            outcome=wanted.close.outcome,
            steps=steps,
            global_step=wanted.close.head.global_step,
            base_root=wanted.close.head.base_root,
            ledger_sequence=wanted.sequence,
            closed_at=wanted.close.at.isoformat(),
            in_ancestry=wanted.sequence in line.ancestry(),
            reason=retry.why if retry else None,
        )
        rows.append((wanted, row))
    return rows


def listing(
    vault: Vault, line: Line, numbered: list[tuple[Edition, VersionFacts]]
) -> list[VersionRow]:
    """Return the rows with what the places say: who holds the commit, since when, and `latest`."""
    held = vault.copies.everywhere(lambda place: names_in(place, line.lineage))
    current, dates = pointers(vault, line.lineage)
    rows = []
    for wanted, row in numbered:
        places = sorted(place for place, names in held.items() if row.name in names)
        commit = commit_of(vault, wanted) if places else None
        checked = vault.checked.get((line.lineage, row.version))
        sound = [f.place for f in checked if f.ok and f.place in places] if checked else places
        at = dates.get(layout.commit(line.lineage, row.version))
        shown = VersionRow(
            **dict(row),
            state=state_of(commit),
            places=places,
            copies=len(sound) if commit else 0,
            domains=vault.settings.failure_domains,
            size=sum(file.size for file in commit.files) if commit else None,
            published_at=at.isoformat() if at and commit else None,
            latest=bool(current and current.version == row.version),
        )
        rows.append(shown)
    return rows


def names_in(place: Place, lineage: str) -> set[str]:
    """Return the names of the versions committed in a place; none while it is away.

    A place that is away holds nothing that could be counted now.
    """
    try:
        return catalog.committed_in(place, lineage)
    except StoreUnavailable:
        return set()


def pointers(vault: Vault, lineage: str) -> tuple[Latest | None, dict[str, datetime | None]]:
    """Return `latest`, and by key when each commit was written; nothing while the store is away."""
    store = vault.copies.store
    try:
        commits = store.versions(PRECIOUS, layout.commit_records(lineage))
        dates = {version.key: version.modified for version in commits}  # the oldest comes last
        return latest.read_latest(store, lineage), dates
    except StoreUnavailable:
        return None, {}


def commit_of(vault: Vault, wanted: Edition) -> CommitRecord | None:
    """Return the commit of this close; None if there is none, or it cannot be read now."""
    try:
        return catalog.read_commit_anywhere(vault.copies, wanted.lineage, wanted.version, wanted)
    except (NotFound, StoreUnavailable):
        return None


def state_of(commit: CommitRecord | None) -> Literal["pending", "aborted", "published"]:
    """Return the state of a version by its commit record.

    A commit record in any place is a commit: it is written after the last copy was read back.
    """
    if commit is None:
        return "pending"
    return "aborted" if commit.aborted else "published"


def base_rows(vault: Vault) -> list[BaseRow]:
    found: dict[str, list[str]] = {}
    held = vault.copies.everywhere(lambda place: list(place.keys(PRECIOUS, layout.BASES)))
    for place, keys in held.items():
        for key in keys:
            if root := layout.parse_base_commit(key):
                found.setdefault(root, []).append(place)
    return [BaseRow(base_root=root, places=sorted(places)) for root, places in found.items()]

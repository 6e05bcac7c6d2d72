"""Finds the rows of a job's file that the lineage has already trained."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.trainer.protocol import Spec, TrainedDataset
from services.trainer.worker.data.draw import HELDOUT_ROWS, HELDOUT_SALT, draw, heldout
from services.trainer.worker.data.encoder import Why
from shared.errors import CannotTrain
from shared.formats.dataset import CanonicalRow
from shared.formats.known_rows import EarlierJob, known_rows, nothing_new_text
from shared.formats.plan import KnownRows, UsedRows, used_rows
from shared.formats.row_ids import opened, records_of


class AllRowsKnown(Exception):
    """The lineage knows every row of the file, so there is nothing to train."""

    def __init__(self, rows: int, known: KnownRows) -> None:
        text = nothing_new_text(rows, known)
        super().__init__(f"{text[:1].upper()}{text[1:]}.")
        self.version = next((job.version for job in known.jobs), None)


@dataclass(frozen=True)
class Known:
    """What the jobs behind the head knew of the file: rows that they `trained`, or left out.

    `held_out`: ids of the rows that any job of the lineage held out.
    """

    rows: KnownRows
    held_out: set[str]
    trained: set[int]
    left_out: set[int]

    def in_plan(self, rows: list[CanonicalRow], never: Mapping[int, Why]) -> KnownRows | None:
        """Return what a plan says of known rows, or None if there are none.

        `never`: the rows that the plan leaves out, by number.
        """
        if not self.trained:
            found = self.rows.model_copy(update={"held_out": 0, "left_out": 0})
            return found if found.changed else None
        held = {n for n, row in enumerate(rows) if row.id in self.held_out} - self.trained
        left = (self.left_out & never.keys()) - held
        return self.rows.model_copy(update={"held_out": len(held), "left_out": len(left)})

    def nothing_to_train(self, rows: list[CanonicalRow], never: Mapping[int, Why]) -> Exception:
        """Return why no row is trained: a failure, unless what is new is bad and may be so."""
        known = self.in_plan(rows, never)
        if known is not None and known.count:
            seen = {n for n in never if n in self.left_out or rows[n].id in self.held_out}
            if all(why.bad for n, why in never.items() if n not in seen):
                left_out = len(rows) - known.count - known.held_out
                return AllRowsKnown(len(rows), known.model_copy(update={"left_out": left_out}))
        told = sorted({why.reason for why in never.values()}) or ["the file is empty"]
        told += [f"{known.count:,} rows have already been trained"] if known else []
        return CannotTrain("data", f"No row is left to train: {'; '.join(told)}.")


def known_of(spec: Spec, held_out: set[str]) -> Known:
    """Return what the jobs behind the head knew of the job's file. Raises CannotTrain (data)."""
    if not spec.trained:
        return Known(KnownRows(), held_out, set(), set())
    lines = spec.dataset.read_bytes().removesuffix(b"\n").split(b"\n")
    rows, left_out = known_rows(records_of(lines), [earlier_job(each) for each in spec.trained])
    trained = {row for start, end in rows.trained for row in range(start, end)}
    return Known(rows, held_out, trained, left_out)


def held_of(
    rows: list[CanonicalRow], fraction: float, trained: set[int], earlier: set[str]
) -> set[str]:
    """Return the ids of the rows to hold out.

    Of a file that has grown, the new part is drawn from as a file of its own is, and the rows that
    `earlier` files held out stay so: what was trained would show nothing.
    """
    if not trained:
        return heldout((row.id for row in rows), fraction)
    rest = [row.id for n, row in enumerate(rows) if n not in trained]
    drawn = heldout((name for name in rest if name not in earlier), fraction)
    return drawn | set(draw(earlier.intersection(rest), HELDOUT_ROWS - len(drawn), HELDOUT_SALT))


def earlier_job(said: TrainedDataset) -> EarlierJob:
    """Return an earlier job, whose files are read only where they are needed."""

    def ids() -> bytes:
        try:
            return opened(said.row_ids.read_bytes())
        except ValueError as error:
            raise CannotTrain("data", f"{said.row_ids.name}: {error}.") from error

    def used() -> UsedRows:
        try:
            return used_rows(said.plan.read_bytes(), said.position)
        except ValueError as error:
            raise CannotTrain("data", f"The plan of {said.job} cannot be read: {error}.") from error

    return EarlierJob(said.job, said.version, ids, used)

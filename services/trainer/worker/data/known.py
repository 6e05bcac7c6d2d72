"""Finds the rows of a job's file that the lineage has already trained."""

from services.trainer.protocol import Spec, TrainedDataset
from services.trainer.worker.data.draw import HELDOUT_ROWS, HELDOUT_SALT, draw, heldout
from shared.errors import CannotTrain
from shared.formats.dataset import CanonicalRow
from shared.formats.known_rows import EarlierJob, known_rows, nothing_new_text
from shared.formats.plan import KnownRows, UsedRows, used_rows
from shared.formats.row_ids import opened, records_of


class AllRowsKnown(Exception):
    """The lineage has trained or held out every row of the file, so there is nothing to train."""

    def __init__(self, rows: int, known: KnownRows) -> None:
        text = nothing_new_text(rows, known)
        super().__init__(f"{text[:1].upper()}{text[1:]}.")
        self.version = next((job.version for job in known.jobs), None)


def known_of(spec: Spec, rows: list[CanonicalRow], held_out: set[str]) -> KnownRows | None:
    """Return what the jobs behind the head knew of the job's file, or None if nothing.

    `held_out`: ids of the rows that any job of the lineage held out. Raises CannotTrain (data), and
    AllRowsKnown.
    """
    if not spec.trained:
        return None
    lines = spec.dataset.read_bytes().removesuffix(b"\n").split(b"\n")
    found = known_rows(records_of(lines), [earlier_job(each) for each in spec.trained])
    if not found.count:
        return found.model_copy(update={"held_out": 0}) if found.changed else None
    trained = known_numbers(found)
    held = sum(row.id in held_out for n, row in enumerate(rows) if n not in trained)
    found = found.model_copy(update={"held_out": held})
    if found.count + held == len(rows):
        raise AllRowsKnown(len(rows), found)
    return found


def known_numbers(known: KnownRows | None) -> set[int]:
    """Return the rows that earlier jobs trained, by number."""
    return {row for start, end in known.trained for row in range(start, end)} if known else set()


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

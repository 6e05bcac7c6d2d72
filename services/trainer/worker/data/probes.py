"""Chooses the rows that a job watches, by their content and never by their places in the file.

They come from its own file, trained and held out, from `inbox/eval`, and from earlier files.
"""

from collections.abc import Iterable, Mapping, Sequence

from services.model.encoded import Encoded
from services.trainer.worker.data.draw import (
    EARLIER_PROBES,
    EVAL_PROBES,
    OWN_PROBES,
    draw,
    draw_by_length,
)
from services.trainer.worker.data.encoder import Encoder
from shared.formats.dataset import CanonicalRow
from shared.formats.probe import Probe
from shared.protocol.names import Split


def probe_candidates(
    split: Split, dataset: str, rows: Sequence[CanonicalRow], numbers: Iterable[int]
) -> dict[str, Probe]:
    """Return the rows with these numbers as probes, by id; of equal rows the first."""
    found: dict[str, Probe] = {}
    for n in numbers:
        row = rows[n]
        if row.id not in found and row.is_watchable:
            found[row.id] = Probe(
                id=row.id,
                split=split,
                dataset=dataset,
                row=n,
                messages=row.messages,
                line=row.line,
                text=row.text,
            )
    return found


def watched(
    encoder: Encoder,
    *,
    trained: Mapping[str, Probe],
    held: Mapping[str, Probe],
    asked: Sequence[Mapping[str, Probe]],
    earlier: Iterable[Probe],
) -> tuple[list[Probe], list[Encoded]]:
    """Return the probes of a job, and their tokens in the same order.

    `asked`: candidates of each evaluation file. `earlier`: probes of the lineage's earlier jobs,
    which show what the model forgets.
    """
    # Neither kind may crowd out the other: each gets up to half, plus what the other leaves free.
    held_count = min(len(held), max(OWN_PROBES // 2, OWN_PROBES - len(trained)))
    evaluated = {name: p for file in asked for name, p in file.items() if name not in held}
    chosen = [
        *chosen_from(trained, OWN_PROBES - held_count),
        *chosen_from(held, held_count),
        *chosen_from(evaluated, EVAL_PROBES),
    ]
    known = {p.id for p in chosen}
    before = {
        p.id: p.model_copy(update={"split": "earlier"})
        for p in earlier
        if p.id not in known and p.split in ("trained", "heldout")
    }
    chosen += [before[name] for name in draw(before, EARLIER_PROBES, "probe")]
    found = [(probe, encoder.encode(probe)) for probe in chosen]
    usable = [
        (p, e) for p, e in found if isinstance(e, Encoded) and encoder.is_whole(e) and e.labels
    ]
    return [probe for probe, _ in usable], [result for _, result in usable]


def chosen_from(found: Mapping[str, Probe], count: int) -> list[Probe]:
    """Choose `count` probes, with short and long rows in the proportions of the file."""
    lengths = {
        name: len(p.text or "") + sum(len(m.content) for m in p.messages)
        for name, p in found.items()
    }
    return [found[name] for name in draw_by_length(lengths, count, "probe")]

"""Checks of the histories of examples."""

from services.ctl.check.world import Finding, NotChecked, World
from shared.answers.evolution import Curves, Datasets
from shared.errors import DuramenError


def histories_use_only_kept_snapshots(world: World) -> list[Finding]:
    """Example histories use only snapshots of steps that were kept or are being trained."""
    if world.evolution is None:
        raise NotChecked("the address of the evolution service is not set")
    try:
        curves = [
            world.evolution(Curves, f"/snapshots/{d.dataset}?lineage={d.lineage}")
            for d in world.evolution(Datasets, "/datasets").datasets
        ]
    except DuramenError as error:
        raise NotChecked(str(error), is_outage=True) from error
    found = []
    for curve in curves:
        living = world.table.lines[curve.lineage].living()
        for snapshot in curve.snapshots:
            segment = living.get(snapshot.segment)
            step, fence = snapshot.global_step, snapshot.fence
            if segment is None or not segment.holds(fence, step):
                where = f"dataset {curve.dataset[:12]}, step {step}"
                found.append(
                    Finding(
                        where,
                        "it counts a snapshot of a trainer that had lost its "
                        f"lease (record {fence})",
                    )
                )
    return found

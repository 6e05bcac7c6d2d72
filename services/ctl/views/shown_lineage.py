"""One lineage: what it was made with, and where it stands."""

from collections.abc import Iterator
from typing import Any

from services.ctl import cli
from services.ctl.settings import CtlSettings
from services.ctl.views.stored_bases import model_name
from shared.errors import DuramenError
from shared.formats.version import version_name
from shared.ledger.lineage import Line


def shown_lineage(config: CtlSettings, line: Line, row: dict[str, Any]) -> dict[str, Any]:
    """Return a lineage as programs see it; `row` is that of `lineage list`."""
    assert line.head is not None
    try:
        model = model_name(cli.first_store(config), row["base_root"], None)
    except DuramenError:
        model = "?"
    checkpoint, segment = line.head.checkpoint, line.open_segment
    return {
        **row,
        "model": model,
        "checkpoint": checkpoint.id if checkpoint else None,
        "trains": segment.job.path if segment else None,
    }


def lines_of_lineage(value: dict[str, Any], trial: list[str]) -> Iterator[str]:
    """Yield what is shown of a lineage, line by line; `trial`: what is told of its base."""
    lora, template = value["lora"], value["chat_template"]
    targets = lora["targets"] if isinstance(lora["targets"], str) else ", ".join(lora["targets"])
    dropout = f", dropout {lora['dropout']:g}" if lora["dropout"] else ""
    versions = [version_name(number) for number in value["versions"]]
    latest = version_name(value["latest"]) if value["latest"] else "none"
    shown = ", ".join(versions[-5:])
    checkpoint = f", checkpoint {value['checkpoint'][:12]}" if value["checkpoint"] else ""
    told = {
        "lineage": value["lineage"],
        "base": f"{value['base_root'][:12]} ({value['model']})",
        "adapter": f"rank {lora['rank']}, alpha {lora['alpha']}{dropout}, on {targets}",
        "numbers": value["dtype"]
        + ("" if value["quantize"] == "none" else f", the base as {value['quantize']}"),
        "seed": str(value["seed"]),
        "template": f"one of its own, {len(template):,} characters; --json shows it"
        if template
        else "the base's",
        "head": f"step {value['global_step']}{checkpoint}",
        "versions": f"{len(versions)}, latest {latest}" + (f" ({shown})" if versions else ""),
    }
    if value["trains"]:
        told["trains"] = value["trains"]
    for name, words in told.items():
        yield f"{name:<10}{words}"
    for kind in value["left_out"] or ():
        if not any(line.startswith("Without an adapter") for line in trial):
            yield f"Without an adapter: {', '.join(kind['names'])} ({kind['why']})."
    yield from trial

"""duramen status: what is wrong, what every service does, and what was trained and published."""

from services.ctl import cli
from services.ctl.supervised import ill_programs
from services.ctl.troubles import (
    SILENT_SECONDS,
    SystemSeen,
    filling_disks,
    places_of,
    see_system,
    troubles,
)
from services.ctl.views.columns import span_of
from services.ctl.views.inbox_waits import inbox_json, inbox_lines, inbox_of
from services.ctl.views.naming import job_at
from shared.formats.version import version_name
from shared.protocol.observed import Observed

UNKNOWN = " (trained; whether it is published is not known)"


def status(json: cli.Json = False) -> None:
    """Show what is wrong first, then what every service does, the queue and the newest versions."""
    cli.run_command(_status(json))


async def _status(json: bool) -> None:
    config = cli.settings()
    ill = ill_programs(config.supervisor_file)
    if not json:  # before the bus is asked, since the bus itself may be what is ill
        for trouble in ill:
            cli.note(f"! {trouble.line}", "red")
    async with cli.bus(config) as bus:
        seen = await see_system(config, bus)
    said = {
        service: {name: view.model_dump(mode="json") for name, view in newest_first(views)}
        for service, views in seen.services.items()
    }
    value = {
        "installation": cli.installation(),
        "troubles": [vars(trouble) for trouble in [*ill, *troubles(seen)]],
        "services": {k: next(iter(v.values()), None) for k, v in said.items()},
        "instances": said,
        "unknown": {service: words for service, words in seen.unknown.items() if words},
        "queued": len(seen.table.queue()),
        "inbox": inbox_json(inbox_of(seen.services["ingest"])),
        "latest": trained(seen),
        "published": seen.published,
        "void_records": len(seen.table.voids),
    }
    cli.emit(value, json, lambda: print_status(seen))


def trained(seen: SystemSeen) -> dict[str, str]:
    """Return the version that training continues from, by lineage."""
    lines = seen.table.lines.items()
    return {name: version_name(line.latest) for name, line in lines if line.latest}


def print_status(seen: SystemSeen) -> None:
    cli.note(f"installation: {cli.installation()}", "dim")
    for trouble in troubles(seen):
        cli.note(f"! {trouble.line}", "red")
    for service, views in seen.services.items():
        unknown = seen.unknown.get(service, {})
        lines = [f"{'unknown':10} {name} says {text}" for name, text in unknown.items()]
        lines += [f"{'never seen':10}"] if not views and not lines else []
        for name, view in newest_first(views):
            which = f"{name}: " if len(views) > 1 else ""
            lines.append(f"{view.state:10} {which}{describe_service(seen, service, view)}")
        for line in lines:
            cli.console.print(f"{service:10} {line}".rstrip(), soft_wrap=True)
    cli.console.print(f"queued: {len(seen.table.queue())}   {versions_line(seen)}")
    for line in filling_disks(places_of(seen.services)):
        cli.note(line, "yellow")
    for line in inbox_lines(inbox_of(seen.services["ingest"])):
        cli.note(line, "yellow")


def versions_line(seen: SystemSeen) -> str:
    """Return the newest published version of each lineage, and the newest trained if it differs."""
    if seen.versions is None:
        shown = ", ".join(f"{name} {version}" for name, version in trained(seen).items())
        return f"latest version: {shown or 'none yet'}" + (shown and UNKNOWN)
    parts = []
    for name in {**seen.published, **trained(seen)}:
        published, last = seen.published.get(name), trained(seen).get(name)
        text = f"{name} {published or 'none'}"
        parts.append(text + (f" (trained: {last})" if last and last != published else ""))
    return f"latest version: {', '.join(parts) or 'none yet'}"


def newest_first(views: dict[str, Observed]) -> list[tuple[str, Observed]]:
    return sorted(views.items(), key=lambda pair: pair[1].at, reverse=True)


def describe_service(seen: SystemSeen, service: str, view: Observed) -> str:
    """Return what a service does in a few words, and for how long a silent one has been so."""
    parts = []
    silent = seen.age(service, view)
    if silent > SILENT_SECONDS:
        parts.append(f"silent for {span_of(silent)}")
    if job := job_at(seen.table, view.job):
        parts.append(job)
    if view.progress:
        at = view.progress
        parts.append(f"step {at.position} of {at.steps}")
        if at.loss is not None:
            parts.append(f"loss {at.loss:.3f}")
        if at.tokens_per_second:
            parts.append(f"{at.tokens_per_second:.0f} tokens/s")
        if at.eta_seconds is not None:
            parts.append(f"about {span_of(at.eta_seconds)} left")
    if view.waits_for:
        parts.append(view.waits_for)
    return ", ".join(parts)

"""`duramen submit FILE`: give a training file to ingest over HTTP."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError

from services.ctl import cli
from services.ctl.errors import NotObserved
from services.ctl.hub_split import HubSource
from services.ctl.views import left_out
from services.ctl.views.columns import count_of
from shared import reach
from shared.answers.ingest import Preview, Working
from shared.errors import BusUnavailable, DuramenError, UsageError
from shared.foreign_text import plain
from shared.formats.report import Contents, Problem, Report
from shared.protocol.names import line_subject
from shared.sidecar_names import sidecars_among, stem_of

DECIDED_SECONDS = 60
POLL_SECONDS = 60
MOST_SIDECAR = 10_000
READ_BYTES_A_SECOND = 1 << 20  # of a preview, at the very least
Answer = TypeVar("Answer")
OUTCOME = TypeAdapter[Report | Working](Report | Working)
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A setting of the job, such as learning_rate=2e-4. May be repeated."
    ),
]
UntilQueued = Annotated[
    bool, typer.Option("--wait", help="Wait until the file is queued or refused.")
]


class SubmissionRefused(DuramenError):
    """The file was refused."""


def submit(
    file: Annotated[
        str,
        typer.Argument(
            help="A training file (.jsonl, .json, .csv, .parquet, …), or a data set of the hub: "
            "hf:owner/name, hf:owner/name:split, hf:owner/name/config:split."
        ),
    ],
    priority: cli.Priority = None,
    level: cli.OldPriority = None,
    again: Annotated[
        bool, typer.Option("--again", help="Train the file even if it has been trained before.")
    ] = False,
    settings: Settings = None,
    wait: UntilQueued = False,
    lineage: cli.Lineage = "main",
    json: cli.Json = False,
) -> None:
    """Check, store and queue a training file, and print the name of its job.

    A data.yaml beside data.jsonl is sent along; what --set names takes precedence over it. Of a
    data set of the hub, the licence and the size are shown first; each of its files becomes a job.
    """
    wanted = cli.priority_of(priority or level) or "normal"
    query = {"level": wanted, "lineage": lineage, "again": str(again).lower()}

    def send(path: Path, name: str, beside: dict[str, str], chosen: list[str]) -> None:
        with ingest_client(path) as ingest:
            named = {"name": name, "wait": str(DECIDED_SECONDS)}
            report = ingest.send(path, named | query | beside, chosen)
            while wait and isinstance(report, Working):
                report = ingest.look(report.taken)
        tell(report, json, wait=wait)

    path = Path(file)
    if file.startswith("hf:") and not path.exists():
        submit_from_hub(HubSource.parse(file), settings or [], send)
    else:
        send(path, path.name, with_sidecar(path) if path.is_file() else {}, settings or [])
    cli.run_command(warn_of_lineage(lineage))


async def warn_of_lineage(lineage: str) -> None:
    """Say on standard error that the job will wait, if its lineage does not exist (yet)."""
    try:
        async with cli.bus(cli.settings()) as bus:
            created = await bus.last("JOBS", line_subject(lineage, "create"))
    except BusUnavailable:
        return  # ingest has taken the file; what it waits for is shown by the queue
    if created is None:
        make = "base add MODEL" if lineage == "main" else f"lineage new {lineage} --base BASE"
        text = f"There is no lineage {lineage} yet, so the job waits for it."
        cli.say(f"{text}  Next: duramen {make}")


def submit_from_hub(
    source: HubSource,
    settings: list[str],
    send: Callable[[Path, str, dict[str, str], list[str]], None],
) -> None:
    """Show what a data set of the hub is, download it and submit its files, the origin with them.

    Raises NotFound, UsageError, DuramenError.
    """
    from services.ctl import hub_data

    token = hub_data.hub_token(cli.settings())
    split = hub_data.split_at_hub(source, token)
    for line in split.lines():
        typer.echo(plain(line), err=True)
    described = any(each.startswith("description=") for each in settings)
    chosen = settings if described else [*settings, f"description={split.origin}"]
    hub_data.each_file(split, token, lambda file, path: send(path, file.name, {}, chosen))


def ingest_client(file: Path) -> "IngestClient":
    """Return a client that can send this file. Raises UsageError."""
    config = cli.settings()
    if not config.ingest_url or config.ingest_token is None:
        raise UsageError(
            "The address of ingest is not set (DURAMEN_INGEST_URL, DURAMEN_INGEST_TOKEN). Set it, "
            "or copy the file into the inbox.",
            next_step="duramen doctor",
        )
    if not file.is_file():
        raise UsageError(f"{file} is not a file.")
    return IngestClient(config.ingest_url, config.ingest_token.get_secret_value())


def with_sidecar(file: Path) -> dict[str, str]:
    """Return the sidecar beside a file as a part of the request, if there is one."""
    beside = sidecar_of(file)
    return {} if beside is None else {"sidecar": sidecar_text(beside)}


def sidecar_of(file: Path) -> Path | None:
    """Return `data.yaml` beside data.jsonl or data.jsonl.gz, or `data.jsonl.yaml`, or None."""
    stems = [stem_of(file.name), file.name]
    beside = [path.name for path in file.absolute().parent.iterdir() if path.is_file()]
    found = sidecars_among(beside, stems)
    return file.with_name(found[0]) if found else None


def sidecar_text(path: Path) -> str:
    """Return the text of a sidecar. Raises UsageError if it is too long, or not UTF-8."""
    try:
        text = path.read_text("utf-8-sig") if path.stat().st_size <= MOST_SIDECAR else None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not valid UTF-8.") from error
    if text is None:
        raise UsageError(
            f"{path} is longer than {MOST_SIDECAR} bytes. A sidecar contains only settings."
        )
    return text


class IngestClient:
    """A client of ingest over HTTP. Raises ServiceUnavailable where ingest does not answer."""

    def __init__(self, url: str, token: str) -> None:
        import httpx

        self._errors = httpx.HTTPError
        self._url = url
        self._http = reach.http(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(30.0, read=DECIDED_SECONDS + 240, write=None),
        )

    def __enter__(self) -> "IngestClient":
        try:
            self._http.head("/", timeout=cli.KNOCK_SECONDS)
        except self._errors as error:
            raise cli.service_away(self._url, error) from error
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def send(self, file: Path, query: dict[str, str], settings: list[str]) -> Report | Working:
        """Upload a file, streamed from disk, and return what ingest says of it."""
        with file.open("rb") as body:
            size = str(file.stat().st_size)
            params = [*query.items(), *(("set", each) for each in settings)]
            sent = {"params": params, "content": body, "headers": {"Content-Length": size}}
            return self._ask(OUTCOME, "POST", "/datasets", **sent)

    def preview(self, file: Path, query: dict[str, str], settings: list[str]) -> Preview:
        """Send a file, streamed from disk, and return what would become of it."""
        import httpx

        size = file.stat().st_size
        with file.open("rb") as body:
            params = [*query.items(), *(("set", each) for each in settings)]
            seconds = DECIDED_SECONDS + 240 + size / READ_BYTES_A_SECOND
            return self._ask(
                TypeAdapter(Preview),
                "POST",
                "/datasets/preview",
                params=params,
                content=body,
                headers={"Content-Length": str(size)},
                timeout=httpx.Timeout(30.0, read=seconds, write=None),
            )

    def look(self, taken: str) -> Report | Working:
        return self._ask(OUTCOME, "GET", f"/datasets/{taken}", params={"wait": POLL_SECONDS})

    def _ask(self, form: TypeAdapter[Answer], method: str, path: str, **options: Any) -> Answer:
        try:
            reply = self._http.request(method, path, **options)
        except self._errors as error:
            raise cli.service_away(self._url, error) from error
        try:
            return form.validate_json(reply.content)
        except ValidationError as error:
            body: dict[str, Any] = reply.json()
            message = str(body.get("error") or body.get("detail") or body)
            kind = UsageError if reply.status_code in (400, 422) else DuramenError
            raise kind(message) from error


def tell(report: Report | Working, json: bool, *, wait: bool) -> None:
    """Print what became of the file. Raises SubmissionRefused, NotObserved."""
    if isinstance(report, Working):
        why = f" ({report.why})" if report.why else ""
        raise NotObserved(f"The file has arrived as {report.taken} and is still being read{why}.")
    outcome = report.outcome

    def human() -> None:
        if outcome != "refused":
            cli.console.print(f"{report.name}: {report.why}", soft_wrap=True)
        if wait and report.contents:
            for line in contents_summary(report.contents):
                cli.console.print(line, soft_wrap=True)
        for problem in report.problems if outcome == "refused" or wait else []:
            cli.console.print(problem_line(problem), soft_wrap=True)
        if report.next_step and outcome != "refused":
            cli.console.print(f"Next: {report.next_step}", soft_wrap=True)

    cli.emit(report.model_dump(mode="json", exclude_unset=True), json, human)
    if outcome == "refused":
        raise SubmissionRefused(
            f"{report.name} was refused: {report.why}", next_step=report.next_step
        )


def contents_summary(contents: Contents) -> list[str]:
    """Return what the file holds, in a few lines."""
    found = [f"{count_of(contents.rows, 'row')}, {count_of(contents.original_bytes, 'byte')}"]
    found += [f"  layout {name}: {count}" for name, count in contents.layouts.items()]
    if contents.duplicate_rows:
        found.append(f"  {count_of(contents.duplicate_rows, 'repeated row')} left out")
    if contents.left_out_rows:
        rows = count_of(contents.left_out_rows, "row")
        found.append(f"  {rows} left out by only_positive: marked as bad")
    if contents.ignored_fields:
        found.append(f"  ignored fields: {left_out.ignored_text(contents.ignored_fields)}")
    return found


def problem_line(problem: Problem) -> str:
    place = f"line {problem.line}, " if problem.line else ""
    return f"  {place}{problem.field}: {problem.message} ({problem.rule})"

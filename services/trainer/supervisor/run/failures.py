"""The messages that a user reads when a job cannot continue, and the commands to type next."""

from services.trainer.protocol import NothingNew, TrainingFailed
from shared import log
from shared.errors import ObjectDamaged, ObjectMissing
from shared.files import is_disk_full
from shared.formats.version import version_name
from shared.protocol.names import JobId
from shared.protocol.records import Failure
from shared.service.loop import failure_of
from shared.store import layout

MESSAGE_CHARACTERS, EXAMPLE_CHARACTERS = 3000, 900
KILLED = "The kernel killed the worker: the memory of this machine, or of its container, ran out."
NEXT_STEPS = {
    # A retry keeps the plan, and with it every setting: another setting is another job.
    "nan": "duramen submit FILE --again -l {lineage} --set learning_rate=…  (a lower one)",
    "mask": "duramen lineage new NAME --base BASE --chat-template FILE",
    "template": "duramen lineage new NAME --base BASE --chat-template FILE",
    "memory": "free memory, then duramen queue retry {job}; or duramen submit FILE --again "
    "-l {lineage} --set max_length=…  (a lower one)",
    "data": "fix the file, then put it into the inbox again",
    "checkpoint": "duramen check",
    "base": "duramen base add DIR",
    "internal": "read the job's log, then duramen queue retry {job}",
}


def next_step(kind: str, job: JobId) -> str:
    """Return the command to type after a failure of this kind; empty if there is none."""
    return NEXT_STEPS.get(kind, "").format(job=job, lineage=job.lineage)


def failure(kind: str, message: str, job: JobId) -> Failure:
    """Return a failure for the segment's close record, with the command to type next."""
    return Failure(kind=kind, message=message, next_step=next_step(kind, job))


def told_failure(event: TrainingFailed, job: JobId) -> Failure:
    """Return the failure that a worker reported, with its example."""
    message = event.message[:MESSAGE_CHARACTERS]
    if event.example:
        message += "\n" + event.example[:EXAMPLE_CHARACTERS]
    return failure(event.kind, message, job)


def nothing_new(event: NothingNew, lineage: str) -> Failure:
    """Return the reason why a job has nothing to train, with the version that holds its rows."""
    version = version_name(event.version) if event.version else ""
    shown = f"duramen versions show {version} -l {lineage}" if version else "duramen queue list"
    return Failure(kind="nothing_new", message=event.message, next_step=shown)


def not_started(error: Exception, job: JobId) -> Failure:
    """Return the failure of a job whose worker could not be started.

    Raises an OSError again unless the disk is full: any other is not the job's fault.
    """
    if isinstance(error, OSError):
        if not is_disk_full(error):
            raise error
        return failure("disk", str(error), job)
    if not isinstance(error, ObjectMissing | ObjectDamaged):  # of what somebody else wrote
        log.get().error("job_not_read", job=str(job), exc_info=error)
        return failure("internal", failure_of(error), job)
    # A damaged base makes its whole lineage wait; a dataset or a plan concerns this job alone.
    kind = "base" if error.where.key.startswith(layout.BASES) else "data"
    return Failure(kind=kind, message=str(error), next_step="duramen check")

"""Every key of the two buckets, as the layout trees of shared/FORMAT.md draw them.

A key is made here and nowhere else. Functions in the singular return one key. Functions in the
plural return the beginning that a group of keys has in common, by which they are listed; constants
in capitals are the beginnings that depend on nothing. `parse_…` reads a key that was listed and
returns its parts, or None if it is not a key of that kind.
"""

import re
from typing import NamedTuple

from shared.formats.dataset import DATA, REPORT, SOURCE
from shared.formats.row_ids import ROW_IDS
from shared.formats.version import version_name

# ---- bucket `duramen`, and the archive -----------------------------------------------------------

DATASETS = "datasets/"
EVAL = "eval/"
PLANS = "plans/"
BASES = "bases/"
CATALOG = "catalog/"
LINEAGES = "lineages/"
AUDIT = "audit/"
TAIL_IN_ARCHIVE = ".duramen-audit-tail.jsonl.gz"  # replaced as it grows, so it is not a key
PROBES = ".probe/"  # what the bootstrap tries the store with: overwritten on purpose

SUMS = "SHA256SUMS"


def datasets(digits: str) -> str:
    """Return the common beginning of the keys of datasets whose SHA-256 begins with `digits`."""
    return DATASETS + digits


def dataset_files(sha256: str) -> str:
    return f"{DATASETS}{sha256}/"


def dataset_data(sha256: str) -> str:
    return dataset_files(sha256) + DATA


def dataset_source(sha256: str) -> str:
    return dataset_files(sha256) + SOURCE


def dataset_report(sha256: str) -> str:
    return dataset_files(sha256) + REPORT


def dataset_row_id_file(sha256: str) -> str:
    return dataset_files(sha256) + ROW_IDS


def dataset_original(sha256: str, original_sha256: str, kind: str) -> str:
    """Return the key of the user's own bytes; `kind` says how to read them, such as `csv`."""
    return f"{dataset_files(sha256)}original.{original_sha256[:12]}.{kind}"


class DatasetFile(NamedTuple):
    """A file of a dataset, which is named by its SHA-256."""

    dataset: str
    name: str


def parse_dataset_file(key: str) -> DatasetFile | None:
    match = re.fullmatch(r"datasets/([^/]+)/(.+)", key)
    return DatasetFile(match[1], match[2]) if match else None


class Original(NamedTuple):
    """A dataset, and the first 12 digits of the SHA-256 of the user's own bytes."""

    dataset: str
    digits: str


def parse_original(key: str) -> Original | None:
    match = re.fullmatch(r"datasets/([0-9a-f]{64})/original\.([0-9a-f]{12}).*", key)
    return Original(match[1], match[2]) if match else None


def eval_records(lineage: str) -> str:
    return f"{EVAL}{lineage}/"


def eval_record(lineage: str, sha256: str) -> str:
    """Return the key of the record which says that a lineage only measures a dataset."""
    return f"{eval_records(lineage)}{sha256}.json"


class EvalRecord(NamedTuple):
    """A dataset, by its SHA-256, that is only ever measured in this lineage."""

    lineage: str
    dataset: str


def parse_eval_record(key: str) -> EvalRecord | None:
    match = re.fullmatch(r"eval/([^/]+)/([^/]+)\.json", key)
    return EvalRecord(match[1], match[2]) if match else None


def plan(sha256: str) -> str:
    return f"{PLANS}{sha256}.json"


def parse_plan(key: str) -> str | None:
    """Return the SHA-256 in the key of a plan, or None."""
    match = re.fullmatch(r"plans/([^/]+)\.json", key)
    return match[1] if match else None


def base_files(root: str) -> str:
    return f"{BASES}{root}/"


def base_file(root: str, path: str) -> str:
    """Return the key of a file of a base; `path` is relative to its model directory."""
    return base_files(root) + path


def base_commit(root: str) -> str:
    """Return the key of a base's commit record, which is written last."""
    return base_file(root, SUMS)


def parse_base_commit(key: str) -> str | None:
    """Return the root of the base whose commit record this is, or None."""
    match = re.fullmatch(r"bases/([^/]+)/SHA256SUMS", key)
    return match[1] if match else None


def version_files(lineage: str, version: int) -> str:
    return f"{LINEAGES}{lineage}/{version_name(version)}/"


def version_file(lineage: str, version: int, path: str) -> str:
    """Return the key of a file of a version, such as `adapter/adapter_config.json`."""
    return version_files(lineage, version) + path


def catalog_records(lineage: str) -> str:
    """Return the common beginning of a lineage's commit records and `latest.json`."""
    return f"{CATALOG}{lineage}/"


def commit_records(lineage: str) -> str:
    """Return the common beginning of a lineage's commit records, without `latest.json`."""
    return f"{catalog_records(lineage)}v"


def commit(lineage: str, version: int) -> str:
    return f"{catalog_records(lineage)}{version_name(version)}.json"


class Commit(NamedTuple):
    """The version that a commit record's key names."""

    lineage: str
    version: int


def parse_commit(key: str) -> Commit | None:
    match = re.fullmatch(r"catalog/([^/]+)/v0*([0-9]+)\.json", key)
    return Commit(match[1], int(match[2])) if match else None


def latest(lineage: str) -> str:
    return f"{catalog_records(lineage)}latest.json"


def parse_latest(key: str) -> str | None:
    """Return the lineage of a `latest.json`, or None. Users load the version that it names."""
    match = re.fullmatch(r"catalog/([^/]+)/latest\.json", key)
    return match[1] if match else None


def audit_file(number: int) -> str:
    """Return the key of the file with this number of the bus' export."""
    return f"{AUDIT}{number:08d}.jsonl.gz"


def parse_audit_file(key: str) -> int | None:
    """Return the number of a file of the bus' export, or None."""
    match = re.fullmatch(r"audit/([0-9]{8,})\.jsonl\.gz", key)
    return int(match[1]) if match else None


# ---- bucket `work` -------------------------------------------------------------------------------

ALL_SNAPSHOTS = "snapshots/"
STAGED_BASES = "staging/bases/"


def checkpoints(lineage: str, segment: str) -> str:
    return f"checkpoints/{lineage}/{segment}/"


def checkpoint(lineage: str, segment: str, name: str) -> str:
    """Return a checkpoint's prefix as a CheckpointRef holds it, without a slash at its end.

    `name` is `<global_step:08d>-<id12>`, as its folder is named on the trainer's disk.
    """
    return checkpoints(lineage, segment) + name


def checkpoint_file(prefix: str, name: str) -> str:
    """Return the key of a file of the checkpoint that lies under a CheckpointRef's prefix."""
    return f"{prefix}/{name}"


class CheckpointFile(NamedTuple):
    """A file of a checkpoint, whose name is the one that `checkpoint` takes."""

    checkpoint: str
    name: str


def parse_checkpoint_file(key: str) -> CheckpointFile | None:
    match = re.fullmatch(r"checkpoints/[^/]+/[^/]+/([^/]+)/([^/]+)", key)
    return CheckpointFile(match[1], match[2]) if match else None


def progress_file(lineage: str, segment: str, name: str) -> str:
    return f"progress/{lineage}/{segment}/{name}"


def snapshots(lineage: str, segment: str) -> str:
    return f"{ALL_SNAPSHOTS}{lineage}/{segment}/"


def snapshot_file(lineage: str, segment: str, name: str) -> str:
    """Return the key of a snapshot; `name` is `<global_step:08d>-<fence>.parquet`."""
    return snapshots(lineage, segment) + name


def parse_snapshot(key: str) -> str | None:
    """Return the lineage of a snapshot in `work`, or None."""
    match = re.fullmatch(r"snapshots/([^/]+)/[^/]+/([^/]+)", key)
    return match[1] if match and parse_snapshot_name(match[2]) else None


class SnapshotName(NamedTuple):
    """The step at which a snapshot was taken, and the fence under which it was taken."""

    global_step: int
    fence: int


def parse_snapshot_name(name: str) -> SnapshotName | None:
    """Return the parts of a snapshot's file name, in `work` or in a version, or None."""
    match = re.fullmatch(r"([0-9]{8,})-([0-9]+)\.parquet", name)
    return SnapshotName(int(match[1]), int(match[2])) if match else None


def result(lineage: str, segment: str, fence: int) -> str:
    return f"results/{lineage}/{segment}-{fence}.json"


def result_file(lineage: str, segment: str, fence: int, name: str) -> str:
    return f"results/{lineage}/{segment}-{fence}/{name}"


class WorkKey(NamedTuple):
    """The parts of a key of a segment. `fence` is None where the key does not name one there."""

    kind: str
    segment: str
    fence: int | None


def segment_prefixes(lineage: str) -> list[str]:
    """Return the beginnings of all the keys that a lineage's segments have in `work`."""
    return [f"{kind}/{lineage}/" for kind in ("checkpoints", "progress", "results", "snapshots")]


def parse_work(key: str) -> WorkKey:
    """Return the kind and the segment of a key that begins with one of `segment_prefixes`."""
    kind, _, name = key.split("/")[:3]
    segment, _, fence = name.removesuffix(".json").partition("-")
    return WorkKey(kind, segment, int(fence) if fence.isdecimal() else None)


def staged_base_files(root: str) -> str:
    return f"{STAGED_BASES}{root}/"


def staged_base_file(root: str, path: str) -> str:
    """Return the key of a file of a base that is on its way to the vault."""
    return staged_base_files(root) + path


def parse_staged_base(key: str) -> str:
    """Return the root of the base that a staged file belongs to."""
    return key.removeprefix(STAGED_BASES).partition("/")[0]


def audit_tail() -> str:
    """Return the key of the records of the bus that are not in a numbered file yet."""
    return f"{AUDIT}tail.jsonl.gz"

"""result.json of a segment of the golden ledger, put into a real store by today's code."""

from pathlib import Path

from services.trainer.supervisor.local_files import SegmentFolder
from services.trainer.supervisor.work_bucket import put_result
from shared.formats.result import ResultFile
from shared.ledger.jobs import Table
from shared.store.s3 import Store
from tests.golden import messages
from tests.golden.files import STORED
from tests.golden.told import SNAPSHOT

PATH = STORED / "result.json"
METRICS = b'{"position":1,"rows":[]}\n'
LOG = b"a step was made\n"
EARLIER = [ResultFile.model_validate({"path": "evolution/00000001-2.parquet", **SNAPSHOT})]


def stored_result(store: Store, folder: Path) -> bytes:
    """Lay log, metrics and a snapshot into `folder`, and return the result that names them."""
    table = Table()
    for sent in messages.jobs():
        table.fold(sent.entry)
    segment = table.lines["main"].segments[messages.FIRST]
    place = SegmentFolder(folder).make()
    place.metrics.write_bytes(METRICS)
    place.job_log.write_bytes(LOG)
    snapshot = (STORED / "snapshot.parquet").read_bytes()
    (place.snapshots / "00000040-3.parquet").write_bytes(snapshot)
    ref = put_result(store, segment, place, EARLIER)
    return store.read(ref.bucket, ref.key, sha256=ref.sha256)

"""How fast ingest reads: from the bytes of a file to its dataset, on one core.

`python -m tests.bench.bench_ingest [--megabytes 2000] [--layout messages|alpaca] [--rounds 1]
[--beside 100]`

Reading is parsing, checking, hashing, finding repeated rows and writing canonical bytes; the hashes
of rows lie on disk from half a million rows on. The service itself reads in a child: so does this,
and the peak memory is that of the child. Uploading (to a real store, each object read back) and
tokenising (by the trainer's own encoder, with the tests' tokenizer) are measured apart, on another
file of `--beside` megabytes. Prints one JSON object: megabytes (10^6 bytes) a second of processor
and of wall-clock time.
"""

import argparse
import json
import os
import random
import resource
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from services.ingest.outcome.admit import store_dataset
from services.ingest.reading import dataset
from services.ingest.reading.dataset import ReadingRequest
from services.model.encoded import Encoded
from services.model.template import Chat
from services.trainer.worker.data.encoder import Encoder
from shared.formats.dataset import DATA, SOURCE, CanonicalRow
from tests.conftest import running_stack
from tests.services import House
from tests.tiny import shared_tiny

TEXT = (
    "the cost of each ticket is then multiplied by number people who came and what they paid in "
    "total before lunch; so we subtract 3/4 from 12, which leaves \\n a quarter, that is $0.75."
)
TOKENISED_ROWS = 1000
SPECIAL = tuple(f"<|special_{n}|>" for n in range(17))


def make(path: Path, size: int, layout: str) -> None:
    """Rows of some 600 bytes, all different, as json.dumps writes them."""
    chance = random.Random(7)
    texts = [
        " ".join(chance.choices(TEXT.split(), k=chance.randrange(20, 80))) for _ in range(5000)
    ]
    number = 0
    with path.open("w", encoding="utf-8", buffering=1 << 20) as file:
        while file.tell() < size:
            for _ in range(20_000):
                asked, said = f"{number} {chance.choice(texts)}", chance.choice(texts)
                row: dict[str, Any] = {"instruction": asked, "input": "", "output": said}
                if layout == "messages":
                    turns = [("user", asked), ("assistant", said)]
                    row = {"messages": [{"role": r, "content": c} for r, c in turns]}
                file.write(json.dumps(row) + "\n")
                number += 1


def read(folder: Path) -> dict[str, Any]:
    """One reading, in a child; its own report."""
    into, out = os.pipe()
    child = os.fork()
    if child == 0:
        before, began = time.process_time(), time.monotonic()
        built = dataset.build_dataset(
            folder, "bench.jsonl", ReadingRequest(64 << 20, special_tokens=SPECIAL)
        )
        contents = built.contents
        report = {
            "rows": contents.rows,
            "bad_rows": contents.bad_rows,
            **speeds(contents.original_bytes / 1e6, before, began),
            "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        }
        os.write(out, json.dumps(report).encode())
        os._exit(0)
    os.close(out)
    with os.fdopen(into, "rb") as file:
        found: dict[str, Any] = json.loads(file.read())
    os.waitpid(child, 0)
    return found


def upload(folder: Path) -> dict[str, Any]:
    """The objects of a dataset stored and read back, from a client on the same machine."""
    built = dataset.build_dataset(folder, "bench.jsonl", ReadingRequest(64 << 20))
    names = (dataset.ORIGINAL, DATA, SOURCE)
    megabytes = sum((folder / name).stat().st_size for name in names) / 1e6
    with running_stack() as stack:
        store = House(stack).store("ingest")
        before, began = time.process_time(), time.monotonic()
        store_dataset(store, built)
        return speeds(megabytes, before, began)


def tokenise(folder: Path) -> dict[str, Any]:
    """Each row to tokens and the mask of what is trained."""
    data = folder / DATA
    with data.open("rb") as file:
        lines = list(islice(file, TOKENISED_ROWS))
    encoder = Encoder(Chat(shared_tiny(), "2026-01-01T00:00:00+00:00"), max_length=4096)
    before, began = time.process_time(), time.monotonic()
    found = [encoder.encode(CanonicalRow.parse(line.rstrip())) for line in lines]
    speed = speeds(sum(map(len, lines)) / 1e6, before, began)
    tokens = sum(len(each) for each in found if isinstance(each, Encoded))
    return {**speed, "tokens_per_second": round(tokens / (time.monotonic() - began))}


def speeds(megabytes: float, cpu: float, clock: float) -> dict[str, float]:
    """Megabytes a second since two moments."""
    return {
        "megabytes": round(megabytes, 1),
        "megabytes_per_cpu_second": round(megabytes / (time.process_time() - cpu), 2),
        "megabytes_per_second": round(megabytes / (time.monotonic() - clock), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--layout", default="messages")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--beside", type=int, default=100, metavar="MEGABYTES")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="duramen-bench-") as name:
        folder = Path(name)
        make(folder / dataset.ORIGINAL, options.megabytes * 10**6, options.layout)
        rounds = [read(folder) for _ in range(options.rounds)]
        make(folder / dataset.ORIGINAL, options.beside * 10**6, options.layout)
        beside = {"upload": upload(folder), "tokenise": tokenise(folder)}
        print(json.dumps({"layout": options.layout, "rounds": rounds, **beside}))


if __name__ == "__main__":
    main()

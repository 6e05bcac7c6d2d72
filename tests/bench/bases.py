"""A table of bases: which layers of each family are trained, and what is said of the others.

    python -m tests.bench.bases > table.md

Each is a tiny random network (tests/odd_bases.py) that is tried out as `duramen lineage new` does:
forward, backward, a few steps, saved, loaded in plain peft, and the same logits.
"""

import sys
import tempfile
import time
import warnings
from pathlib import Path

import transformers

from services.trainer.worker import base_check
from services.trainer.worker.base_trial import try_out
from shared.errors import CannotTrain
from shared.formats.adapter import AdapterShape
from tests.odd_bases import BASES, make_odd

WIDEST = 230  # characters of a refusal


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    print("| family | what happened | layers with an adapter | left out |")
    print("|---|---|---|---|")
    for family in BASES:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as name:
            print(line(family, Path(name)), flush=True)
        print(f"{family}: {time.monotonic() - began:.1f} s", file=sys.stderr)


def line(family: str, folder: Path) -> str:
    make_odd(folder / "base", family)
    try:
        base_check.check_base(folder / "base", "float32", 1 << 40)
        found = try_out(folder / "base", AdapterShape(rank=4, alpha=8), folder / "adapter")
    except CannotTrain as refusal:
        return f"| {family} | refused: {refusal.message[:WIDEST].replace('|', '/')} | | |"
    before, after = found["losses"]
    slower = any("one by one" in note for note in found["notes"])
    how = f"trained{', one by one' if slower else ''} ({before:.2f} → {after:.2f})"
    spared = ", ".join(sorted(n for kind in found["left_out"] for n in kind["names"]))
    return f"| {family} | {how} | {', '.join(found['adapted'])} | {spared} |"


if __name__ == "__main__":
    main()

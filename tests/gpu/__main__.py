"""Run all checks that need a GPU, and write what they found as a table.

`python -m tests.gpu [--wheels DIR] [--out FILE] [--seconds N] [-k EXPRESSION]`

Needs no network: packages that are missing come as wheels from DIR (never torch's: what is
installed is used, and the table says which). Ends within N seconds. Exit status 0: all passed; 1: a
check failed or was cut off; 2: there is no GPU, and nothing was checked.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.gpu.table import Line, machine, table

ROOT = Path(__file__).parents[2]
# The cheap ones first: what is cut off at the end is what takes longest.
ORDER = ("card", "attention", "gradients", "speed", "resume", "memory")
TORCH = ("torch-", "nvidia_cu", "nvidia_n", "triton-")  # wheels that are left alone
SECONDS = 480.0
MARGIN_SECONDS = 10.0
NO_GPU = 2


def installed(wheels: Path, target: Path) -> dict[str, str]:
    """Unpack the wheels beside what is installed; return the environment that prefers them."""
    names = [str(w) for w in sorted(wheels.glob("*.whl")) if not w.name.startswith(TORCH)]
    if not names:
        sys.exit(f"{wheels} holds no wheels.")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    options = ["--no-compile", "--no-cache-dir", "--root-user-action=ignore", "--target"]
    subprocess.run([*pip, *options, str(target), *names], check=True)
    return {"PYTHONPATH": os.pathsep.join((str(target), search_path()))}


def search_path() -> str:
    """Return this project's folder, and what was given beside it."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def checks(environment: dict[str, str], records: Path, seconds: float, chosen: str) -> int:
    """Run them under pytest; its exit status, or 1 if they were ended because the time was up."""
    ends = time.time() + seconds
    command = [
        *(sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(ROOT)),
        *("--noconftest", "-p", "tests.gpu.conftest", "-p", "no:cacheprovider"),
        *("--import-mode=importlib", "-o", "markers=gpu", "-q", "-rA", "-k", chosen),
        *(f"tests/gpu/test_{name}.py" for name in ORDER),
    ]
    told = {"DURAMEN_GPU_RECORDS": str(records), "DURAMEN_GPU_ENDS": str(ends - MARGIN_SECONDS)}
    with subprocess.Popen(command, cwd=ROOT, env={**environment, **told}) as running:
        try:
            return running.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            running.kill()
            print(f"ended after {seconds:.0f} s: the time was up", flush=True)
            return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--wheels", type=Path, help="a folder of wheels, used before what is there")
    parser.add_argument("--out", type=Path, default=Path("RESULTS-gpu.md"))
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("-k", default="", help="which checks, as pytest takes it")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="duramen-gpu-") as folder:
        environment = {**os.environ, "PYTHONPATH": search_path(), "HF_HUB_OFFLINE": "1"}
        if options.wheels is not None:
            environment |= installed(options.wheels, Path(folder) / "site")
        here = machine(environment)
        if here.why_not:
            print(f"NO GPU, NOTHING WAS CHECKED: {here.why_not}", file=sys.stderr)
            return NO_GPU
        records = Path(folder) / "records.jsonl"
        left = options.seconds - (time.monotonic() - began)
        status = checks(environment, records, left, options.k)
        found = records.read_text(encoding="utf-8").splitlines() if records.exists() else []
        lines = [Line(**json.loads(line)) for line in found]
        took = time.monotonic() - began
        text = table(here, lines, took, is_whole=status in {0, 1} and took < options.seconds)
    options.out.write_text(text, encoding="utf-8")
    print(text)
    return min(status, 1)


if __name__ == "__main__":
    sys.exit(main())

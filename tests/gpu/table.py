"""The table that the GPU checks leave: the machine, its versions, each check with its figures."""

import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "transformers", "peft", "tokenizers", "bitsandbytes", "numpy")
# Told by a child, since it must see the packages that the checks see.
ASK = """
import json, os, platform, sys
from importlib.metadata import PackageNotFoundError, version
from services.trainer.worker.gpu_check import verdict
from shared.host import cpu_name
def of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
import torch
found = verdict()
if torch.cuda.is_available():
    found["memory"] = torch.cuda.mem_get_info()[1]
found |= {name: of(name) for name in sys.argv[1:]}
found |= {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
found |= {"python": platform.python_version(), "cpu": f"{os.cpu_count()} x {cpu_name()}"}
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Machine:
    """What the checks ran on. `why_not`: why torch can use no GPU here; empty if it can."""

    rows: dict[str, str]
    why_not: str


@dataclass(frozen=True)
class Line:
    """One check: what it measured, and how it ended."""

    check: str
    figures: list[str]
    verdict: str
    seconds: float
    why: str


def machine(environment: dict[str, str]) -> Machine:
    """Ask this Python's torch what it sees, with the packages of `environment`."""
    asked = subprocess.run(
        [sys.executable, "-c", ASK, *PACKAGES],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if asked.returncode:
        said = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return Machine({}, f"the trainer's packages cannot be loaded here: {said}")
    found = json.loads(asked.stdout.splitlines()[-1])
    if not found["usable"]:
        return Machine({}, found["why"])
    pins = pinned()
    rows = {
        "GPU": f"{found['name']}, {found['memory'] / 2**30:.1f} GiB, {found['arch']}",
        "driver": found["driver"],
        "CUDA": found["cuda"],
        "Python": found["python"],
        "CPU": found["cpu"],
    }
    for name in PACKAGES:
        has, wanted = found[name], pins.get(name, "")
        same = has.partition("+")[0] == wanted
        rows[name] = has if same else f"{has} (**not the pinned {wanted}**)"
    return Machine(rows, "")


def pinned() -> dict[str, str]:
    """Return the versions that pyproject.toml names for the trainer."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = extras["optional-dependencies"]
    lines = [*wanted["trainer"], *wanted["nf4"]]
    return dict(line.partition(";")[0].split("==") for line in lines)


def table(here: Machine, lines: list[Line], seconds: float, *, is_whole: bool) -> str:
    """Return RESULTS-gpu.md as text."""
    count = {v: sum(line.verdict == v for line in lines) for v in ("pass", "FAIL", "not run")}
    said = ", ".join(f"{number} {verdict}" for verdict, number in count.items() if number)
    cut = "" if is_whole else " **It was ended before its last checks.**"
    parts = [
        "# What a GPU showed",
        "",
        f"Written by `python -m tests.gpu`, which took {seconds:.0f} s: {said}.{cut}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in here.rows.items()),
        "",
        "| check | figures | verdict | s |",
        "|---|---|---|---|",
        *(row(line) for line in lines),
        "",
    ]
    return "\n".join(parts)


def row(line: Line) -> str:
    """One check as a line of the table; why it failed or did not run stands with its figures."""
    name = line.check.removeprefix("test_").replace("_", " ").replace("|", "\\|")
    words = [*line.figures, *([line.why] if line.why else [])]
    told = "<br>".join(" ".join(w.split()) for w in words).replace("|", "\\|")
    return f"| {name} | {told} | {line.verdict} | {line.seconds:.1f} |"

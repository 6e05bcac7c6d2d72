"""What users read is ordinary English: phrases that readers stumble over do not come back."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# README.md of a version is stored: its bytes never change.
STORED = {ROOT / "services/vault/readme.py"}

# Pattern -> what to write instead.
ANYWHERE = {
    r"(?<!there )\b(is|are|was|were|be) no (?!longer\b|more\b)": "is not a …",
    r"\bgone on from\b|\bgoes on\b|\bgo on (from|with|after)\b": "resume from …, continue with …",
    r"\banew\b": "again",
    r"\bso many\b": "name the number",
    r"\b(is|was|are|were|what) told\b": "is reported, is notified",
    r"\bfor ever\b|\bin vain\b": "say what happens instead",
    r"\bmend(ed|s)?\b": "fix",
    r"\bsay more of\b": "use a longer prefix",
    r"\bknown already\b|\btrained already\b": "already …",
    r"\bstands? twice\b": "is given twice",
    r"\bwanted too\b|\bis it told\b|\bget on\b": "an ordinary verb",
}
ON_SCREEN = {
    r"\bfences?\b": "fencing token, and only with --details",
    r"\bgeneration\b": "leave it out, it is in --json",
    r"\bvoid\b": "invalid, rejected or cancelled",
    r"\blife ?lines?\b": "example history",
    r"\bplan steps?\b|\bplan position\b": "step of the job",
}


def text_of(node: ast.expr) -> str | None:
    """Return a literal string, with … for what is filled in, or None for another expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "…" for part in node.values)
    return None


def docstrings(tree: ast.Module, path: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, text, is shown) of each docstring; those of commands and errors are shown."""
    is_errors = path.name == "errors.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            text = ast.get_docstring(node)
            if text is None:
                continue
            shown = is_errors and isinstance(node, ast.ClassDef)
            if isinstance(node, ast.FunctionDef) and "commands" in path.parts:
                shown = any(arg.arg == "json" for arg in (*node.args.args, *node.args.kwonlyargs))
            yield node.body[0].lineno, text, shown


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of all in a file that a user may read: strings of three words or more."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = set()
    for line, text, shown in docstrings(tree, path):
        skipped.add((line, text.split("\n")[0]))
        if shown:
            yield line, text
    inner = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.expr) or id(node) in inner:
            continue
        found = text_of(node)
        if found is None or (node.lineno, found.strip().split("\n")[0]) in skipped:
            continue
        if len(found.split()) > 2:
            yield node.lineno, found


def test_no_phrase_that_a_reader_stumbles_over_comes_back() -> None:
    found = []
    for room in ("services", "infra", "shared"):
        for path in sorted((ROOT / room).rglob("*.py")):
            if path in STORED:
                continue
            banned = ANYWHERE
            if "ctl" in path.parts and "check" not in path.parts:
                banned = ANYWHERE | ON_SCREEN
            for line, text in sentences(path):
                for pattern, instead in banned.items():
                    if match := re.search(pattern, text, re.IGNORECASE):
                        place = f"{path.relative_to(ROOT)}:{line}"
                        found.append(f"{place}: {match[0]!r} in {text[:70]!r}: write {instead}")
    assert found == [], "\n".join(found)


def test_the_phrases_are_found_where_they_are() -> None:
    """A test that finds nothing anywhere would hold as well."""
    sample = "This is no file that is taken"
    assert sample in [text for _, text in sentences(Path(__file__))]
    assert any(re.search(pattern, sample) for pattern in ANYWHERE)

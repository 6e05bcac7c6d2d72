"""Counts what makes a tree hard to find one's way in, and fails where a figure is above its limit.

Needs the standard library alone. `python .ci/figures.py -v` shows what was counted, with its place.
"""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeGuard

# The limits only fall: who brings a figure down writes the new value here.
LIMITS = {
    "functions and classes defined in several modules": 13,
    "constants defined in several modules": 48,
    "names defined twice in one package": 0,
    "store keys typed outside the layout": 0,
    "raw parses of stored formats": 0,
    "circles among files": 0,
    "circles among packages": 0,
    "files in the largest folder": 19,
    "functions over 40 lines": 10,
    "files over 400 lines": 0,
}

LONGEST_FUNCTION, LONGEST_FILE = 40, 400

PARSERS = {
    "json.load", "json.loads", "orjson.loads",
    "pq.ParquetFile", "pq.read_table", "pq.read_schema", "pq.read_metadata",
}  # fmt: skip

# Functions that parse something other than a stored format, by their name, since files move. Where
# a name occurs twice, its file is named too.
FOREIGN = {
    # The user's own rows and sidecars.
    "diagnose", "key_twice", "digits.parse", "exact", "unfit_number", "plain_row", "Lines.rows_at",
    "parquet", "Specials.check",
    # A model directory as others write it: config.json, tokenizer.json, safetensors.
    "configuration", "stop_tokens", "base_object", "check_index",
    "model_files.read_header", "weights_of", "shape_of_folder", "shape_in_store", "bases.read_json",
    "PlainTokens._second", "config_and_headers",
    # Lines between a parent and its child process.
    "Child.ask", "answer_lines", "ask_child", "looks_from_json", "line_for_people",
    # The bus.
    "any_json",
    # A service's own state on its own disk, which no other reads.
    "Marks.__init__", "Standing.__init__", "Outlet.__init__", "Cache.tokens", "origin_of",
    "measured_dtype", "holds", "takes_gpu", "WorkerRun.measure_use", "Proofs.found",
}  # fmt: skip


class Module:
    """One file of the program, parsed. `package` has at most two parts, such as infra.servers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8")
        self.lines = text.count("\n")
        self.tree = ast.parse(text, str(path))
        parts = path.with_suffix("").parts
        self.folder = parts[:-1]
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.package = ".".join(self.folder[:2])

    def at(self, node: ast.AST, what: str) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {what}"


def tracked(*patterns: str) -> list[Path]:
    """Return the files that git tracks or would, so that nobody has to list the folders here."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return sorted({Path(line) for line in found.splitlines() if Path(line).is_file()})


def definitions(module: Module) -> Iterator[str]:
    """Yield the name of each public function and class at the module's top level."""
    for node in module.tree.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                if not node.name.startswith("_"):
                    yield node.name


def is_assigned(part: ast.AST) -> TypeGuard[ast.Name]:
    """Return whether this part of an assignment's target is a name of its own: not `os.environ`."""
    return isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)


def constants(module: Module) -> Iterator[str]:
    """Yield each public name that is assigned at the module's top level."""
    for node in module.tree.body:
        match node:
            case ast.Assign():
                parts = [part for target in node.targets for part in ast.walk(target)]
                names = [part.id for part in parts if is_assigned(part)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case _:
                names = []
        yield from (name for name in names if not name.startswith("_"))


def public(module: Module) -> Iterator[str]:
    """Yield the module's public functions, classes and constants."""
    yield from definitions(module)
    yield from constants(module)


def repeated(names: Callable[[Module], Iterable[str]], modules: Iterable[Module]) -> list[str]:
    """Return those of the modules' `names` that several of them define, with these modules."""
    where: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        for name in names(module):
            where[name].add(module.name)
    return [f"{n}: {', '.join(sorted(m))}" for n, m in sorted(where.items()) if len(m) > 1]


def repeated_in_packages(modules: list[Module]) -> list[str]:
    """Return the public names that mean two things in one package.

    A program's `main` and a command's typer `app` mean the same thing wherever they stand.
    """

    def ambiguous(module: Module) -> Iterator[str]:
        return (name for name in public(module) if name not in {"main", "app"})

    packages = defaultdict(list)
    for module in modules:
        packages[module.package].append(module)
    return [line for _, inside in sorted(packages.items()) for line in repeated(ambiguous, inside)]


def key_prefixes() -> tuple[str, ...]:
    """Return what store keys begin with: the folders in the layout trees of FORMAT.md."""
    text = "".join(path.read_text(encoding="utf-8") for path in tracked("*FORMAT.md"))
    trees = "".join(re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    return tuple(sorted(set(re.findall(r"^\.?[a-z]+/", trees, re.MULTILINE))))


def literals(tree: ast.Module) -> Iterator[tuple[ast.expr, str]]:
    """Yield each string that is not a docstring, of an f-string what it begins with."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant() as docstring):
                skipped.add(id(docstring))
            case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
                skipped.update(id(value) for value in node.values)
                yield node, text
            case ast.Constant(value=str(text)) if id(node) not in skipped:
                yield node, text


def typed_keys(modules: list[Module]) -> list[str]:
    """Return the store keys, and beginnings of keys, that are typed outside shared's layout."""
    prefixes = key_prefixes()
    return [
        module.at(node, repr(text))
        for module in modules
        if not (module.folder[0] == "shared" and module.path.stem == "layout")
        for node, text in literals(module.tree)
        if text.startswith(prefixes)
    ]


def functions(node: ast.AST, inside: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Yield each node below `node` with the dotted name of the function or class that holds it."""
    for child in ast.iter_child_nodes(node):
        name = inside
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{inside}.{child.name}".lstrip(".")
        yield child, name
        yield from functions(child, name)


def raw_parses(modules: list[Module]) -> list[str]:
    """Return where stored JSON or Parquet is read as dicts outside the room of the formats."""
    return [
        module.at(node, f"{ast.unparse(node.func)} in {holder}")
        for module in modules
        if module.package != "shared.formats" and module.folder[0] != "infra"
        for node, holder in functions(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in PARSERS
        if holder not in FOREIGN and f"{module.path.stem}.{holder}" not in FOREIGN
    ]


def imports(module: Module, known: dict[str, Module]) -> set[str]:
    """Return the modules of this program that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(module.tree):
        match node:
            case ast.Import():
                asked = [name.name for name in node.names]
            case ast.ImportFrom(module=str(base), level=0):
                asked = [f"{base}.{name.name}" for name in node.names]
                asked = [name if name in known else base for name in asked]
            case _:
                asked = []
        found.update(name for name in asked if name in known)
    return found - {module.name}


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Return each largest set of nodes that can all reach each other, as one line."""
    reach: dict[str, set[str]] = {}
    for start, first in arrows.items():
        seen: set[str] = set()
        rest = list(first)
        while rest:
            if (node := rest.pop()) not in seen:
                seen.add(node)
                rest.extend(arrows.get(node, ()))
        reach[start] = seen
    loops = {
        frozenset(other for other in reach[node] if node in reach.get(other, ()))
        for node in arrows
        if node in reach[node]
    }
    return sorted(" <-> ".join(sorted(loop)) for loop in loops)


def file_circles(modules: list[Module]) -> list[str]:
    """Return the circles of imports among files."""
    known = {module.name: module for module in modules}
    return circles({module.name: imports(module, known) for module in modules})


def package_circles(modules: list[Module]) -> list[str]:
    """Return the circles among packages of two parts; a file beside them stands for itself."""
    known = {module.name: module for module in modules}
    arrows: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        here = ".".join(module.name.split(".")[:2])
        there = {".".join(name.split(".")[:2]) for name in imports(module, known)}
        arrows[here] |= there - {here}
    folders = {module.package for module in modules}
    return [c for c in circles(dict(arrows)) if any(node in folders for node in c.split(" <-> "))]


def largest_folder(modules: list[Module]) -> list[str]:
    """Return the files of the folder that holds the most."""
    folders = defaultdict(list)
    for module in modules:
        folders[module.folder].append(str(module.path))
    return max(folders.values(), key=len)


def long_functions(modules: list[Module]) -> list[str]:
    """Return the functions that are longer than a screen."""
    return [
        module.at(node, f"{node.name} has {length} lines")
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    ]


def long_files(modules: list[Module]) -> list[str]:
    """Return the files that are longer than one noun needs."""
    return [f"{m.path}: {m.lines} lines" for m in modules if m.lines > LONGEST_FILE]


def figures() -> dict[str, list[str]]:
    """Return for each name of LIMITS what counts for it. Of tests, only long files count."""
    everything = [Module(path) for path in tracked("*.py")]
    program = [m for m in everything if m.folder[:1] not in {(".ci",), ("tests",), ()}]
    return {
        "functions and classes defined in several modules": repeated(definitions, program),
        "constants defined in several modules": repeated(constants, program),
        "names defined twice in one package": repeated_in_packages(program),
        "store keys typed outside the layout": typed_keys(program),
        "raw parses of stored formats": raw_parses(program),
        "circles among files": file_circles(program),
        "circles among packages": package_circles(program),
        "files in the largest folder": largest_folder(program),
        "functions over 40 lines": long_functions(program),
        "files over 400 lines": long_files(everything),
    }


def main() -> int:
    """Print each figure beside its limit; return 1 if one is above it."""
    above = 0
    for name, found in figures().items():
        is_above = len(found) > LIMITS[name]
        above += is_above
        print(f"{name:50} {len(found):4}   limit {LIMITS[name]:4}{'   ABOVE' * is_above}")
        if is_above or "-v" in sys.argv[1:]:
            print(*(f"    {line}" for line in found), sep="\n")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())

import subprocess
import sys
from pathlib import Path

FIGURES = Path(__file__).parents[2] / ".ci" / "figures.py"

TREE = {
    "shared/FORMAT.md": "```\nplans/<sha256>.json    a plan\n```\n",
    "shared/store/layout.py": 'def plan(name: str) -> str:\n    return f"plans/{name}.json"\n',
    "services/a/one.py": '"""plans/ in a docstring."""\nfrom services.a import two\n\n'
    'KEY = "plans/x"\n',
    "services/a/two.py": "import json\n\n\ndef read(data):\n    import services.a.one\n\n"
    "    return json.loads(data)\n",
    "services/b/three.py": "def read():\n    pass\n",
    "tests/unit/test_it.py": 'KEY = "plans/y"\n\n\ndef read():\n    pass\n',
}


def test_each_figure_names_what_it_counts(tmp_path: Path) -> None:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    command = [sys.executable, str(FIGURES), "-v"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 1  # no key may be typed outside the layout
    counted = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    assert counted == [
        "read: services.a.two, services.b.three",
        "services/a/one.py:4: 'plans/x'",
        "services/a/two.py:7: json.loads in read",
        "services.a.one <-> services.a.two",
        "services/a/one.py",
        "services/a/two.py",
    ]

"""The rooms of the package: who may import whom, and what an import costs."""
import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bsft_nb"
ORDER = [
    "events", "runs", "models", "budget", "sandbox", "chat", "texts", "tokens", "int8", "tied", "frozen", "formats", "keys", "ledger", "record", "bootstrap", "funnel", "pairs", "dedupe",
    "data", "exchange", "losses", "jobs", "checkpoints", "loop", "trainer", "launch", "progress", "sampling",
    "attention", "generate", "decode", "serving", "worker", "rows", "engine", "parity", "safe", "diff", "answers", "compare_file", "compare", "verdict", "charts", "report", "widgets",
    "progress_panel", "checks", "preflight", "scoring", "handle", "stages", "loading", "teleprompter", "data_panel",
    "compare_panel", "compile_panel", "magics", "cli", "demo.tickets",
]
MODULES = sorted(".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in PACKAGE.rglob("*.py"))


def imported_rooms(room: str, source: str) -> set[str]:
    "Rooms that `source` of `room` imports, wherever in it; '' is the package itself."
    names, package = set(), ["bsft_nb", *room.split(".")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            inside = {f"{module}.{a.name}" for a in node.names} & {f"bsft_nb.{m}" for m in MODULES}
            names |= inside or {module}
    return {n.removeprefix("bsft_nb").removeprefix(".") for n in names if n == "bsft_nb" or n.startswith("bsft_nb.")}


def not_above(room: str, source: str) -> set[str]:
    return imported_rooms(room, source) - set(ORDER[: ORDER.index(room)])


def in_fresh_process(code: str) -> list:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_room_has_a_place():
    assert {m for m in MODULES if m.split(".")[-1] not in ("__init__", "_modidx")} == set(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_room_imports_only_from_above(room):
    source = (PACKAGE / f"{room.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert not not_above(room, source)


@pytest.mark.parametrize(
    ("room", "source", "wrong"),
    [
        ("models", "from .engine import Engine", {"engine"}),
        ("models", "def f():\n    from bsft_nb.trainer import train", {"trainer"}),
        ("runs", "from . import events, data", {"data"}),
        ("data", "import bsft_nb.progress", {"progress"}),
        ("data", "from bsft_nb import load", {""}),
        ("demo.tickets", "from ..engine import local_lm\nfrom . import other\nimport bsft_nbx", {"demo"}),
        ("trainer", "from .data import Pair\nfrom .events import EventLog\nimport torch", set()),
    ],
)
def test_forbidden_imports_are_seen(room, source, wrong):
    assert not_above(room, source) == wrong


def test_every_module_imports_first():
    "Each is the first of the package to be imported, so that no order of imports hides a circle."
    names = ["bsft_nb", *(f"bsft_nb.{m}" for m in MODULES if not m.endswith("__init__"))]
    code = f"""
import importlib, json, sys
for name in {names!r}:
    for loaded in [m for m in sys.modules if m.split(".")[0] == "bsft_nb"]:
        del sys.modules[loaded]
    importlib.import_module(name)
print(json.dumps({names!r}))
"""
    assert in_fresh_process(code) == names


def test_import_is_light():
    code = """
import json, sys, time
began = time.perf_counter()
import dspy
between = time.perf_counter()
import bsft_nb
print(json.dumps([between - began, time.perf_counter() - between, sorted({"torch", "transformers"} & set(sys.modules))]))
"""
    runs = [in_fresh_process(code) for _ in range(3)]
    assert all(heavy == [] for _, _, heavy in runs)
    assert min(ours for _, ours, _ in runs) < 1.5, f"seconds of dspy, bsft_nb: {runs}"

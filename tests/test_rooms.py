"""The rooms of the package: who may import whom, and what an import costs."""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bsft_nb"
NBS = PACKAGE.parent / "nbs"
FLOORS = [  # a package imports only packages of earlier floors; a folder in `nbs/` is a package
    ("lessons", "compat"), ("run",), ("models",), ("teacher", "engine"), ("data", "serve"), ("training", "results"), ("launchers",), ("export", "routing"), ("optimizer",), ("notebook", "lab"), ("cli", "demo"),
]


def exported(notebook: Path) -> str:
    "The module that a notebook exports, or ''."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return next((m[1] for c in cells if (m := re.match(r"#\| default_exp (\S+)", "".join(c["source"])))), "")


def rooms(package: str) -> list[str]:
    "Its modules, in the order of the notebooks' names."
    return [r for n in sorted([*NBS.glob(f"{package}.ipynb"), *NBS.glob(f"{package}/*.ipynb")]) if (r := exported(n))]


PLACE = {p: floor for floor, packages in enumerate(FLOORS) for p in packages}
ORDER = [r for p in PLACE for r in rooms(p)]
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


def package_of(room: str) -> str:
    return room.partition(".")[0]


def not_above(room: str, source: str) -> set[str]:
    "Imports of `room` that do not come before it: in its package by the notebooks' order, else by the floors."
    mine, before = package_of(room), rooms(package_of(room))
    before = before[: before.index(room)]
    return {r for r in imported_rooms(room, source) if (r not in before if package_of(r) == mine else PLACE.get(package_of(r), len(FLOORS)) >= PLACE[mine])}


def in_fresh_process(code: str) -> list:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_room_has_a_place():
    assert {m for m in MODULES if m.split(".")[-1] not in ("__init__", "_modidx")} == set(ORDER)


def test_a_room_lies_in_the_folder_of_its_package():
    for notebook in NBS.rglob("*.ipynb"):
        if room := exported(notebook):
            assert [*notebook.relative_to(NBS).parts[:-1], notebook.stem.lstrip("0123456789_")] == room.split(".")


@pytest.mark.parametrize("room", ORDER)
def test_room_imports_only_from_above(room):
    source = (PACKAGE / f"{room.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert not not_above(room, source)


@pytest.mark.parametrize(
    ("room", "source", "wrong"),
    [
        ("models.targets", "from ..engine.lm import StudentEngine", {"engine.lm"}),
        ("models.targets", "def f():\n    from bsft_nb.training.trainer import train", {"training.trainer"}),
        ("run.events", "from . import files, folder", {"run.folder"}),
        ("run.folder", "import bsft_nb.run.progress", {"run.progress"}),
        ("data.pairs", "from bsft_nb import load", {""}),
        ("teacher.ledger", "from ..engine import lm", {"engine.lm"}),  # of the same floor
        ("optimizer.teleprompter", "from ..notebook.widgets import table", {"notebook.widgets"}),
        ("demo.tickets", "from ..engine.lm import local_lm\nfrom . import other\nimport bsft_nbx", {"demo"}),
        ("training.trainer", "from ..data.pairs import Pair\nfrom .jobs import Job\nimport torch", set()),
    ],
)
def test_forbidden_imports_are_seen(room, source, wrong):
    assert not_above(room, source) == wrong


@pytest.mark.slow
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

"""Private names of other packages: each is listed in `compat`, each is there, and no other module uses one."""
import ast
import inspect
import re
from pathlib import Path

import dspy
import pytest
from transformers import Trainer

import bsft_nb
from bsft_nb import compat

PACKAGE = Path(bsft_nb.__file__).parent
OTHERS = {"dspy", "transformers", "torch", "IPython", "ipywidgets", "peft", "accelerate", "datasets", "huggingface_hub", "threading", "nn"}
PUBLIC = {"_fields", "_render_traceback_"}  # of named tuples, and what IPython asks of an exception: both documented


@pytest.mark.parametrize("name", compat.PRIVATE)
def test_a_private_name_is_there(name):
    assert compat.find(name) is not None, f"{name} is gone. It was used because: {compat.PRIVATE[name]}"


def test_methods_that_are_overridden_take_what_we_give():
    assert list(inspect.signature(dspy.Adapter._call_preprocess).parameters) == ["self", "lm", "lm_kwargs", "signature", "inputs"]
    assert list(inspect.signature(Trainer._prepare_inputs).parameters) == ["self", "inputs"]


def private_uses(source: str) -> set[str]:
    "Dotted names with a private part that begin with another package's name, and private names imported from one."
    found, known = set(), set(OTHERS)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").partition(".")[0] in OTHERS:
            names = [f"{node.module}.{a.name}" for a in node.names]
            found |= {n for n in names if any(p.startswith("_") for p in n.split("."))}
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            dotted, inner = [node.attr], node.value
            while isinstance(inner, ast.Attribute):
                dotted, inner = [inner.attr, *dotted], inner.value
            if isinstance(inner, ast.Name) and inner.id in known:
                found.add(".".join([inner.id, *dotted]))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found |= asked_by_name(node)
    return found


def asked_by_name(function: ast.AST) -> set[str]:
    "Private names written as strings in a function that asks for attributes by name."
    nodes = list(ast.walk(function))
    parts = {id(v) for n in nodes if isinstance(n, ast.JoinedStr) for v in n.values}
    asks = any(isinstance(n, ast.Name) and n.id in ("getattr", "setattr", "hasattr", "delattr", "attrgetter") for n in nodes)
    return {n.value for n in nodes if asks and isinstance(n, ast.Constant) and id(n) not in parts and isinstance(n.value, str) and re.fullmatch(r"_(?!_)\w+", n.value)} - PUBLIC


@pytest.mark.parametrize("file", sorted(p for p in PACKAGE.rglob("*.py") if p.name not in ("compat.py", "_modidx.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_other_module_uses_one(file):
    assert private_uses(file.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("source", ["import torch\ntorch._C.f()", "from dspy._vendor import x", "from transformers.utils import _y", "import dspy\ndspy.settings._z = 1", "def f(x):\n    for n in ('_a', 'b'):\n        getattr(x, n)"])
def test_a_private_use_is_seen(source):
    assert private_uses(source)

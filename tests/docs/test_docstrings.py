"""Public names have a docstring, typed arguments and results, and say what they raise. Nothing is imported: the modules are read."""
import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(p for p in (ROOT / "bsft_nb").rglob("*.py") if p.name not in ("_modidx.py", "__init__.py"))
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
ELSEWHERE = (*FUNCTION, ast.ClassDef, ast.Lambda)
DSPYS = {"forward", "aforward", "acall", "update_history"}  # which a layer before a class of DSPy's hands on


def exported(tree: ast.Module) -> set[str]:
    "The names in `__all__`, which nbdev writes."
    return {name for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__" for name in ast.literal_eval(n.value)}


def public(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    "Functions, classes and methods that others may use. What a class with a base has is documented by the base."
    for node in tree.body:
        if isinstance(node, (*FUNCTION, ast.ClassDef)) and node.name in exported(tree):
            yield node.name, node
            if isinstance(node, ast.ClassDef) and not node.bases:
                yield from ((f"{node.name}.{m.name}", m) for m in node.body if isinstance(m, FUNCTION) and not m.name.startswith("_") and m.name not in DSPYS)


def within(node: ast.AST) -> Iterator[ast.AST]:
    "The statements and expressions that a function itself carries out: nothing of functions in it, nor what its `try` catches."
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ELSEWHERE):
            continue
        if isinstance(child, ast.Try) and child.handlers:
            yield from (found for part in (*child.handlers, *child.orelse, *child.finalbody) for found in within(part))
            yield from (found for part in child.body for found in (part, *within(part)) if not isinstance(found, ast.Raise))
            continue
        yield child
        yield from within(child)


def raised(function: ast.AST) -> set[str]:
    "The classes of errors that a function itself raises."
    errors = [n.exc.func if isinstance(n.exc, ast.Call) else n.exc for n in within(function) if isinstance(n, ast.Raise) and n.exc]
    return {e.id for e in errors if isinstance(e, ast.Name) and e.id[0].isupper()}


def helps(function: ast.AST) -> bool:
    "Is the docstring the help of a command, for people in a shell?"
    return any("argparse.Namespace" == ast.unparse(a.annotation) for a in function.args.args if a.annotation)


def faults(function: ast.AST) -> Iterator[str]:
    "What the documentation of a function lacks."
    doc, a = ast.get_docstring(function) or "", function.args
    if not doc:
        yield "no docstring"
    yield from (f"no type for {p.arg}" for p in (*a.posonlyargs, *a.args, *a.kwonlyargs) if p.annotation is None and p.arg not in ("self", "cls"))
    if function.returns is None and any((isinstance(n, ast.Return) and n.value) or isinstance(n, (ast.Yield, ast.YieldFrom)) for n in within(function)):
        yield "no type for what it returns"
    if not helps(function):
        yield from (f"does not say that it raises {name}" for name in sorted(raised(function)) if name not in doc)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT / "bsft_nb").with_suffix("").as_posix())
def test_public_names_say_what_they_take_give_and_raise(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the notebook's line with > is the module's docstring"
    found = {name: list(faults(node)) if isinstance(node, FUNCTION) else ["no docstring"] * (not ast.get_docstring(node)) for name, node in public(tree)}
    assert {name: lacks for name, lacks in found.items() if lacks} == {}


def test_the_check_notices():
    def lacks(code):
        return list(faults(ast.parse(code).body[0]))

    assert lacks("def f(x): return x") == ["no docstring", "no type for x", "no type for what it returns"]
    assert lacks("def f(x: int) -> int:\n    'Doc.'\n    raise ValueError(x)") == ["does not say that it raises ValueError"]
    assert lacks("def f(x: int):\n    'Doc.'\n    try:\n        raise ValueError\n    except ValueError:\n        pass") == []
    assert lacks("def f(x: int):\n    'Doc.'\n    def g(y):\n        raise ValueError(y)") == []

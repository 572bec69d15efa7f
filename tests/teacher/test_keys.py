"""Keys say what a thing is, never what happened to it."""
import contextlib
import dataclasses
import functools
import importlib
import json
import os
import random
import subprocess
import sys
import textwrap
import time
from collections import Counter, deque
from enum import Enum
from pathlib import Path

import dspy
import pytest

from bsft_nb.lessons import SHOUTS, Shout, is_loud, shouting_teacher, teacher_lm
from bsft_nb.run.files import iter_lines
from bsft_nb.run.folder import fingerprint
from bsft_nb.teacher import keys
from bsft_nb.teacher.bootstrap import TraceBootstrapper
from bsft_nb.teacher.code import library_name
from bsft_nb.teacher.identity import content
from bsft_nb.teacher.keys import code_key, program_key, teacher_key
from bsft_nb.teacher.ledger import calls_path

SEEN, COUNTS = set(), Counter()
total = 0


def answering():
    return teacher_lm(lambda text: {"a": "x"})


class Base(dspy.Module):
    def __init__(self, k=3):
        super().__init__()
        self.p, self.k = dspy.Predict("q -> a"), k

    def forward(self, q):
        return self.p(q=q[: self.k])


class Counting(Base):
    calls = 0

    def forward(self, q):
        self.calls += 1
        Counting.calls += 1
        self.__class__.calls += 1
        return super().forward(q)


class Remembering(Base):
    memory: dict = {}  # of the class

    def __init__(self, k=3):
        super().__init__(k)
        self.cache, self.log, self.seen, self.recent, self.groups = {}, [], set(), deque(maxlen=9), {}

    def forward(self, q):
        if q not in self.cache:
            cache = self.cache
            cache[q] = super().forward(q)
        self.log.append(q), self.seen.add(q), self.recent.appendleft(q)
        self.groups.setdefault(len(q), []).append(q)
        self.memory[q] = time.time()
        self.last = self.cache[q]
        return self.last


class Lazy(Base):
    def __init__(self, k=3):
        super().__init__(k)
        self._client, self._lock = None, None

    @property
    def client(self):
        if self._client is None:
            self._client = object()
        return self._client

    @functools.cached_property
    def table(self):
        return {"made": time.time()}

    @functools.lru_cache(maxsize=None)  # noqa: B019
    def cut(self, q):
        return q[: self.k]

    def forward(self, q):
        self.client, self.table, self.note(q)
        return super().forward(self.cut(q))

    def note(self, q):
        def inner():
            self.notes = [q, time.time()]
        inner()


class Index:
    "An object of the user's, no module."

    def __init__(self, texts):
        self.texts, self.asked, self.hits = texts, 0, Counter()

    def find(self, q):
        self.asked += 1
        self.hits[q] += 1
        return [t for t in self.texts if q in t]


class Searching(Base):
    def __init__(self, k=3, texts=("x", "y")):
        super().__init__(k)
        self.index = Index(list(texts))

    def forward(self, q):
        self.index.find(q)
        self.index.latest = q
        return super().forward(q)


class Global(Base):
    def forward(self, q):
        global total
        total += 1
        SEEN.add(q)
        COUNTS[q] += 1
        return helper(self, q)


def helper(program, q, memo={}):
    memo[q] = random.random()
    return program.p(q=q)


class Retrieving(Base):
    def __init__(self, k=3):
        super().__init__(k)
        self.best = dspy.BestOfN(self.p, N=2, reward_fn=lambda args, pred: 0.0, threshold=1.0, fail_count=2)
        self.retrieve = dspy.Retrieve(k=k)

    def forward(self, q):
        self.best.fail_count -= 1
        return super().forward(q)


PROGRAMS = [Base, Counting, Remembering, Lazy, Searching, Global, Retrieving, lambda k=3: dspy.ChainOfThought("q -> a", k=k), lambda k=3: dspy.ReAct("q -> a", tools=[], max_iters=k)]


@pytest.mark.parametrize("make", PROGRAMS)
def test_a_program_that_was_called_is_the_same_program(make):
    before, program, seen = program_key(make()), make(), set(SEEN)
    with dspy.context(lm=answering()):
        for q in ("one", "two", "one"):
            with contextlib.suppress(Exception):  # ReAct's script has no such fields
                program(q=q)
    assert program_key(program) == before == program_key(make()), "or calls left something in the key"
    assert program_key(make(k=4)) != before, "or a setting is not seen"
    assert make is not Global or SEEN != seen


def test_what_a_setter_sets_is_a_setting():
    class Set(Base):
        def set_k(self, k):
            self.k = k

        @property
        def depth(self):
            return self._depth

        @depth.setter
        def depth(self, value):
            self._depth = value

        def forward(self, q):
            return super().forward(q * self.depth)

    keys = set()
    for k, depth in ((3, 1), (4, 1), (4, 2)):
        program = Set()
        program.set_k(k)
        program.depth = depth
        keys.add(program_key(program))
    assert len(keys) == 3


def test_metrics_that_remember_are_the_same():
    def make(limit):
        seen, n = {}, 0

        def metric(example, prediction, trace=None):
            nonlocal n
            n += 1
            seen[str(prediction)] = n
            return n > limit

        return metric

    class Judge:
        def __init__(self, limit):
            self.limit, self.asked = limit, []

        def __call__(self, example, prediction, trace=None):
            self.asked.append(prediction)
            return len(self.asked) > self.limit

        def score(self, example, prediction, trace=None):
            self.asked.append(prediction)
            return 1

    for kind in (make, Judge, lambda n: Judge(n).score, lambda n: functools.partial(make(n), trace=[n]), lambda n: functools.lru_cache(make(n))):
        metric = kind(1)
        before = code_key(metric)
        metric(None, "a"), metric(None, "b")
        assert code_key(metric) == before == code_key(kind(1)) != code_key(kind(2))


@dataclasses.dataclass(frozen=True)
class Weights:
    exact: float = 1.0


class Mode(Enum):
    strict = 1
    kind = 2


@pytest.mark.parametrize("change", [
    {"weights": Weights(0.5)}, {"mode": Mode.kind}, {"folder": Path("b")}, {"names": {"x": [1, 3]}}, {"pick": min}, {"_k": 2}, {"ratio": 0.25},
    {"fn": functools.partial(sorted, reverse=False)}, {"tool": dspy.Tool(len, desc="other")}, {"rows": [dspy.Example(q="b")]}, {"judge": dspy.LM("x/b")},
])
def test_each_setting_is_seen(change):
    usual = {"weights": Weights(), "mode": Mode.strict, "folder": Path("a"), "names": {"x": [1, 2]}, "pick": max, "_k": 1, "ratio": 0.5}
    usual |= {"fn": functools.partial(sorted, reverse=True), "tool": dspy.Tool(len, desc="one"), "rows": [dspy.Example(q="a")], "judge": dspy.LM("x/a")}

    def made(values):
        program = Base()
        vars(program).update(values)
        return program

    assert program_key(made(usual)) == program_key(made(dict(reversed(usual.items())))) == program_key(made(usual).deepcopy())
    assert program_key(made(usual | change)) != program_key(made(usual))


MODULE = '''
import contextlib, functools, dspy
from dataclasses import dataclass
LIMIT = {limit}
def norm(x): return x[:LIMIT]
@functools.lru_cache
def cached(x): return norm(x)
@contextlib.contextmanager
def opened(x): yield norm(x)
def deco(f):
    def inner(*a): return f(*a)
    return inner
@deco
def bare(x): return norm(x)
@dataclass
class Box:
    size: int = 1
    def cut(self, x): return norm(x)
class Sub(Box):
    pass
box, table = Box(), {{"norm": norm}}
def tool(x: str) -> str:
    "A tool."
    return norm(x)
def loop(x): return loop(x[1:]) if x else other(x)
def other(x): return loop(norm(x))
class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.p = dspy.Predict("q -> a")
    def forward(self, q): return self.p(q=norm(q))
class Reader:
    def find(self, q): return [norm(q)]
'''


@pytest.fixture
def helpers(tmp_path, monkeypatch):
    "A package of the user's; `write(limit)` edits it and loads it again."
    (tmp_path / "userpkg").mkdir()
    (tmp_path / "userpkg" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(limit):
        (tmp_path / "userpkg" / "helpers.py").write_text(MODULE.format(limit=limit))
        importlib.invalidate_caches()
        sys.dont_write_bytecode, kept = True, sys.dont_write_bytecode
        try:
            return importlib.reload(importlib.import_module("userpkg.helpers"))
        finally:
            sys.dont_write_bytecode = kept

    yield write
    for name in ("userpkg", "userpkg.helpers"):
        sys.modules.pop(name, None)


def _metric(h, how):
    import userpkg

    def lazily(example, prediction, trace=None):
        from userpkg import helpers

        return helpers.norm(prediction)

    def dotted(example, prediction, trace=None):
        import userpkg.helpers

        return userpkg.helpers.norm(prediction)

    Box, loop, table, box, Sub = h.Box, h.loop, h.table, h.box, h.Sub
    return {
        "module": lambda e, p, t=None: h.norm(p), "package": lambda e, p, t=None: userpkg.helpers.norm(p), "lazily": lazily, "dotted": dotted,
        "cached": h.cached, "opened": h.opened, "bare": h.bare, "class": lambda e, p, t=None: Box().cut(p), "object": lambda e, p, t=None: box.cut(p),
        "inherited": lambda e, p, t=None: Sub(2).cut(p), "table": lambda e, p, t=None: table["norm"](p), "loop": lambda e, p, t=None: loop(p),
        "method": box.cut, "partial": functools.partial(h.norm), "default": lambda e, p, t=None, fn=h.norm: fn(p), "tool": dspy.Tool(h.tool),
    }[how]


@pytest.mark.parametrize("how", ["module", "package", "lazily", "dotted", "cached", "opened", "bare", "class", "object", "inherited", "table", "loop", "method", "partial", "default", "tool"])
def test_an_edited_helper_makes_another_metric(helpers, how):
    three, again = code_key(_metric(helpers(3), how)), code_key(_metric(helpers(3), how))
    assert three == again != code_key(_metric(helpers(44), how))


@pytest.mark.parametrize("make", [
    lambda h: h.Program(),
    lambda h: dspy.ReAct("q -> a", tools=[h.tool]),
    lambda h: dspy.BestOfN(dspy.Predict("q -> a"), N=2, reward_fn=lambda args, pred: h.norm(pred.a), threshold=1.0),
    lambda h: _with(reader=h.Reader()),
    lambda h: _with(kind=h.Box),
])
def test_an_edited_helper_makes_another_program(helpers, make):
    three, again = program_key(make(helpers(3))), program_key(make(helpers(3)))
    assert three == again != program_key(make(helpers(44)))


def _with(**values):
    program = Base()
    vars(program).update(values)
    return program


def test_a_helper_that_is_imported_within_a_call_counts_before_it_too(helpers):
    helpers(3)
    for name in ("userpkg", "userpkg.helpers"):
        del sys.modules[name]

    def metric(example, prediction, trace=None):
        from userpkg.helpers import norm

        return norm(prediction)

    before = code_key(metric)
    metric(None, "abc")
    assert code_key(metric) == before
    helpers(44)
    assert code_key(metric) != before


def test_keys_are_the_same_in_each_process(tmp_path, helpers):
    helpers(3)
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent("""
        import json, sys, dspy
        from userpkg.helpers import *
        from bsft_nb.teacher.keys import code_key, program_key, teacher_key
        names, odd = {"b", "a", "c", norm, Box}, object()
        def metric(e, p, t=None): return p in {"x", "y", "z"} or p in names or odd
        program = Program()
        program.names, program.tool, program.odd = names, tool, odd
        print(json.dumps([code_key(metric), program_key(program), teacher_key(program, {"lm": dspy.LM("x/y"), "adapter": dspy.JSONAdapter()})]))
    """))
    path = f"{Path(__file__).parents[2]}:{tmp_path}"
    running = [
        subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path})
        for seed in ("1", "2")
    ]
    said = [p.communicate() for p in running]
    assert all(p.returncode == 0 for p in running), said
    found = {tuple(json.loads(out)) for out, _ in said}
    assert len(found) == 1 and len(set(found.pop())) == 3


def test_libraries_are_not_read():
    def metric(example, prediction, trace=None):
        return json.dumps(prediction) and dspy.evaluate.answer_exact_match(example, prediction) and pytest.approx(prediction)

    from bsft_nb.teacher.identity import content

    began = time.perf_counter()
    assert len(content(metric)) < 9, "the metric, and what it is defined within"
    assert time.perf_counter() - began < 1


def test_a_large_package_is_read_in_bounded_time(tmp_path, monkeypatch):
    from bsft_nb.teacher import identity as room

    source = "\n".join(f"def f{i}(x):\n    return f{i + 1}(x) + f{(7 * i) % 900}(x) if x > {i} else x" for i in range(1000)) + "\ndef f1000(x): return x\n"
    (tmp_path / "large_userpkg.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    import large_userpkg

    began = time.perf_counter()
    key = code_key(large_userpkg.f0)
    assert time.perf_counter() - began < 20
    monkeypatch.setattr(room, "LIMIT", 50)
    assert len(room.content(large_userpkg.f0)) == 51 and code_key(large_userpkg.f0) != key
    sys.modules.pop("large_userpkg")


def test_a_teacher_is_its_settings_too():
    class Odd(dspy.ChatAdapter):
        def format(self, *args, **kwargs):
            return super().format(*args, **kwargs)

    def rm(query, k=3):
        return query[:k]

    lm = dspy.LM("x/y", api_key="a")
    keys = [teacher_key(Base(), s) for s in ({"lm": lm}, {"lm": dspy.LM("x/z")}, {"lm": lm, "adapter": dspy.ChatAdapter()}, {"lm": lm, "adapter": Odd()}, {"lm": lm, "rm": rm})]
    assert len(set(keys)) == 5
    with dspy.context(lm=answering(), adapter=dspy.ChatAdapter()):
        dspy.Predict("q -> a")(q="1")
    assert teacher_key(Base(), {"lm": dspy.LM("x/y", api_key="b"), "callbacks": [object()]}) == keys[0]


# -- formats of keys -------------------------------------------------------------------------------------------------


def test_keys_carry_their_format(monkeypatch):
    assert set(keys.FORMATS) == {"teacher", "call", "run"}
    for kind, now in keys.FORMATS.items():
        assert keys.versioned(kind, ["x"], 1) == fingerprint(["x"]), "keys of before formats stay as they were"
        with monkeypatch.context() as m:
            m.setitem(keys.FORMATS, kind, now + 1)
            later = keys.versioned(kind, ["x"])
        assert later != keys.versioned(kind, ["x"])
    all_formats = keys.teacher_keys(Base())
    assert len(all_formats) == len(set(all_formats)) == keys.FORMATS["teacher"] and all_formats[0] == teacher_key(Base())


def test_a_module_of_this_package_may_move():
    from bsft_nb.models.student_adapter import StudentAdapter

    before, home = code_key(StudentAdapter()), StudentAdapter.__module__
    try:
        StudentAdapter.__module__ = "bsft_nb.elsewhere.moved"
        assert code_key(StudentAdapter()) == before and library_name(StudentAdapter) == "bsft_nb.StudentAdapter"
    finally:
        StudentAdapter.__module__ = home
    assert library_name(fingerprint) == "bsft_nb.fingerprint" == content(fingerprint)[1][0]
    assert library_name(dspy.Predict) == "dspy.predict.predict.Predict", "of a library the version says which modules there are"


def written_before(path, new_key):
    "Write the ledger as an earlier version did: rows without formats, attempts under the keys of then."
    for file, name in ((path, "key"), (calls_path(path), "attempt")):
        rows = [{k: v for k, v in row.items() if k != "format"} | {name: new_key(row[name])} for row in iter_lines(file)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def shouting(path):
    lm = shouting_teacher()
    boot = TraceBootstrapper(metric=is_loud, teacher_settings={"lm": lm}, max_rounds=1)
    return lm, boot, lambda: boot.collect([Shout()], SHOUTS[:4], path, num_threads=2)


def test_attempts_under_keys_that_can_still_be_made_are_found(tmp_path, caplog):
    path = tmp_path / "l.jsonl"
    lm, boot, collect = shouting(path)
    first, said = [t.calls for t in collect()], keys.teacher_keys(Shout(), {"lm": lm})
    as_then = {a: b for e in SHOUTS for a, b in [keys.attempt_keys(said, 0, keys.example_key(e), 0)]}
    written_before(path, as_then.__getitem__)
    size = path.stat().st_size
    assert boot.known([Shout()], SHOUTS[:4], path) == (4, [])
    again = collect()
    assert [t.calls for t in again] == first and lm.engine.calls == 4 and path.stat().st_size == size
    assert not again.warnings and not caplog.records and {t.format for t in again} == {1}


def test_attempts_under_keys_that_cannot_be_made_are_told_before_anything_is_paid(tmp_path, caplog):
    path = tmp_path / "l.jsonl"
    lm, boot, collect = shouting(path)
    first, at = [t.calls for t in collect()], []
    written_before(path, lambda key: fingerprint(["as it was", key]))
    rows = list(iter_lines(calls_path(path)))
    calls_path(path).write_text("".join(json.dumps(r) + "\n" for r in rows[1:]))  # one answer is lost
    answer = lm.engine.answer
    lm.engine.answer = lambda text: at.append(len(caplog.records)) or answer(text)
    again = collect()
    assert [t.calls for t in again] == first and lm.engine.calls == 5 and {t.format for t in again} == {keys.FORMATS["teacher"]}
    assert at == [1], "the warning comes first"
    assert again.warnings == [caplog.records[0].getMessage()] and again.warnings[0].startswith("4 attempts in the ledger have keys of another version")
    assert "3 from recorded LM calls" in again.warnings[0] and "for 1 the teacher is asked again" in again.warnings[0]
    caplog.clear()
    assert not collect().warnings and not caplog.records and lm.engine.calls == 5, "once"


def test_attempts_of_other_examples_and_failed_ones_are_no_warning(tmp_path):
    path = tmp_path / "l.jsonl"
    lm, boot, collect = shouting(path)
    collect()
    written_before(path, lambda key: fingerprint(["as it was", key]))
    assert not boot.collect([Shout()], SHOUTS[4:], path).warnings
    rows = [{**row, "reason": "error", "kept": False} for row in iter_lines(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not collect().warnings, "a failed attempt is made again whatever its key"


def test_lm_calls_of_another_format_are_told(tmp_path, monkeypatch):
    path = tmp_path / "l.jsonl"
    lm, boot, collect = shouting(path)
    collect()
    monkeypatch.setitem(keys.FORMATS, "call", keys.FORMATS["call"] + 1)
    monkeypatch.setitem(keys.FORMATS, "teacher", keys.FORMATS["teacher"] + 1)
    again = collect()
    assert lm.engine.calls == 4 and "4 recorded LM calls" in again.warnings[0], "the attempts are found by their earlier keys"

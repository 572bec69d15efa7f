"""Deliberate breaks, and who notices: a lesson, or the tests of the room.

For each break, the line is changed in its notebook, the package is exported, and the notebook's own lesson runs; where that still passes, the tests that are named run too. Exit 1 where nobody noticed, or where a break's line is no longer there once.

    python tests/tools/mutate.py [WORD ...]     # only breaks whose package or line has one of the words
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sync import copy_tree

BIN = Path(sys.executable).parent
ENV = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
BREAKS = [  # package, part of a line that is there once, what it becomes, tests for what no lesson notices
    ("lessons", 'raise AssertionError(f"{error.__name__} was not raised")', "pass", ""),
    ("lessons", "if w not in str(e)]", "if w is None]", ""),
    ("compat", "return told is None or told(True) is not None", "return False", ""),
    ("run", "if kind not in KINDS:", "if False:", "run"),  # writers are strict
    ("run", "if digest(folder / name) != expected:", "if False:", "run"),  # damage is seen
    ("run", "return os.open(path, flags, 0o600)", "return os.open(path, flags, 0o644)", "run"),
    ("run", 'inside = not path.is_absolute() and ".." not in path.parts', "inside = not path.is_absolute()", "run optimizer/test_doors.py"),
    ("run", ' or record.get("class") != ENGINES[key]', "", "optimizer/test_doors.py"),  # foreign classes
    ("run", 'if re.search(r"//|https?:|\\barn:", lm["model"], re.I):', "if False:", "optimizer/test_doors.py"),  # an address instead of a model
    ("run", "named = isinstance(node, ast.Name) and node.id not in TYPES", "named = False", "optimizer/test_doors.py"),
    ("run", "start, end = lines._seen, last_end(lines._file)", "start, end = lines._seen, lines._file.seek(0, 2)", "run"),  # half a line
    ("run", 'if who.get("key") in (None, key) and ', "if ", "optimizer/test_together.py"),  # a compile of something else is no result
    ("models", '" " + text, control=False), codec.end_id]', '" " + text, control=False)]', "models"),  # the student learns to stop
    ("models", "if control:\n        return encode", "if True:\n        return encode", "models"),  # control tokens of user texts stay text
    ("models", ".mul_(scale).mul_(self.scale)", ".mul_(self.scale)", ""),
    ("models", "if not takes_attention(model):", "if False:", "training/test_families.py"),
    ("models", "if tokenizer.eos_token_id is None:", "if False:", "models"),
    ("models", "if self.left < 0:", "if False:", "models/test_prompts.py"),  # a template without end
    ("teacher", "[plain(example.inputs().items()), attempt, nth]", "[plain(example.inputs().items()), attempt]", "teacher"),
    ("teacher", 'return {"model": lm.model, **{k: v', 'return {"model": "", **{k: v', "teacher/test_keys.py"),  # a key that forgets the model
    ("teacher", "if hint or any(_same(d, example) for d in teacher.demos):", "if hint:", "teacher/test_bootstrap.py"),  # shown the answer
    ("teacher", 'yield "speaks of a hint"', "yield from ()", "teacher"),  # a completion that quotes what the student will not see
    ("teacher", "if self.spent + self.held + amount <= self.cap + 1e-12:", "if self.spent + amount <= self.cap + 1e-12:", "teacher"),  # a cap that forgets what is under way
    ("models", "mask = mask.triu(before - window + 1)", "mask = mask.triu(before - window)", "training/test_families.py"),  # a window off by one
    ("models", "dtype=torch.bool, device=device).tril(before)", "dtype=torch.bool, device=device).tril(before + 1)", "engine/test_decode.py"),  # a mask off by one
    ("engine", "hidden = places > at[:, None]", "hidden = places >= at[:, None]", "engine/test_decode.py"),
    ("engine", "if not torch.isfinite(logits).any() or logits.isnan().any():", "if False:", "engine"),
    ("engine", "factors = [(p.top - top).exp_() for p in parts]", "factors = [(parts[0].top - top).exp_() for p in parts]", "engine/test_decode.py"),
    ("data", "if texts[0] == texts[1]:", "if False:", "data"),
    ("data", "if ids != pair.prompt_ids:", "if False:", "data optimizer/test_compile.py"),  # asked otherwise than trained
    ("data", "if conflicts not in CONFLICTS:", "if False:", "data"),
    ("training", 'range(end - len(p.completion_ids), end)', "range(end - len(p.completion_ids) + 1, end + 1)", "training/test_losses.py"),
    ("training", "_append(made, own, n)", "_append(made, own, 0)", "training/test_losses.py"),  # positions of a row's own part
    ("training", "_padded([p.completion_ids for p in pairs], -100, left)", "_padded([p.completion_ids for p in pairs], 0, left)", "training/test_losses.py"),
    ("training", "min(map(len, prompts)) - 1))", "min(map(len, prompts))))", "training/test_losses.py"),
    ("training", "if free < need:", "if False:", "training/test_trainer.py"),
    ("results", "return f\"<bdi>{escape(clean(value, limit))}</bdi>\"", "return f\"<bdi>{clean(value, limit)}</bdi>\"", "results notebook"),
    ("results", "p, scale = wins / n, 1 + z * z / n", "p, scale = wins / n, 1", "results"),
    ("results", "if difference[1] < 0:", "if difference[0] < 0:", "results"),
    ("serve", "if key is not None and not hmac.compare_digest(", "if key is not None and hmac.compare_digest(", "serve"),
    ("lab", "return real if any(real.is_relative_to(r) for r in roots) else None", "return real", "lab"),
    ("launchers", "if workers > bsize:", "if False:", "launchers"),
    ("launchers", 'if lacks := [n for n in ("where", "check") if not hasattr(asked, n)]:', "if lacks := []:", "launchers"),
    ("export", "if found.share < least:", "if False:", "export"),  # the gate
    ("export", "if ids != pair.prompt_ids and not names_control(", "if False and not names_control(", "export"),
    ("routing", "return sure is not None and sure >= c.calibration.threshold", "return sure is not None", "routing"),
    ("routing", "return binomial_tail(int((found < 0).sum()), len(found), promise.level)", "return binomial_tail(0, len(found), promise.level)", "routing"),  # a bound that sees no errors
    ("notebook", "if panel._painter.over.is_set():\n            return\n        folder", "if False:\n            return\n        folder", "notebook"),  # no picture follows the last one
    ("cli", 'if Path(job["folder"]).is_relative_to(run.path):', "if False:", "cli"),
    ("optimizer", "if e._input_keys is None or not len(e.inputs()):", "if False:", "optimizer/test_bad_input.py"),
    ("optimizer", "if plan.memory_needed > plan.memory_free:", "if False:", "optimizer"),
    ("optimizer", "if any(t is student for t in teachers):", "if False:", "optimizer/test_bad_input.py"),
]


def sources(notebook: dict) -> list[str]:
    return ["".join(c["source"]) for c in notebook["cells"]]


def place(root: Path, package: str, line: str) -> tuple[Path, int]:
    "The notebook and the cell that export `line`. Raises `LookupError` unless there is exactly one."
    found = []
    for path in sorted([*root.glob(f"nbs/{package}.ipynb"), *root.glob(f"nbs/{package}/*.ipynb")]):
        cells = sources(json.loads(path.read_text(encoding="utf-8")))
        found += [(path, i) for i, s in enumerate(cells) if s.startswith("#| export") for _ in range(s.count(line))]
    if len(found) != 1:
        raise LookupError(f"{package}: {line!r} is there {len(found)} times, not once")
    return found[0]


def run(command: list[str], root: Path, seconds: float = 600) -> str:
    "What the command says where it fails, the line that tells most; '' where it succeeds. Raises `TimeoutExpired`: a slow machine has noticed nothing."
    done = subprocess.run(command, cwd=root, env={**ENV, "PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=seconds)
    if not done.returncode:
        return ""
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith("FAILED ") or re.match(r"[\w.]*(Error|Exception|Refused|Stopped|Interrupt)\b", line)]
    return (telling or lines or [f"exit status {done.returncode}"])[-1][:160]


def noticed(root: Path, path: Path, made: dict, tests: str) -> tuple[str, str]:
    "Who notices the notebook `made` in place of `path`'s, `export`, `lesson`, `tests` or '' for nobody, and what was said."
    before = path.read_text(encoding="utf-8")
    asked = {"export": [str(BIN / "nbdev_export")], "lesson": lesson(path), "tests": [str(BIN / "python"), "-m", "pytest", "-q", "-x", *(f"tests/{t}" for t in tests.split())]}
    try:
        path.write_text(json.dumps(made), encoding="utf-8")
        for who, command in asked.items():
            if (who != "tests" or tests) and (said := run(command, root, 1800)):
                return who, said
        return "", ""
    finally:
        path.write_text(before, encoding="utf-8")


def lesson(path: Path) -> list[str]:
    return [str(BIN / "nbdev_test"), "--path", str(path), "--n_workers", "0"]


def broken(root: Path, package: str, line: str, becomes: str) -> tuple[Path, dict]:
    "The notebook's path and the notebook with `line` changed. Raises `LookupError` as `place` does."
    path, i = place(root, package, line)
    made = json.loads(path.read_text(encoding="utf-8"))
    made["cells"][i]["source"] = sources(made)[i].replace(line, becomes).splitlines(True)
    return path, made


def main(words: list[str]) -> int:
    chosen = [b for b in BREAKS if not words or any(w in b[0] or w in b[1] for w in words)]
    missed, whole = 0, {}
    with tempfile.TemporaryDirectory() as made:
        copy_tree(root := Path(made) / "bsft_nb")
        for package, line, becomes, tests in chosen:
            try:
                path, changed = broken(root, package, line, becomes)
                if path not in whole:  # a lesson that fails as it is notices nothing
                    whole[path] = run([str(BIN / "nbdev_export")], root) or run(lesson(path), root)
                who, said = ("", f"{path.name} fails without a break: {whole[path]}") if whole[path] else noticed(root, path, changed, tests)
            except (LookupError, subprocess.TimeoutExpired) as e:
                who, said = "", str(e)[:300]
            missed += not who
            print(f"{who or 'NOBODY':7} {package:10} {line.strip()[:90]!r} -> {becomes.strip()[:60]!r}\n{'':8}{said}", flush=True)
        shutil.rmtree(root)
    print(f"{len(chosen)} breaks, {len(chosen) - missed} noticed")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

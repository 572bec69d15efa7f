"""How good a small model becomes at a text classification task; the last line is one JSON object.

    python tests/bench/quality.py --data ../shared/data/banking77 [--rows 3000] [--epochs 4] [--quick]

`--data` is a folder with train.csv and test.csv, or one CSV, of which a tenth (at most 1,000 rows) is then kept for the test.
Columns are `text` and the other one, or the first two. It measures training: the labels are taken as given, with no
teacher. Training and answering go the package's own way: student format, `train`, the engine, answers restricted to the
labels. The first `--test` rows of the test are asked.
"""
import argparse
import csv
import json
import os
import random
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Literal

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import dspy

from bsft_nb.data.builder import Built, save_pairs
from bsft_nb.data.pairs import PairBuilder
from bsft_nb.engine.lm import student_lm
from bsft_nb.engine.predict import keep_format
from bsft_nb.models.student_adapter import adapter_state, fitting
from bsft_nb.models.targets import resolve_target
from bsft_nb.models.tokens import load_codec
from bsft_nb.run.folder import RunFolder


def examples(file: Path) -> list[dspy.Example]:
    "Rows of a CSV as examples with `text` and `label`."
    with open(file, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    text = "text" if "text" in rows[0] else list(rows[0])[0]
    label = next(c for c in rows[0] if c != text)
    return [dspy.Example(text=r[text], label=r[label]).with_inputs("text") for r in rows]


def load(data: Path, seed: int) -> tuple[list[dspy.Example], list[dspy.Example]]:
    "Examples to train on, in random order, and to test with, as they stand."
    if data.is_dir():
        train, test = examples(data / "train.csv"), examples(data / "test.csv")
    else:
        rows = random.Random(seed).sample(all_rows := examples(data), len(all_rows))
        n = min(1000, len(rows) // 10)
        train, test = rows[n:], rows[:n]
    return random.Random(seed).sample(train, len(train)), test


def chosen(train: list[dspy.Example], n: int) -> list[dspy.Example]:
    "`n` rows at most, of each label as many as possible alike."
    of_label = defaultdict(list)
    for e in train:
        of_label[e.label].append(e)
    turns = sorted((i, k) for rows in of_label.values() for i, k in enumerate(map(id, rows)))
    by_id = {id(e): e for e in train}
    return [by_id[k] for _, k in turns[:n]]


def fine_tune(folder: RunFolder, pairs, target, meta, **config) -> Path:
    "The student trained on `pairs`: the only place here that knows how the trainer is called."
    from bsft_nb.training.jobs import Job, TrainConfig
    from bsft_nb.training.trainer import choose, train

    save_pairs(Built(pairs, [], {}, []), folder / "pairs")
    job = Job(str(folder.path), "model", str(target.path), target.fingerprint, (pairs[0].predictor,), TrainConfig(**config), meta)
    train(job, folder.log, folder.stop_signal)
    return choose(job)


def accuracy(student: Path, signature, test: list[dspy.Example]) -> float:
    "Share of `test` that the student labels rightly; an answer that is no label is wrong."
    program = dspy.Predict(signature)
    program.set_lm(student_lm(student, temperature=0.0, cache=False))
    evaluate = dspy.Evaluate(devset=test, metric=lambda e, p, trace=None: e.label == p.label, num_threads=64, display_progress=False, max_errors=len(test) + 1)
    return sum(float(s) for _, _, s in evaluate(keep_format(program)).results) / len(test)


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--target", default="smollm2-135m")
    ask.add_argument("--rows", type=int, default=3000, help="to train on, at most")
    ask.add_argument("--test", type=int, default=300)
    ask.add_argument("--epochs", type=int, default=4)
    ask.add_argument("--bsize", type=int, default=16)
    ask.add_argument("--lr", type=float, default=3e-4)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--quick", action="store_true", help="64 rows, one epoch, 16 test rows: only whether it runs")
    args = ask.parse_args()
    if args.quick:
        args.rows, args.epochs, args.test = 64, 1, 16
    began = time.time()
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    train, test = load(args.data, args.seed)
    rows, test = chosen(train, args.rows), test[: args.test]
    labels = tuple(sorted({e.label for e in train}))
    fields = {"text": (str, dspy.InputField()), "label": (Literal[labels], dspy.OutputField())}
    signature = dspy.Signature(fields, "Say which label the text has.")
    target = resolve_target(args.target)
    codec = load_codec(target.path)
    adapter = fitting(codec.survives, lambda t: t in codec.tokenizer.get_vocab(), list(labels))
    pairs = PairBuilder(dspy.Predict(signature), adapter, codec).labelled(rows)
    tokens = sum(p.tokens for p in pairs)
    print(f"{len(pairs)} rows of {len(labels)} labels, {tokens / len(pairs):.0f} tokens each, {args.epochs} epochs", flush=True)
    meta = {"adapter": adapter_state(adapter), "max_tokens": 64}
    with tempfile.TemporaryDirectory(prefix="bsft-quality-") as work:
        folder = RunFolder(Path(work))
        folder.log.subscribe(progress(began))
        student = fine_tune(folder, pairs, target, meta, bsize=args.bsize, lr=args.lr, epochs=args.epochs, seed=args.seed, save_minutes=None)
        print(f"trained after {time.time() - began:.0f} s", flush=True)
        right = accuracy(student, signature, test)
    print(json.dumps({"accuracy": round(right, 4), "n_test": len(test), "train_rows": len(pairs), "seconds": round(time.time() - began)}))


def progress(began: float):
    "Prints a line of a training event every 20 seconds."
    last = [0.0]

    def say(event):
        if event.kind == "train" and time.time() - last[0] > 20:
            last[0] = time.time()
            print("step {step} of {steps}, loss {loss:.3f}".format(**event.data), f"{last[0] - began:.0f} s", flush=True)

    return say


if __name__ == "__main__":
    main()

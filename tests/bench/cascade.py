"""What a cascade sends on, scores and costs on a classification task; the last line is one JSON object.

    python tests/bench/cascade.py --data ../shared/data/banking77 [--outside ../shared/data/clinc150/oos_test.csv] [--rows 3000] [--retain 0.98] [--splits 20] [--quick]

The labels stand for an exact teacher. A student is trained as `quality.py` trains it; the rows of the test are answered
once, and split at random into rows to calibrate on and fresh rows, `--splits` times. Printed are how often the promise
held on the fresh rows, the share sent to the teacher, the share sent on of questions outside all labels (`--outside`),
and the overhead of routing: the time of a cascade that never asks the teacher over that of the student alone, call by
call in turns. `--quick` takes a small random model and made-up rows: it shows that the figures come out, not how good
they are.
"""
import argparse
import json
import os
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import dspy
import numpy as np

from bsft_nb import BootstrapFinetune
from bsft_nb.lessons import save_llama
from bsft_nb.routing.calibration import Calibration, Evidence, calibrate
from bsft_nb.routing.cascade import Cascade
from bsft_nb.routing.make import student_answers
from bsft_nb.routing.promise import Promise


def right(example, prediction, trace=None):
    return example.label == prediction.label


def made_up(n: int, seed: int) -> list[dspy.Example]:
    "Rows of a task that a small model learns in seconds."
    rng = random.Random(seed)
    rows = [(rng.choice(["red", "green", "blue"]), rng.sample("one two three four five".split(), 3)) for _ in range(n)]
    return [dspy.Example(text=" ".join([*words, colour]), label=colour).with_inputs("text") for colour, words in rows]


def read(args) -> tuple[list[dspy.Example], list[dspy.Example], list[dspy.Example]]:
    "Rows to train on, rows to split, and questions outside all labels."
    if args.quick:
        return made_up(200, 0), made_up(300, 1), [dspy.Example(text=f"{w} six six purple").with_inputs("text") for w in "abcdefgh"]
    from quality import chosen, examples, load

    train, test = load(args.data, args.seed)
    outside = [e for e in examples(args.outside)] if args.outside else []
    return chosen(train, args.rows), random.Random(args.seed).sample(test, min(len(test), args.test)), outside


def trained(args, train: list[dspy.Example], place: Path) -> dspy.Module:
    "The student: the labels as accepted traces, so that no teacher is asked."
    labels = tuple(sorted({e.label for e in train}))
    program = dspy.Predict(dspy.Signature("text -> label", "Say which of the labels fits.").with_updated_fields("label", type_=Literal[labels]))
    traces = [{"calls": [{"predictor": "self", "inputs": {"text": e.text}, "outputs": {"label": e.label}}], "kept": True} for e in train]
    (place / "traces.jsonl").write_text("".join(json.dumps(t) + "\n" for t in traces))
    target = save_llama(place / "llama") if args.quick else args.target
    settings = dict(bsize=8, lr=3e-3, epochs=6) if args.quick else dict(bsize=16, lr=2e-4, epochs=args.epochs, bf16=True, training=dict(schedule="cosine"))
    return BootstrapFinetune().compile(program, trainset=train, target=target, traces=place / "traces.jsonl", run_dir=place / "run", display=False, valset=[], **settings)


def overhead(compiled: dspy.Module, rows: list[dspy.Example], calibration: Calibration) -> dict:
    "Seconds of an answer, of the student alone and of a cascade that always takes it, in turns."
    own = Cascade(compiled, compiled, replace(calibration, threshold=-1.0))  # never asks the teacher
    took = {"student": [], "cascade": []}
    for e in [*rows[:5], *rows]:  # the first few warm up
        for name, program in (("student", compiled), ("cascade", own)):
            began = time.perf_counter()
            program(**e.inputs())
            took[name].append(time.perf_counter() - began)
    student, cascade = (statistics.median(took[n][5:]) for n in ("student", "cascade"))
    return {"student_seconds": student, "cascade_seconds": cascade, "overhead": cascade / student - 1}


def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--data", type=Path), ask.add_argument("--outside", type=Path), ask.add_argument("--quick", action="store_true")
    ask.add_argument("--target", default="smollm2-135m"), ask.add_argument("--rows", type=int, default=3000), ask.add_argument("--test", type=int, default=2000)
    ask.add_argument("--epochs", type=int, default=4), ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--retain", type=float, default=0.98), ask.add_argument("--splits", type=int, default=20), ask.add_argument("--timed", type=int, default=100)
    args = ask.parse_args()
    if not args.quick and args.data is None:
        ask.error("give --data, a folder with train.csv and test.csv, or --quick")
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    place = Path(tempfile.mkdtemp())
    train, rows, outside = read(args)
    compiled = trained(args, train, place)
    answers, heard = student_answers(compiled, rows, right, 16)
    student, promise = np.array([a.score or 0.0 for a in answers]), Promise("retain", args.retain)
    _, beyond = student_answers(compiled, outside, None, 16) if outside else ([], [])
    kept, sent, score, far = [], [], [], []
    for seed in range(args.splits):
        order = np.random.default_rng(seed).permutation(len(rows))
        a, b = order[: 2 * len(rows) // 3], order[2 * len(rows) // 3 :]
        c = calibrate(promise, Evidence([heard[i] for i in a], student[a], np.ones(len(a))))
        sure = np.array([-np.inf if heard[i] is None else c.scale.of(heard[i]) for i in b]) >= c.threshold
        score.append(float(np.where(sure, student[b], 1.0).mean()))
        kept.append(score[-1] >= args.retain), sent.append(float(1 - sure.mean()))
        far += [float(np.mean([h is None or c.scale.of(h) < c.threshold for h in beyond]))] if beyond else []
    whole = calibrate(promise, Evidence(heard, student, np.ones(len(rows))))
    print(f"signal {whole.scale.signal}, AUROC {whole.auroc}; promise kept on fresh rows in {sum(kept)} of {args.splits} splits")
    found = {"task": "made up" if args.quick else args.data.name, "rows": len(train), "n": len(rows), "student": float(student.mean()), "retain": args.retain, "kept": sum(kept), "splits": args.splits,
             "sent": float(np.mean(sent)), "score": float(np.mean(score)), "outside_sent": float(np.mean(far)) if far else None, "auroc": whole.auroc, **overhead(compiled, rows[: args.timed], whole)}
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}))


if __name__ == "__main__":
    main()

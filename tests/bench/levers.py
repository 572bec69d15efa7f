"""What each lever of the teacher and the training brings, switched on alone against none; the last line is one JSON object.

    python tests/bench/levers.py --data ../shared/data/banking77 [--levers accepted hints equal spread uncertain auto] [--rows 400] [--calls 400] [--seeds 0 1 2] [--quick]

`--data` as for `quality.py`. The teacher is made of the labels: it is right on most texts, wrong on the same hard ones each
time it is asked without a hint, and has several ways to reason, so that every lever has something to do. A figure here says
what a lever does with such a teacher at the same cap on calls, not what it does with yours. For each lever and the
`baseline`: the mean score of the tuned student on test rows over the seeds, its 95% interval over rows, the lowest and the
highest seed, and the teacher's calls. `spread` and `uncertain` choose among the rows, so they need `--calls` below `--rows`;
the baseline takes them as they come, which is by turns of the labels and harder to beat than random. A difference that is smaller than the seeds lie apart is noise.
"""
import argparse
import json
import os
import tempfile
import time
import zlib
from pathlib import Path
from typing import Literal

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import dspy
import numpy as np
from dspy.lm15 import Message, Response, Usage
from quality import chosen, load

from bsft_nb import BootstrapFinetune
from bsft_nb.results.verdict import paired_interval

LEVERS = {  # arguments of the constructor, arguments of compile
    "baseline": ({}, {}),
    "accepted": ({"max_rounds": 4, "accepted": 2}, {}),
    "hints": ({"hints": "label"}, {}),
    "equal": ({"max_rounds": 4, "accepted": 2}, {"per_example": "equal"}),
    "spread": ({"order": "spread"}, {}),
    "uncertain": ({"order": "uncertain"}, {}),
    "auto": ({}, {"lr": "auto", "epochs": "auto", "bsize": "auto"}),
}


class Teacher:
    "Answers from the labels; texts whose hash says so are hard: it errs there, unless the instructions show the label."

    def __init__(self, of: dict[str, str], labels: tuple[str, ...], hard: float):
        self.of, self.labels, self.hard, self.calls = of, labels, hard, 0

    def complete(self, request) -> Response:
        self.calls += 1
        asked = request.messages[-1].text
        text = asked.partition("[[ ## text ## ]]")[2].partition("Respond with")[0].strip()
        told, turn = "Hint, for you alone" in str(request), self.calls
        number = zlib.crc32(text.encode()) % 1000
        label = self.of[text] if told or number >= 1000 * self.hard else self.labels[number % len(self.labels)]
        reasoning = ("It says so.", "The words point there.", "Nothing else fits.")[turn % 3]
        said = f"[[ ## reasoning ## ]]\n{reasoning}\n\n[[ ## label ## ]]\n{label}\n\n[[ ## completed ## ]]"
        return Response(id=None, model=request.model, message=Message.assistant(said), finish_reason="stop", usage=Usage(input_tokens=len(asked) // 4, output_tokens=20))


def right(example, prediction, trace=None) -> bool:
    return example.label == prediction.label


def measured(name: str, seed: int, rows, test, signature, labels, args) -> tuple[np.ndarray, int]:
    "Scores of the tuned student on the test rows, and how often the teacher was asked."
    made, asked = LEVERS[name]
    engine = Teacher({e.text: e.label for e in rows}, labels, args.hard)
    lm = dspy.LM("scripted/teacher", engine=engine, cache=False)
    with tempfile.TemporaryDirectory(prefix="bsft-levers-") as home:
        os.environ["BSFT_HOME"] = home
        tp = BootstrapFinetune(right, dict(lm=lm), max_teacher_calls=args.calls, **made)
        settings = {"lr": args.lr, "epochs": args.epochs, "bsize": 16, **asked}
        program = tp.compile(dspy.ChainOfThought(signature), trainset=rows, valset=[], target=args.target, seed=seed, launch="inline", display=False, **settings)
        evaluate = dspy.Evaluate(devset=test, metric=right, num_threads=64, display_progress=False, max_errors=len(test) + 1)
        return np.array([float(s) for _, _, s in evaluate(program).results]), engine.calls


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--levers", nargs="+", choices=[n for n in LEVERS if n != "baseline"], default=[n for n in LEVERS if n != "baseline"])
    ask.add_argument("--target", default="smollm2-135m")
    ask.add_argument("--rows", type=int, default=400)
    ask.add_argument("--calls", type=int, default=400, help="of the teacher, the same for all")
    ask.add_argument("--hard", type=float, default=0.25, help="share of the texts that the teacher gets wrong")
    ask.add_argument("--test", type=int, default=300)
    ask.add_argument("--epochs", type=int, default=4)
    ask.add_argument("--lr", type=float, default=3e-4)
    ask.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    ask.add_argument("--quick", action="store_true", help="48 rows, one epoch, 8 test rows, one seed: only whether it runs")
    args = ask.parse_args()
    if args.quick:
        args.rows, args.calls, args.epochs, args.test, args.seeds = 48, 48, 1, 8, args.seeds[:1]
    began = time.time()
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    train, test = load(args.data, 0)
    rows, test = chosen(train, args.rows), test[: args.test]
    labels = tuple(sorted({e.label for e in train}))
    signature = dspy.Signature({"text": (str, dspy.InputField()), "label": (Literal[labels], dspy.OutputField())}, "Say which label the text has.")
    found = {}
    for name in ("baseline", *args.levers):
        scores, calls = zip(*(measured(name, seed, rows, test, signature, labels, args) for seed in args.seeds))
        means = [float(s.mean()) for s in scores]
        interval = paired_interval(np.mean(scores, 0)[:, None], lambda m: m[:, 0])
        found[name] = {"score": round(float(np.mean(means)), 4), "interval": [round(x, 4) for x in interval], "seeds": [round(min(means), 4), round(max(means), 4)], "calls": max(calls)}
        print(name, found[name], f"{time.time() - began:.0f} s", flush=True)
    print(json.dumps({**found, "seconds": round(time.time() - began)}))


if __name__ == "__main__":
    main()

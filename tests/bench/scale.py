"""Several workers against one, a cluster that loses workers, and the growth of the stages; the last line is one JSON object.

    python tests/bench/scale.py [--quick] [--target smollm2-135m] [--only workers|growth|ray] [--bsize 32] [--sizes 1000,10000,100000]

`loss_rel_err_2_workers`: the largest relative difference between the losses of 2 workers and of 1, over 20 optimizer steps
in fp32: rows of mixed lengths, two predictors, 2 steps accumulated, full fine-tuning and LoRA, packed and padded batches,
of a small model with random weights. `speed_2_workers`: rows a second of the target with 2 workers of 1 thread, divided by
those of 1 worker with 2 threads, between the first and the last step: starting the workers is not counted. Each worker
reads the shared beginning of the prompts once a batch, so two read it twice: the smaller the batch, the more that costs.
The batch is --bsize rows (32; --quick: 8), and 320 rows are trained (--quick: 48).

`growth`: seconds and peak memory (MB) of each stage with a teacher that answers at once, for 1,000, 10,000 and 100,000
examples (--quick: 300, 1,000 and 3,000), each size in a process of its own; `growth_exponents`: those of the time
between the largest two sizes; `growth_mb`: what the highest peak grows by between them. The trainer's reading of
the rows is one of the stages, its steps are not. A tenth of the examples are in the table.

Where Ray is installed: `ray_kill`: does a training with a worker killed at three random moments end with the losses of
one that nobody disturbs? `repeated_calls`: calls of a teacher that were made again though their answer had come back,
in a bootstrap on two nodes one of which is killed; `rows_in_out`: rows of `predict` with a worker killed.
"""
import argparse
import importlib.util
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.append(str(Path(__file__).parents[1]))


def trained(place, name, target, pairs, launcher, **config):
    "Train `pairs`; the run, the job, and the losses of all steps."
    from training_jobs import losses

    from bsft_nb.data.builder import Built, save_pairs
    from bsft_nb.launchers.launch import launch
    from bsft_nb.models.targets import check_folder
    from bsft_nb.run.folder import RunFolder
    from bsft_nb.training.jobs import Job, TrainConfig

    run = RunFolder(place / name)
    save_pairs(Built(pairs, [], {}, []), run / "pairs")
    predictors = tuple(dict.fromkeys(p.predictor for p in pairs))
    job = Job(str(run.path), "model", str(target), check_folder(target, "t").fingerprint, predictors, TrainConfig(save_minutes=None, **config), {"max_tokens": 9})
    launch([job], run, launcher)
    return run, losses(job)


def mixed_pairs(n, vocabulary=200):
    "Rows of two predictors whose own parts have from 1 to 60 tokens."
    from bsft_nb.data.pairs import Pair

    draw = random.Random(0)

    def ids(least, most):
        return [draw.randrange(10, vocabulary) for _ in range(draw.randint(least, most))]

    begin = {"a": ids(40, 40), "b": ids(15, 15)}
    return [Pair(f"e{i}", name, "", "", 1.0, begin[name] + ids(1, 60), [*ids(1, 12), 0]) for i in range(n) for name in ("ab"[i % 2],)]


def loss_error(place):
    "The largest relative difference between the losses of two workers and of one, by how they train."
    from bsft_nb.launchers.torchrun import TorchRun
    from bsft_nb.lessons import save_llama

    target, pairs = save_llama(place / "llama"), mixed_pairs(156)  # 10 steps of 16 rows an epoch; the last has 12
    found = {}
    for name, config in (("full", {}), ("lora", {"peft": True}), ("padded", {"shared_prefix": False})):
        settings = dict(bsize=8, accumsteps=2, lr=1e-3, epochs=2, **config)
        one, two = (trained(place, f"{name}-{n}", target, pairs, TorchRun(workers=n), **settings)[1] for n in (1, 2))
        assert len(one) == len(two) == 20
        found[name] = max(abs(a - b) / abs(a) for a, b in zip(one, two))
        print(f"{name:7s} largest relative difference of 20 losses: {found[name]:.1e}", flush=True)
    return found


def rows_a_second(run, bsize):
    "Between the first step that was told and the last."
    told = [(e.t, e.data["step"]) for e in run.log.read() if e.kind == "train"]
    (began, first), (ended, last) = told[0], told[-1]
    return bsize * (last - first) / (ended - began)


def speed(place, name, quick, bsize):
    "Rows a second with 1 worker of 2 threads, and with 2 of 1."
    from train import demo_pairs, student

    from bsft_nb.launchers.torchrun import TorchRun
    from bsft_nb.models.targets import resolve_target

    target = resolve_target(name)
    _, pairs = demo_pairs(target, student, mixed=True)
    pairs, found = pairs[: 48 if quick else 320], {}
    for workers, threads in ((1, 2), (2, 1)):
        os.environ["OMP_NUM_THREADS"] = str(threads)
        run, _ = trained(place, f"speed-{workers}", target.path, pairs, TorchRun(workers=workers), bsize=bsize, lr=1e-5)
        found[workers] = rows_a_second(run, bsize)
        print(f"{workers} worker{'s' * (workers > 1)} of {threads} thread{'s' * (threads > 1)}: {found[workers]:.2f} rows/s", flush=True)
    return found


class Stages:
    "Seconds and peak memory of stages, one after another."

    def __init__(self):
        self.found = {}

    def run(self, name, work):
        "What `work()` gives."
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        began = time.perf_counter()
        made = work()
        seconds = time.perf_counter() - began
        peak = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        self.found[name] = {"s": round(seconds, 2), "mb": round(peak / 1024)}
        print(f"{name:10s} {seconds:8.2f} s {peak / 1024:8.0f} MB", file=sys.stderr, flush=True)
        return made


def grow(n, place, target):
    "All stages of a compile with `n` examples, but for the steps of the training."
    import dspy

    from bsft_nb.data.builder import build, held_out, save_pairs
    from bsft_nb.data.pairs import PairBuilder
    from bsft_nb.lessons import teacher_lm
    from bsft_nb.models.targets import resolve_target
    from bsft_nb.models.tokens import load_codec
    from bsft_nb.optimizer.validate import fit_adapter
    from bsft_nb.results.evaluate import Answer
    from bsft_nb.results.report import write_report
    from bsft_nb.results.table import write_table
    from bsft_nb.results.table_file import compare_rows
    from bsft_nb.run.folder import RunFolder
    from bsft_nb.teacher.bootstrap import TraceBootstrapper
    from bsft_nb.teacher.keys import example_key
    from bsft_nb.training.jobs import Job, TrainConfig
    from bsft_nb.training.packing import BatchOrder
    from bsft_nb.training.trainer import fitting_pairs
    from bsft_nb.training.workers import Silent

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    stages, run, model = Stages(), RunFolder(place / "run"), resolve_target(target)
    codec, program = load_codec(model.path), dspy.Predict("question -> answer")
    draw = random.Random(0)
    words = "parcel refund login late where please order invoice broken screen account password delivery address cancel".split()
    trainset = [dspy.Example(question=f"{i}: {' '.join(draw.choices(words, k=20))}?").with_inputs("question") for i in range(n)]
    boot = TraceBootstrapper(metric=lambda e, p, trace=None: True, teacher_settings={"lm": teacher_lm(lambda text: {"answer": text.split()[-9]})})
    builder = PairBuilder(program, fit_adapter(codec, program, target), codec)

    def bootstrap():
        traces = boot.collect([program], trainset, place / "ledger.jsonl", 2)
        traces.save(run / "traces.jsonl")
        return traces

    def train_reads():
        job = Job(str(run.path), "model", str(model.path), model.fingerprint, ("self",), TrainConfig(epochs=1), {"max_tokens": 9})
        rows, held = fitting_pairs(job, codec, Silent())
        job.key(rows, held)
        return sum(1 for _ in BatchOrder(rows, 12, 0, None)), len(rows) + len(held)

    traces = stages.run("bootstrap", bootstrap)
    keys = stages.run("split", lambda: held_out(trainset, traces=traces))
    built = stages.run("pairs", lambda: build(builder, traces, keys))
    stages.run("save", lambda: save_pairs(built, run / "pairs"))
    batches, rows = stages.run("read", train_reads)
    assert len(traces) == n and rows == len(built.train) + len(built.held) and batches
    held = [e for e in trainset if example_key(e) in keys]
    answers = [Answer({"answer": "late"}, [], 1.0, None, 0.1, 20, 0.0) for _ in held]
    table = stages.run("table", lambda: write_table(run / "compare.jsonl", compare_rows(held, {c: answers for c in ("teacher", "tuned", "untuned")}, run.id)))
    stages.run("report", lambda: write_report(run, table))
    return stages.found


def growth(sizes, target):
    "The stages for each of `sizes`, and how they grow between the largest two."
    found = {}
    for n in sizes:
        with tempfile.TemporaryDirectory() as made:
            command = [sys.executable, __file__, "--grow", str(n), "--place", made, "--target", target]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "BSFT_HOME": f"{made}/home"})
        found[n] = json.loads(done.stdout.splitlines()[-1])
        print(f"{n} examples: {found[n]}", flush=True)
    small, large = sorted(sizes)[-2:]
    slope = {k: round(math.log(max(found[large][k]["s"], 0.01) / max(found[small][k]["s"], 0.01)) / math.log(large / small), 2) for k in found[large]}
    peaks = {n: max(stage["mb"] for stage in found[n].values()) for n in (small, large)}
    return {"growth": found, "growth_exponents": slope, "growth_mb": peaks[large] - peaks[small]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--target", default="smollm2-135m")
    parser.add_argument("--bsize", type=int, help="rows of a batch whose speed is measured; 32, with --quick 8")
    parser.add_argument("--only", choices=["workers", "growth", "ray"])
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], help="numbers of examples for growth")
    parser.add_argument("--grow", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.grow:
        return print(json.dumps(grow(args.grow, args.place, args.target)))
    began, figures = time.time(), {}
    with tempfile.TemporaryDirectory() as made:
        os.environ["BSFT_HOME"] = str(Path(made) / "home")
        if args.only in (None, "workers"):
            error, fast = loss_error(Path(made)), speed(Path(made), args.target, args.quick, bsize := args.bsize or (8 if args.quick else 32))
            figures |= {"bsize": bsize, "loss_rel_err_2_workers": float(f"{max(error.values()):.2e}"), "speed_2_workers": round(fast[2] / fast[1], 3), "rows_per_s": {k: round(v, 2) for k, v in fast.items()}}
        if args.only in (None, "growth"):
            figures |= growth(args.sizes or ([300, 1_000, 3_000] if args.quick else [1_000, 10_000, 100_000]), args.target)
        if args.only == "ray" or args.only is None and importlib.util.find_spec("ray"):
            from scale_ray import kills

            figures |= kills(Path(made))
    print(json.dumps({"bench": "scale", **figures, "seconds": round(time.time() - began)}))


if __name__ == "__main__":
    main()

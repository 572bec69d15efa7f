"""Several workers against one: the same losses, and how fast; the last line is one JSON object.

    python tests/bench/scale.py [--quick] [--target smollm2-135m]

`loss_rel_err_2_workers`: the largest relative difference between the losses of 2 workers and of 1, over 20 optimizer steps
in fp32: rows of mixed lengths, two predictors, 2 steps accumulated, full fine-tuning and LoRA, packed and padded batches,
of a small model with random weights. `speed_2_workers`: rows a second of the target with 2 workers of 1 thread, divided by
those of 1 worker with 2 threads, between the first and the last step: starting the workers is not counted. Without
--quick the batch is 16 rows and 20 steps are timed, with it 8 rows and 6 steps.
"""
import argparse
import json
import os
import random
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


def speed(place, name, quick):
    "Rows a second with 1 worker of 2 threads, and with 2 of 1."
    from train import demo_pairs, student

    from bsft_nb.launchers.torchrun import TorchRun
    from bsft_nb.models.targets import resolve_target

    target, bsize, steps = resolve_target(name), *((8, 6) if quick else (16, 20))
    _, pairs = demo_pairs(target, student, mixed=True)
    pairs, found = pairs[: bsize * steps], {}
    for workers, threads in ((1, 2), (2, 1)):
        os.environ["OMP_NUM_THREADS"] = str(threads)
        run, _ = trained(place, f"speed-{workers}", target.path, pairs, TorchRun(workers=workers), bsize=bsize, lr=1e-5)
        found[workers] = rows_a_second(run, bsize)
        print(f"{workers} worker{'s' * (workers > 1)} of {threads} thread{'s' * (threads > 1)}: {found[workers]:.2f} rows/s", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--target", default="smollm2-135m")
    args = parser.parse_args()
    began = time.time()
    with tempfile.TemporaryDirectory() as made:
        os.environ["BSFT_HOME"] = str(Path(made) / "home")
        error = loss_error(Path(made))
        fast = speed(Path(made), args.target, args.quick)
    figures = {"loss_rel_err_2_workers": float(f"{max(error.values()):.2e}"), "speed_2_workers": round(fast[2] / fast[1], 3)}
    print(json.dumps({"bench": "scale", **figures, "rows_per_s": {k: round(v, 2) for k, v in fast.items()}, "seconds": round(time.time() - began)}))


if __name__ == "__main__":
    main()

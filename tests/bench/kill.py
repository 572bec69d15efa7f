"""SIGKILL a detached training at random moments, go on each time, and compare it with one that nobody killed.

    python tests/bench/kill.py [--kills 20] [--quick]

The model is small and has dropout, so that random numbers must come back too. Each process is killed at a random
moment: most after a random number of steps and a random fraction of a second, one in five while it is still starting.
The last line is a JSON object; `loss_diff` is the largest difference between the losses of any step, `final_diff` of the last.
"""
import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
from training_jobs import a_job, losses, same, weights, with_dropout

from bsft_nb.launchers.launch import launch
from bsft_nb.run.presence import alive
from bsft_nb.training.checkpoints import newest
from bsft_nb.training.launcher import Died


def kill_later(run, job, rng, share):
    "A thread that kills the next process of `run` at a random moment, after at most about `share` steps."
    before, last = run.trainer.get("pid"), newest(job.checkpoints)
    goal = (last.step if last else 0) + rng.uniform(0, share)

    def body():
        while run.trainer.get("pid") in (None, before):
            time.sleep(0.005)
        if rng.random() < 0.2:
            time.sleep(rng.uniform(0, 3))
        else:
            while alive(run.trainer) and not ((c := newest(job.checkpoints)) and c.step >= goal and c != last):
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.3))
        if alive(run.trainer):
            os.kill(run.trainer["pid"], signal.SIGKILL)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="4 kills")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    kills, rng = 4 if args.quick else args.kills, random.Random(args.seed)
    base = Path(tempfile.mkdtemp())
    target = with_dropout(base / "model")
    settings = dict(n=80, held=0, bsize=4, epochs=5 * kills, save_steps=7)  # 100 steps for each kill
    whole, run = a_job(base, target, "whole", **settings)
    began = time.time()
    launch([whole], run)
    job, run = a_job(base, target, "killed", **settings)
    died, steps = 0, []
    while died < kills:
        thread = kill_later(run, job, rng, 60)
        try:
            launch([job], run, "process")
            break  # it came to its end first
        except Died:
            died += 1
            last = newest(job.checkpoints)
            steps.append(last.step if last else 0)
            print(f"kill {died}: newest whole checkpoint at step {steps[-1]}", flush=True)
        thread.join()
    if died == kills:
        launch([job], run, "process")
    a, b = losses(job), losses(whole)
    result = {
        "kills": died,
        "steps": len(b),
        "steps_killed": len(a),
        "final_diff": abs(a[-1] - b[-1]),
        "loss_diff": max(abs(x - y) for x, y in zip(a, b)),
        "same_weights": same(weights(job.student), weights(whole.student)),
        "checkpoints_at_kills": steps,
        "seconds": round(time.time() - began, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""How long the first answer of a finished run takes in a fresh process, and what a compile takes beside teacher and training. Last line: one JSON object.

    python tests/bench/first.py              # SmolLM2-135M, three processes; a minute on two quiet cores
    python tests/bench/first.py --quick      # one process
    python tests/bench/first.py --profile    # also: where the time goes, by function and by import

- `first_answer_s`: `bsft_nb.load` of a run with a 135M student and the first call of its program, in a fresh process, after
  `import dspy, torch, transformers`, which is given as `imports_s`; `load_s` is the part until `load` returns, and
  `model_class_s` what transformers takes of that to import the class of the model, which it does at the first use only
- `second_answer_s`: the same call with another input
- `overhead_s`: a compile of five examples with a scripted teacher and a tiny model, one epoch, `launch="inline"`, in a process that
  has compiled before: everything that is not teacher or model, whose own time is some hundredths of a second
- `first_compile_s`: the compile before, which imports and makes what a process needs once
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

CALL = {"ticket": "Where is my parcel? The app says delivered.", "team": "shipping"}


def first_answer(run: str) -> dict:
    "What the fresh process measures."
    began = time.perf_counter()
    import dspy
    import torch
    import transformers  # noqa: F401

    imported = time.perf_counter()
    from transformers import LlamaForCausalLM  # noqa: F401

    known = time.perf_counter()
    import bsft_nb
    from bsft_nb.demo.tickets import Triage

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    program = bsft_nb.load(run, Triage())
    loaded = time.perf_counter()
    program.route(ticket=CALL["ticket"])
    answered = time.perf_counter()
    program.route(ticket="My invoice is wrong.")
    again = time.perf_counter()
    return {"imports_s": imported - began, "model_class_s": known - imported, "load_s": loaded - imported, "first_answer_s": answered - imported, "second_answer_s": again - answered, "threads": torch.get_num_threads()}


def profiled(run: str):
    "Where the first answer's time goes, in all threads."
    import cProfile
    import pstats
    import threading

    import dspy  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    import bsft_nb.engine.scheduler as scheduler

    served = scheduler.Scheduler.run
    profiles = [cProfile.Profile()]

    def run_profiled(self):
        threading.current_thread().profile = profile = cProfile.Profile()
        profiles.append(profile)
        profile.runcall(served, self)

    scheduler.Scheduler.run = run_profiled
    profiles[0].enable()
    import bsft_nb
    from bsft_nb.demo.tickets import Triage

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    program = bsft_nb.load(run, Triage())
    program.route(ticket=CALL["ticket"])
    profiles[0].disable()
    engine = program.route.lm.engine
    engine.close()
    time.sleep(1)
    for profile in profiles:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(60)


def overhead() -> dict:
    "Seconds of two compiles on a tiny model, in this process."
    import dspy

    from bsft_nb.lessons import (
        SHOUTS,
        Shout,
        apart,
        is_loud,
        save_llama,
        shouting_teacher,
    )
    from bsft_nb.optimizer.teleprompter import BootstrapFinetune

    place, took, program = apart(), [], Shout()
    target = save_llama(place / "llama")
    with dspy.context(lm=shouting_teacher()):
        for some in (SHOUTS[:5], SHOUTS[5:]):
            began = time.perf_counter()
            BootstrapFinetune(metric=is_loud).compile(program, trainset=some, valset=some[:2], target=target, epochs=1, bsize=4, launch="inline")
            took.append(time.perf_counter() - began)
    return {"first_compile_s": took[0], "overhead_s": took[1]}


def fresh(*asked: str, **environment: str) -> subprocess.CompletedProcess:
    "This file in a fresh process."
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])), **environment}
    return subprocess.run([sys.executable, __file__, *asked], capture_output=True, text=True, env=env, check=True)


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--quick", action="store_true")
    ask.add_argument("--profile", action="store_true")
    ask.add_argument("--made", help="measure this run, in this process")
    ask.add_argument("--overhead", action="store_true", help="measure compiles, in this process")
    args = ask.parse_args()
    if args.overhead:
        return print(json.dumps(overhead()))
    if args.made:
        return profiled(args.made) if args.profile else print(json.dumps(first_answer(args.made)))
    from serve import make_run

    with tempfile.TemporaryDirectory() as place:
        os.environ["BSFT_HOME"] = str(Path(place) / "home")
        run = str(make_run(Path(place), "smollm2-135m").path)
        found = [json.loads(fresh("--made", run).stdout.splitlines()[-1]) for _ in range(1 if args.quick else 3)]
        if args.profile:
            print(fresh("--made", run, "--profile").stdout)
        found = {k: statistics.median(f[k] for f in found) for k in found[0]}
        found |= json.loads(fresh("--overhead").stdout.splitlines()[-1])
    print(json.dumps({k: round(v, 2) for k, v in found.items()} | {"load_average": [round(x, 1) for x in os.getloadavg()]}))


if __name__ == "__main__":
    main()

"""Training and answering while other processes want the same cores. The last line is one JSON object.

    python tests/bench/neighbour.py            # three minutes on two cores
    python tests/bench/neighbour.py --quick    # a minute and a half

A training in a process of its own and an engine that eight threads ask, each alone and both at once (`both`), with no
other process that computes, with one and with three. Each is there twice: as they come, and with `GOMP_SPINCOUNT=300000`,
GNU OpenMP's own value, as a user's setting, which then wins: `spinning`. All processes live all the time; those that are not measured
are stopped (SIGSTOP), and those that are take turns, because a machine's speed moves.

- `train`, `engine`: by number of busy processes, milliseconds of a step, and answers a second
- `step_beside_one`, `answers_beside_one`: how many times slower with one busy process than with none; `spinning_…` likewise
- `quiet_step`, `quiet_answers`: time as they come over time with spinning threads, where nothing else runs: above 1 is slower
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from bsft_nb.data.builder import Built, save_pairs
from bsft_nb.data.pairs import Pair
from bsft_nb.launchers.process import Process
from bsft_nb.lessons import CHAT, save_llama
from bsft_nb.models.neighbours import SETTINGS
from bsft_nb.models.targets import check_folder
from bsft_nb.run.folder import RunFolder
from bsft_nb.training.jobs import Job, TrainConfig

SPINNING = {"GOMP_SPINCOUNT": "300000"}
MODES = {"train": ["train"], "engine": ["engine"], "both": ["train", "engine"]}


def training(place, target, own):
    "A training that goes on for as long as it is let: its process, and what gives the times at which steps were told, with the number of each (not every step is told)."
    rows = [Pair(f"e{i}", "p", "", "", 1.0, [20 + j % 200 for j in range(i % 7, 70 + i % 7)], [100 + i % 7, 90, 90, 0]) for i in range(512)]
    run = RunFolder(place / f"run-{len(own)}")
    save_pairs(Built(rows, [], {}, []), run / "pairs")
    job = Job(str(run.path), "model", str(target), check_folder(target, "t").fingerprint, ("p",), TrainConfig(bsize=8, lr=1e-5, epochs=1000, save_minutes=None), {"max_tokens": 9}, False)
    job.save()
    os.environ.update(own)
    process = Process().start(run, [job], None).process
    for name in own:
        del os.environ[name]
    return process, lambda: [(e.t, e.data["step"]) for e in run.log.read() if e.kind == "train"]


def engine(place, target, own):
    "An engine that eight threads keep busy, in a process of its own: as `training`, of answers."
    out = place / f"answers-{len(own)}"
    process = subprocess.Popen([sys.executable, __file__, "--answer", str(target), str(out)], env={**os.environ, **own})
    return process, lambda: [(float(t), n) for n, t in enumerate(out.read_text().split()[:-1])] if out.exists() else []


def answer(target, out):
    "Ask for ever; write down when each answer came."
    from dspy.lm15 import Config, Message, Request

    from bsft_nb.engine.lm import StudentEngine

    asked, lock = StudentEngine.at(target), threading.Lock()
    with open(out, "a", buffering=1) as f:

        def ask(n):
            while True:
                n += 8
                asked.complete(Request(model="m", system="Say what it is. " * 20, messages=(Message.user(f"What is number {n}?"),), config=Config(max_tokens=16)))
                with lock:
                    f.write(f"{time.time()}\n")

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()


def busy(n):
    "`n` processes that compute."
    return [subprocess.Popen([sys.executable, "-c", "import time; ends = time.monotonic() + 120\nwhile time.monotonic() < ends: pass"]) for _ in range(n)]


def enough(told, seconds):
    "Do these tell how fast it goes? Answers come in bursts."
    return len(told) > 3 and told[-1][0] - told[0][0] > 0.6 * seconds


def window(at_work, neighbours, seconds):
    "Let processes work beside so many busy ones; returns when the window begins, after they have got used to it, and when it ends: when each has told enough, or after half a minute."
    others = busy(neighbours)
    for p, _ in at_work:
        p.send_signal(signal.SIGCONT)
    time.sleep(1.5)
    began = time.time()
    time.sleep(seconds)
    while time.time() - began < 30 and not all(enough([x for x in told() if x[0] > began], seconds) for _, told in at_work):
        time.sleep(0.2)
    ended = time.time()
    for p, _ in at_work:
        p.send_signal(signal.SIGSTOP)
    for p in others:
        p.kill()
        p.wait()
    return began, ended


def seconds_each(told, windows, seconds):
    "Mean seconds of one within the windows; `None` where none tells enough."
    gaps = [(inside[-1][0] - inside[0][0], inside[-1][1] - inside[0][1]) for begin, end in windows if enough(inside := [x for x in told if begin <= x[0] <= end], seconds)]
    return sum(g for g, _ in gaps) / sum(n for _, n in gaps) if gaps else None


def measured(place, rounds, seconds):
    "(mode, neighbours, spinning?, what) → seconds of a step, or of an answer."
    target = save_llama(place / "llama", CHAT, 576, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=9, num_key_value_heads=3)
    made = {(what, bool(own)): begin(place, target, own) for own in ({}, SPINNING) for what, begin in (("train", training), ("engine", engine))}
    try:
        for (what, _), (process, times) in made.items():  # all are loaded and warm, one after another
            while len(times()) < 3:
                assert process.poll() is None, f"{what} has ended"
                time.sleep(0.1)
            process.send_signal(signal.SIGSTOP)
        windows = {}
        for _ in range(rounds):
            for mode, whats in MODES.items():
                for neighbours in (0, 1, 3):
                    for spinning in (False, True):
                        windows.setdefault((mode, neighbours, spinning), []).append(window([made[w, spinning] for w in whats], neighbours, seconds))
        return {(*key, what): seconds_each(made[what, key[2]][1](), found, seconds) for key, found in windows.items() for what in MODES[key[0]]}
    finally:
        for process, _ in made.values():
            process.kill()


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--quick", action="store_true")
    ask.add_argument("--answer", nargs=2)
    args = ask.parse_args()
    if args.answer:
        return answer(*args.answer)
    for name in SETTINGS:
        os.environ.pop(name, None)
    if os.environ.pop("OMP_NUM_THREADS", None):
        print("OMP_NUM_THREADS is set: left out, with one thread for a computation there is nothing to measure", flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        found = measured(Path(place), 1 if args.quick else 2, 2.5 if args.quick else 4)
    for (mode, neighbours, spinning, what), each in found.items():
        shown = "nothing came" if each is None else f"{each * 1000:.0f} ms a step" if what == "train" else f"{1 / each:.1f} answers/s"
        print(f"{mode}, {neighbours} busy{', spinning' * spinning}: {shown}", flush=True)

    def ratio(a, b):
        return round(found[a] / found[b], 2) if found[a] and found[b] else None

    figures = {mode: {what: {n: each and round(each * 1000 if what == "train" else 1 / each, 1) for (m, n, s, w), each in found.items() if (m, s, w) == (mode, False, what)} for what in whats} for mode, whats in MODES.items()}
    for what, word in (("train", "step"), ("engine", "answers")):
        for spinning, name in ((False, ""), (True, "spinning_")):
            figures[f"{name}{word}_beside_one"] = ratio((what, 1, spinning, what), (what, 0, spinning, what))
        figures[f"quiet_{word}"] = ratio((what, 0, False, what), (what, 0, True, what))
    print(json.dumps({**figures, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "load_average": [round(x, 1) for x in os.getloadavg()]}))


if __name__ == "__main__":
    main()

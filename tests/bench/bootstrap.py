"""Bootstrapping against a real HTTP teacher on loopback, killed, and with 100,000 attempts. The last line is one JSON object.

wall_vs_ideal: 400 examples, 16 threads, 200 ms a call: seconds of `collect` by 400 · 0.2 / 16. Start-up (first call: client
  library, connection) is one call before the clock, given apart as `startup_s`.
vs_bootstrapfewshot: seconds of `dspy.BootstrapFewShot` (sequential), same examples, same server, by ours.
repeated_calls: a process that bootstraps a two-predictor program is killed with SIGKILL at 10 random moments. A call is
  completed when its answer has come back from the LM into the program; it is repeated if the server sees it again after that.
  `lost_in_flight` are requests that the server saw twice since the kill came before their answer was back; of these, `sent_at_the_kill`
  had their answer sent but not yet received.
ledger_growth_mb: peak memory of a process after 100,000 attempts by a scripted engine, less that before them. Reading all of the
  traces back and a second bootstrap that finds all of them in the ledger are in it.
"""
import argparse
import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import dspy  # noqa: E402

from bsft_nb.data.funnel import count_traces  # noqa: E402
from bsft_nb.teacher.bootstrap import TraceBootstrapper  # noqa: E402

THREADS = 16


class Two(dspy.Module):
    def __init__(self):
        super().__init__()
        self.hint, self.solve = dspy.Predict("question -> hint"), dspy.Predict("question, hint -> answer")

    def forward(self, question):
        return self.solve(question=question, hint=self.hint(question=question).hint)


def examples(n: int) -> list[dspy.Example]:
    return [dspy.Example(question=f"What is {i} times {i}?").with_inputs("question") for i in range(n)]


def answered(example, prediction, trace=None) -> bool:
    return len(prediction.answer) == 16


def http_lm(port: int, **kwargs) -> dspy.LM:
    return dspy.LM("openai/teacher", api_base=f"http://127.0.0.1:{port}/v1", api_key="x", cache=False, **kwargs)


class Noted(dspy.utils.BaseCallback):
    "Notes each answer that has come back from the LM into the program, in a file that survives a kill."

    def __init__(self, path):
        self.file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def on_adapter_parse_start(self, call_id, instance, inputs):
        os.write(self.file, f"{inputs['completion'].split()[5]} {time.monotonic()}\n".encode())


def speed(port: int, n: int, folder: Path) -> dict:
    program, trainset, lm = dspy.Predict("question -> answer"), examples(n), http_lm(port)
    began = time.perf_counter()
    lm("warm up")
    startup = time.perf_counter() - began
    began, cpu = time.perf_counter(), time.process_time()
    boot = TraceBootstrapper(metric=answered, teacher_settings={"lm": lm})
    traces = boot.collect([program], trainset, folder / "speed.jsonl", THREADS)
    ours, cpu = time.perf_counter() - began, time.process_time() - cpu
    assert count_traces(traces)["kept"] == n
    began = time.perf_counter()
    with open(os.devnull, "w") as sys.stderr:  # its progress bar
        few = dspy.BootstrapFewShot(metric=answered, teacher_settings={"lm": lm}, max_bootstrapped_demos=n, max_labeled_demos=0)
        few.compile(program, trainset=trainset)
    sys.stderr = sys.__stderr__
    theirs = time.perf_counter() - began
    assert len(few.name2traces["self"]) == n
    ideal = n * 0.2 / THREADS
    return {"wall_vs_ideal": ours / ideal, "vs_bootstrapfewshot": theirs / ours, "wall_s": ours, "cpu_s": cpu, "startup_s": startup, "bootstrapfewshot_s": theirs}


def child(port: int, n: int, folder: Path):
    dspy.configure(callbacks=[Noted(folder / "noted")])
    TraceBootstrapper(metric=answered, teacher_settings={"lm": http_lm(port)}).collect([Two()], examples(n), folder / "killed.jsonl", THREADS)


def kills(port: int, n: int, folder: Path, log: Path, times: int) -> dict:
    rng, command = random.Random(), [sys.executable, __file__, "--child", str(port), "--examples", str(n), "--folder", str(folder)]
    killed = []
    for _ in range(times):
        seen = log.stat().st_size
        process = subprocess.Popen(command)
        while log.stat().st_size == seen and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.02, 0.8))
        process.send_signal(signal.SIGKILL)
        killed.append(time.monotonic())
        assert process.wait() == -signal.SIGKILL, "it was done before it was killed"
    subprocess.run(command, check=True)
    noted = [line.split() for line in (folder / "noted").read_text().splitlines()]
    first = {}
    for digest, t in noted:
        first.setdefault(digest, float(t))
    seen = {"arrived": [], "sent": []}
    for what, digest, t in map(str.split, log.read_text().splitlines()):
        seen[what] += [(digest, float(t))] if digest in first else []
    assert len(first) == 2 * n
    repeated = sum(t > first[d] for d, t in seen["arrived"])
    lost = len(seen["arrived"]) - len(first) - repeated
    at_kill = sum(t < k < first[d] for d, t in seen["sent"] for k in killed if k - t < 0.1)
    return {"repeated_calls": repeated, "lost_in_flight": lost, "sent_at_the_kill": at_kill, "kills": times, "answers_replayed": len(noted) - len(first)}


def growth(n: int, folder: Path) -> dict:
    from bsft_nb.lessons import teacher_lm

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    lm, trainset = teacher_lm(lambda text: {"answer": "0123456789abcdef"}), examples(n)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    for _ in range(2):
        boot = TraceBootstrapper(metric=answered, teacher_settings={"lm": lm})
        traces = boot.collect([dspy.Predict("question -> answer")], trainset, folder / "many.jsonl", 2)
        assert len(traces) == n == lm.engine.calls == count_traces(traces)["kept"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"ledger_growth_mb": (peak - before) / 1024, "attempts": n, "seconds": time.perf_counter() - began}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--only", choices=["speed", "kills", "growth"])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--grow", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--examples", type=int, default=400, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    logging.getLogger("dspy").setLevel(logging.ERROR)
    if a.child:
        return child(a.child, a.examples, a.folder)
    if a.grow:
        return print(json.dumps(growth(a.examples, a.folder)))
    share, result = 10 if a.quick else 1, {}
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name) / "server.log"
        log.touch()
        server = subprocess.Popen([sys.executable, str(HERE / "teacher_server.py"), str(log)], stdout=subprocess.PIPE, text=True)
        try:
            port = int(server.stdout.readline())
            if a.only in (None, "speed"):
                result |= speed(port, 400 // share, folder)
            if a.only in (None, "kills"):
                result |= kills(port, 400, folder, log, 2 if a.quick else 10)
        finally:
            server.kill()
        if a.only in (None, "growth"):
            grow = [sys.executable, __file__, "--grow", "--examples", str(100_000 // share), "--folder", name]
            result |= json.loads(subprocess.run(grow, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    print(json.dumps({k: round(v, 3) for k, v in result.items()}))


if __name__ == "__main__":
    main()

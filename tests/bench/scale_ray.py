"""What `scale.py` measures on a Ray cluster of two nodes of this machine."""
import os
import random
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "cluster")]


def training_with_kills(address, place):
    "Is a training with a worker killed at three random moments what an undisturbed one of two workers is?"
    from test_ray import LONG, kill_worker
    from training_jobs import a_job, losses

    from bsft_nb.launchers.launch import launch
    from bsft_nb.launchers.ray import Ray
    from bsft_nb.launchers.torchrun import TorchRun
    from bsft_nb.lessons import save_llama

    target, ended, killed = save_llama(place / "llama"), threading.Event(), []
    settings = {**LONG, "epochs": 200}  # 600 steps: time for three kills
    whole, run = a_job(place, target, "whole", **settings)
    launch([whole], run, TorchRun(workers=2))
    job, run = a_job(place, target, "cluster", **settings)

    def kill():
        while not ended.is_set() and len(killed) < 3:
            n = len([e for e in run.log.read() if e.kind == "train"])
            time.sleep(random.uniform(0.2, 4))
            if len([e for e in run.log.read() if e.kind == "train"]) > n:  # it goes on again
                with suppress(IndexError):  # none is at work at this moment
                    kill_worker()
                    killed.append(time.time())

    thread = threading.Thread(target=kill)
    thread.start()
    launch([job], run, Ray(workers=2, address=address, storage=str(place / "shared"), failures=5))
    ended.set(), thread.join()
    far = max(abs(a - b) / abs(a) for a, b in zip(losses(whole), losses(job), strict=True))
    print(f"{len(killed)} workers killed; largest relative difference of {len(losses(job))} losses: {far:.1e}", flush=True)
    return len(killed) == 3 and far < 1e-3


def teaching_with_kill(nodes, place):
    "Calls of the teacher made again though their answer had come back, with one of two nodes killed."
    from test_ray import NODE, asked_again, heard, patiently, when, words

    from bsft_nb.launchers.ray import Ray
    from bsft_nb.launchers.shards import collect
    from bsft_nb.lessons import Shout
    from bsft_nb.teacher.bootstrap import TraceBootstrapper

    lm, asked = heard(place / "said")
    boot = TraceBootstrapper(metric=lambda e, p, trace=None: True, teacher_settings={"lm": lm})
    lost = next(n for n in nodes.list_all_nodes() if n is not nodes.head_node)
    done = when(lambda: len({pid for pid, _ in asked()}) == 2 and len(asked()) > random.randrange(30, 150), lambda: nodes.remove_node(lost, allow_graceful=False))
    traces = collect(Ray(workers=2, address=nodes.address, storage=str(place / "shared")), boot, [Shout()], words(300), place / "ledger.jsonl", 2)  # a thread for each node: one call at most waits for its answer when a node dies
    done()
    patiently(lambda: nodes.add_node(**NODE))
    assert len(traces) == 300
    return len(asked_again(asked()))


def answers_with_kill(address, place):
    "Rows given to `predict`, and rows that came of it, with a worker killed."
    from test_ray import heard, kill_worker, when

    from bsft_nb.launchers.predict import predict
    from bsft_nb.launchers.ray import Ray
    from bsft_nb.lessons import Shout

    lm, asked = heard(place / "predicted")
    program = Shout()
    program.set_lm(lm)
    done = when(lambda: len(asked()) > 50, lambda: kill_worker("MapWorker"))
    found = predict(program, [{"word": f"word{i}"} for i in range(400)], launch=Ray(workers=2, address=address, storage=str(place / "shared")), out=place / "out.jsonl", num_threads=4)
    done()
    return [400, sum(r["outputs"]["loud"] == f"WORD{r['row']}" for r in found)]


def kills(place):
    "All of it."
    from ray.cluster_utils import Cluster
    from test_ray import NODE, PATIENT, patiently

    os.environ.update({k: v for k, v in PATIENT.items() if k not in os.environ})
    nodes = patiently(lambda: Cluster(initialize_head=True, head_node_args=NODE))
    patiently(lambda: nodes.add_node(**NODE))
    try:
        return {"ray_kill": training_with_kills(nodes.address, place), "repeated_calls": teaching_with_kill(nodes, place), "rows_in_out": answers_with_kill(nodes.address, place)}
    finally:
        nodes.shutdown()

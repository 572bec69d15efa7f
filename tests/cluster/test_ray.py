"""Training on a Ray cluster of two nodes on this machine: `make cluster` runs this, `make test` does not."""
import os
import random
import re
import signal
import threading
import time
from collections import Counter

import dspy
import psutil
import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed: make cluster installs it and runs this")

from training_jobs import a_job, losses, until  # noqa: E402

from bsft_nb.launchers.launch import launch  # noqa: E402
from bsft_nb.launchers.predict import predict  # noqa: E402
from bsft_nb.launchers.ray import PATIENT, Ray  # noqa: E402
from bsft_nb.launchers.shards import collect  # noqa: E402
from bsft_nb.lessons import Shout, teacher_lm  # noqa: E402
from bsft_nb.optimizer.teleprompter import BootstrapFinetune  # noqa: E402
from bsft_nb.run.events import Stopped  # noqa: E402
from bsft_nb.run.files import read_lines  # noqa: E402
from bsft_nb.run.folder import RunFolder  # noqa: E402
from bsft_nb.teacher.bootstrap import TraceBootstrapper  # noqa: E402
from bsft_nb.training.checkpoints import newest, progress  # noqa: E402
from bsft_nb.training.launcher import Died  # noqa: E402

LONG = dict(n=24, held=0, bsize=8, epochs=60, save_steps=20, lr=3e-4)  # 180 steps; without held-out rows the last checkpoint is chosen, with all losses in it


NODE = dict(num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False)


def patiently(start, tries=3):
    "What `start()` gives. Ray waits 30 s for its own processes, whatever its settings say: too short for a machine that has other work."
    for left in reversed(range(tries)):
        try:
            return start()
        except Exception as e:
            if not left or "timed out during startup" not in str(e):
                raise


@pytest.fixture(scope="module")
def nodes():
    "A cluster of two nodes, without a dashboard."
    from ray.cluster_utils import Cluster

    os.environ.update({k: v for k, v in PATIENT.items() if k not in os.environ})
    made = patiently(lambda: Cluster(initialize_head=True, head_node_args=NODE))
    patiently(lambda: made.add_node(**NODE))
    yield made
    made.shutdown()


@pytest.fixture
def cluster(nodes):
    "The address of two nodes."
    return nodes.address


def when(what, then):
    "Do it as soon as that is so; returns what waits until it has been done. Ray takes minutes to start where a machine has other work."
    happened = []
    thread = threading.Thread(target=lambda: (until(what, 900), then(), happened.append(True)))
    thread.start()

    def done():
        thread.join()
        assert happened, "it never came"

    return done


def kill_worker(name="RayTrainWorker"):
    "Kill one of the processes that train, or do other work of that name."
    at_work = [p for p in psutil.process_iter(["cmdline"]) if name in " ".join(p.info["cmdline"] or [])]
    random.Random(0).choice(at_work).kill()


@pytest.mark.slow
def test_a_lost_worker_costs_nothing_but_time(cluster, llama, tmp_path):
    whole, run = a_job(tmp_path, llama, "whole", **LONG)
    launch([whole], run)
    job, run = a_job(tmp_path, llama, "cluster", **LONG)
    done = when(lambda: newest(job.checkpoints), kill_worker)
    assert launch([job], run, Ray(workers=2, address=cluster, storage=str(tmp_path / "shared"))) == {"model": job.student}
    done()
    assert run.trainer["mode"] == "ray" and run.trainer["status"] == "trained"
    assert progress(job.checkpoints)["trained"] == 180 and len(losses(job)) == len(losses(whole)) == 180
    assert max(abs(a - b) / a for a, b in zip(losses(whole), losses(job))) < 1e-3
    kinds = [e.kind for e in run.log.read()]
    assert {"train", "checkpoint"} <= {*kinds} and any("going on from the checkpoint" in e.data.get("note", "") for e in run.log.read())


@pytest.mark.slow
def test_a_stop_a_lost_driver_and_the_next_call(cluster, llama, tmp_path):
    there = Ray(workers=2, address=cluster, storage=str(tmp_path / "shared"))
    job, run = a_job(tmp_path, llama, "job", **LONG)
    done = when(lambda: newest(job.checkpoints), run.stop_signal.request)
    with pytest.raises(Stopped, match=r"stopped on request after step \d+ of 180"):
        launch([job], run, there)
    done()
    run.stop_signal.clear()
    before = newest(job.checkpoints).step
    done = when(lambda: run.trains and newest(job.checkpoints).step > before, lambda: os.kill(run.trainer["pid"], signal.SIGKILL))
    with pytest.raises(Died, match="model has a whole checkpoint at step"):
        launch([job], run, there)
    done()
    assert not RunFolder(run.path).trains
    assert launch([job], run, there) == {"model": job.student} and progress(job.checkpoints)["trained"] == 180


def test_what_cannot_train_is_said_before_it_begins(cluster, llama, tmp_path, monkeypatch):
    job, run = a_job(tmp_path, llama)
    began = time.monotonic()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import sys\nif '-c' in sys.argv[:1] + sys.orig_argv and 'launchers.ray' in ' '.join(sys.orig_argv):\n    import importlib.metadata as m\n    real = m.version\n    m.version = lambda n: '0.0.1' if n == 'transformers' else real(n)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}")
    there, differ = Ray(workers=2, address=cluster, storage=str(tmp_path / "shared")), r"the cluster cannot take this run.*other versions: transformers 0.0.1 here, \d"
    with pytest.raises(ValueError, match=differ):
        launch([job], run, there)
    assert time.monotonic() - began < 200 and not newest(job.checkpoints)
    lm, asked = heard(tmp_path / "said")
    with pytest.raises(ValueError, match=differ):  # before the teacher is paid
        BootstrapFinetune(metric=lambda e, p, trace=None: True, teacher_settings={"lm": lm}).compile(Shout(), trainset=words(8), target=llama, launch=there)
    assert asked() == []


def heard(said):
    "A teacher, and a function that tells which process asked it about which word."

    def answer(text):
        word = re.search(r"## word ## \]\]\s*(\w+)", text)[1]
        with open(said, "a") as f:
            f.write(f"{os.getpid()} {word}\n")
        time.sleep(0.1)
        return {"loud": word.upper()}

    return teacher_lm(answer), lambda: [line.split() for line in said.read_text().splitlines()] if said.exists() else []


def asked_again(asked):
    "Words that were asked again though their answer had come back: a process that dies may lose the answer that it waits for."
    last = dict(asked)  # each process: its last word
    again = Counter(w for _, w in asked)
    return [w for w, n in again.items() if n > 1 and last[next(pid for pid, other in asked if other == w)] != w]


def words(n):
    return [dspy.Example(word=f"word{i}").with_inputs("word") for i in range(n)]


def test_a_bootstrap_on_two_nodes_of_which_one_is_lost(nodes, tmp_path):
    lm, asked = heard(tmp_path / "said")
    boot = TraceBootstrapper(metric=lambda e, p, trace=None: p.loud == e.word.upper(), teacher_settings={"lm": lm})
    lost = [n for n in nodes.list_all_nodes() if n is not nodes.head_node][0]
    done = when(lambda: len({pid for pid, _ in asked()}) == 2 and len(asked()) > 30, lambda: nodes.remove_node(lost, allow_graceful=False))
    try:
        there, told = Ray(workers=2, address=nodes.address, storage=str(tmp_path / "shared")), []
        traces = collect(there, boot, [Shout()], words(120), tmp_path / "ledger.jsonl", 2, lambda trace, again: told.append(again))
        done()
    finally:
        patiently(lambda: nodes.add_node(**NODE))
    assert [t.inputs["word"] for t in traces] == [e.word for e in words(120)] and all(t.kept for t in traces)
    calls = read_lines(tmp_path / "ledger.calls")
    assert len(calls) == len({r["key"] for r in calls}) == 120 and told == [False] * 120
    assert asked_again(asked()) == [] and lost not in nodes.list_all_nodes()  # the shard went on where there was room
    n = len(asked())
    assert len(collect(there, boot, [Shout()], words(120), tmp_path / "ledger.jsonl", 2)) == 120 and len(asked()) == n


def test_answers_from_two_nodes_with_a_worker_lost(nodes, tmp_path):
    lm, asked = heard(tmp_path / "said")
    program = Shout()
    program.set_lm(lm)
    there = Ray(workers=2, address=nodes.address, storage=str(tmp_path / "shared"))
    done = when(lambda: len(asked()) > 20, lambda: kill_worker("MapWorker"))
    found = predict(program, [{"word": f"word{i}"} for i in range(150)], launch=there, out=tmp_path / "out.jsonl", num_threads=2)
    done()
    assert (len(found), found.asked, found.failed) == (150, 150, 0) and [r["outputs"]["loud"] for r in found] == [f"WORD{i}" for i in range(150)]
    n = len(asked())
    assert predict(program, [{"word": f"word{i}"} for i in range(150)], launch=there, out=tmp_path / "out.jsonl").asked == 0 and len(asked()) == n

"""Training on a Ray cluster of two nodes on this machine: `make cluster` runs this, `make test` does not."""
import os
import random
import signal
import threading
import time

import psutil
import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed: make cluster installs it and runs this")

from training_jobs import a_job, losses, until  # noqa: E402

from bsft_nb.launchers.launch import launch  # noqa: E402
from bsft_nb.launchers.ray import PATIENT, Ray  # noqa: E402
from bsft_nb.run.events import Stopped  # noqa: E402
from bsft_nb.run.folder import RunFolder  # noqa: E402
from bsft_nb.training.checkpoints import newest  # noqa: E402
from bsft_nb.training.launcher import Died  # noqa: E402

LONG = dict(n=24, held=4, bsize=8, epochs=60, save_steps=20)  # 180 steps


@pytest.fixture(scope="module")
def cluster():
    "The address of a cluster of two nodes, without a dashboard."
    from ray.cluster_utils import Cluster

    os.environ.update({k: v for k, v in PATIENT.items() if k not in os.environ})
    node = dict(num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False)
    nodes = Cluster(initialize_head=True, head_node_args=node)
    nodes.add_node(**node)
    yield nodes.address
    nodes.shutdown()


def when(what, then):
    thread = threading.Thread(target=lambda: (until(what, 300), then()))
    thread.start()
    return thread


def kill_worker():
    "Kill one of the processes that train."
    at_work = [p for p in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or [])]
    random.Random(0).choice(at_work).kill()


def test_a_lost_worker_costs_nothing_but_time(cluster, llama, tmp_path):
    whole, run = a_job(tmp_path, llama, "whole", **LONG)
    launch([whole], run)
    job, run = a_job(tmp_path, llama, "cluster", **LONG)
    thread = when(lambda: newest(job.checkpoints), kill_worker)
    assert launch([job], run, Ray(workers=2, address=cluster, storage=str(tmp_path / "shared"))) == {"model": job.student}
    thread.join()
    assert run.trainer["mode"] == "ray" and run.trainer["status"] == "trained"
    assert len(losses(job)) == 180 and max(abs(a - b) / a for a, b in zip(losses(whole), losses(job))) < 1e-3
    kinds = [e.kind for e in run.log.read()]
    assert {"train", "eval", "checkpoint"} <= {*kinds} and any("going on from the checkpoint" in e.data.get("note", "") for e in run.log.read())


def test_a_stop_a_lost_driver_and_the_next_call(cluster, llama, tmp_path):
    there = Ray(workers=2, address=cluster, storage=str(tmp_path / "shared"))
    job, run = a_job(tmp_path, llama, "job", **LONG)
    thread = when(lambda: newest(job.checkpoints), run.stop_signal.request)
    with pytest.raises(Stopped, match=r"stopped on request after step \d+ of 180"):
        launch([job], run, there)
    thread.join()
    run.stop_signal.clear()
    before = newest(job.checkpoints).step
    thread = when(lambda: run.trains and newest(job.checkpoints).step > before, lambda: os.kill(run.trainer["pid"], signal.SIGKILL))
    with pytest.raises(Died, match="model has a whole checkpoint at step"):
        launch([job], run, there)
    thread.join()
    assert not RunFolder(run.path).trains
    assert launch([job], run, there) == {"model": job.student} and len(losses(job)) == 180


def test_what_cannot_train_is_said_before_it_begins(cluster, llama, tmp_path, monkeypatch):
    job, run = a_job(tmp_path, llama)
    began = time.monotonic()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import sys\nif '-c' in sys.argv[:1] + sys.orig_argv and 'launchers.ray' in ' '.join(sys.orig_argv):\n    import importlib.metadata as m\n    real = m.version\n    m.version = lambda n: '0.0.1' if n == 'transformers' else real(n)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(ValueError, match=r"the cluster cannot train this run.*other versions: transformers 0.0.1 here, \d"):
        launch([job], run, Ray(workers=2, address=cluster, storage=str(tmp_path / "shared")))
    assert time.monotonic() - began < 200 and not newest(job.checkpoints)

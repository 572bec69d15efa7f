"""Training in this process and in one of its own: same result, kills, stops, interrupts, scores, dead jobs."""
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from training_jobs import a_job, losses, same, until, weights, with_dropout

from bsft_nb.data.builder import Built, save_pairs
from bsft_nb.engine.lm import StudentEngine, student_lm
from bsft_nb.launchers.launch import collect, launch
from bsft_nb.optimizer.loading import attach
from bsft_nb.optimizer.run import Run
from bsft_nb.run.claims import Busy, claim
from bsft_nb.run.events import EventLog, Stopped
from bsft_nb.run.files import read_json, write_json
from bsft_nb.run.folder import RunFolder, find_run, list_runs
from bsft_nb.run.presence import alive, this_process
from bsft_nb.training.checkpoints import checkpoints, newest, scores
from bsft_nb.training.jobs import Job
from bsft_nb.training.launcher import Died

LONG = dict(n=60, epochs=200, bsize=4, save_steps=10)  # 3,000 steps: longer than any test waits


def kinds(run, kind):
    return [e.data for e in run.log.read() if e.kind == kind]


def in_thread(work):
    "Run `work()` in a thread; returns the thread and the list that gets its result or exception."
    box = []

    def body():
        try:
            box.append(work())
        except BaseException as e:
            box.append(e)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, box


def test_a_process_of_its_own_makes_the_same_student(llama, tmp_path):
    here, run = a_job(tmp_path, llama, "here")
    launch([here], run)
    there, run = a_job(tmp_path, llama, "there")
    seen = []
    run.log.subscribe(seen.append)
    assert launch([there], run, "process") == {"model": there.student}
    assert same(weights(there.student), weights(here.student))
    assert run.trainer["pid"] != os.getpid() and run.trainer["status"] == "trained" and not alive(run.trainer)
    assert [(e.kind, e.t) for e in seen] == [(e.kind, e.t) for e in run.log.read()], "subscribers here saw its events, each once"
    assert {"train", "eval", "checkpoint"} <= {e.kind for e in seen}


def test_a_mode_that_is_none_is_refused(llama, tmp_path):
    job, run = a_job(tmp_path, llama)
    with pytest.raises(ValueError, match="launch='slurm'.*'process'.*'inline'"):
        launch([job], run, "slurm")


@pytest.mark.parametrize("mode", ["inline", "process"])
def test_the_callers_metric_chooses_in_both_modes(mode, llama, tmp_path):
    job, run = a_job(tmp_path, llama)
    asked = []

    def score(folder, epoch):
        asked.append((epoch, os.getpid(), sorted(p.name for p in folder.iterdir() if p.suffix == ".safetensors")))
        if epoch == 1:
            raise KeyError("no such label")
        return {2: 0.75, 3: 0.5}[epoch]

    launch([job], run, mode, score)
    assert asked == [(n, os.getpid(), ["model.safetensors"]) for n in (1, 2, 3)]
    assert scores(job.checkpoints) == {6: None, 12: 0.75, 18: 0.5} and read_json(job.checkpoints / "training.json")["chosen"] == 12
    assert [(s["epoch"], s["score"], s["which"]) for s in kinds(run, "score")] == [(2, 0.75, "checkpoint"), (3, 0.5, "checkpoint")]
    notes = [w["note"] for w in kinds(run, "warn")]
    assert len(notes) == 1 and "epoch 1 could not be scored (KeyError: 'no such label')" in notes[0]
    assert not (job.student / "optimizer.pt").exists() and (job.student / "bsft.json").exists()


def test_a_checkpoint_answers_through_the_engine(chat_llama, tmp_path):
    job, run = a_job(tmp_path, chat_llama, epochs=1)
    said = []

    def score(folder, epoch):
        try:
            said.append(student_lm(folder, "x", cache=False)("hello", max_tokens=3))
        finally:
            StudentEngine.at(folder).close()
        return 1.0

    launch([job], run, "inline", score)
    assert isinstance(said[0][0], str)


@pytest.mark.slow
def test_killed_processes_cost_nothing_but_time(tmp_path):
    dropout = with_dropout(tmp_path / "model")
    settings = {**LONG, "epochs": 20, "held": 0}  # without held-out rows the last checkpoint is chosen, with all losses in it
    whole, run = a_job(tmp_path, dropout, "whole", **settings)
    launch([whole], run)
    job, run = a_job(tmp_path, dropout, "killed", **settings)
    rng, died = random.Random(0), 0
    for target in (20, 100, 200):

        def kill(target=target):
            until(lambda: alive(run.trainer) and (c := newest(job.checkpoints)) and c.step >= target)
            time.sleep(rng.random() / 10)
            os.kill(run.trainer["pid"], signal.SIGKILL)

        thread, _ = in_thread(kill)
        with pytest.raises(Died, match="died by signal SIGKILL.*model has a whole checkpoint at step"):
            launch([job], run, "process")
        died += 1
        thread.join()
    launch([job], run, "process")
    assert died == 3 and losses(job) == losses(whole) and len(losses(job)) == 300
    assert same(weights(job.student), weights(whole.student))


@pytest.mark.parametrize("how", ["stop", "other process", "interrupt"])
def test_a_stop_ends_the_process_with_a_checkpoint(how, llama, tmp_path):
    job, run = a_job(tmp_path, llama, **{**LONG, "save_steps": None})
    run.update(status="running", worker=this_process())

    def ask():
        until(lambda: kinds(run, "checkpoint"))
        if how == "stop":
            attach(run.path).stop()
        elif how == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        else:
            code = f"from bsft_nb import attach; attach({str(run.path)!r}).stop()"
            subprocess.run([sys.executable, "-c", code], check=True)

    thread, _ = in_thread(ask)
    with pytest.raises(Stopped, match=r"stopped on request after step \d+ of 3000 of model. The checkpoint at step (\d+) is whole.*best student so far \(held-out loss"):
        launch([job], run, "process")
    thread.join()
    assert not alive(run.trainer) and run.trainer["status"] == "stopped"
    last = newest(job.checkpoints)
    assert f"after step {last.step} of" in run.trainer["error"]["message"], "the step that was under way is the last, and it is kept"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_here_leaves_a_checkpoint(llama, tmp_path):
    job, run = a_job(tmp_path, llama, **LONG)
    thread, _ = in_thread(lambda: (until(lambda: kinds(run, "checkpoint")), os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(Stopped, match="after step"):
        launch([job], run)
    thread.join()
    assert f"after step {newest(job.checkpoints).step} of" in run.trainer["error"]["message"]


def test_one_at_a_time_and_the_same_again_follows(llama, tmp_path):
    job, run = a_job(tmp_path, llama, **{**LONG, "epochs": 30, "held": 0})
    first, box = in_thread(lambda: launch([job], run, "process"))
    until(lambda: kinds(run, "checkpoint"))
    pid = run.trainer["pid"]
    elsewhere = RunFolder(run.path)  # as another kernel has it
    with pytest.raises(Busy, match=f"by process {pid} since"):
        launch([replace(job, config=replace(job.config, lr=1.0))], elsewhere, "inline")
    with pytest.raises(Busy), claim(elsewhere, "inline", ["model"]):
        pass
    seen = []
    elsewhere.log.subscribe(seen.append)
    assert launch([job], elsewhere, "inline") == {"model": job.student}
    first.join()
    assert box == [{"model": job.student}] and run.trainer["pid"] == pid
    assert "train" in {e.kind for e in seen} and len(losses(job)) == 450


def test_training_outlives_the_kernel_and_another_collects_it(llama, tmp_path):
    job, run = a_job(tmp_path, llama, "outlives", **{**LONG, "epochs": 25})
    code = f"""
from bsft_nb.training.jobs import Job
from bsft_nb.launchers.launch import launch
from bsft_nb.run.folder import RunFolder
from bsft_nb.run.presence import this_process
run = RunFolder({str(run.path)!r})
run.update(status="running", worker=this_process())
launch([Job.load(run, "model")], run, "process", lambda folder, epoch: epoch / 100)
"""
    kernel = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: kinds(run, "score"))
    kernel.kill()
    kernel.wait()
    handle = Run(find_run(run.path), finish=lambda folder, program: (collect(folder, lambda path, epoch: epoch / 100), program))
    assert handle.status == "running" and alive(run.trainer), "the kernel is gone, the training is not"
    until(lambda: not alive(run.trainer))
    assert handle.result(60, "program") == ({"model": job.student}, "program")
    assert len(losses(job)) == 375 and scores(job.checkpoints)[375] == 0.25 and read_json(job.checkpoints / "training.json")["chosen"] == 375
    assert len(scores(job.checkpoints)) > 2


def test_a_run_whose_process_died_says_so(tmp_path):
    run = RunFolder(tmp_path / "home" / "runs" / "gone")
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    run.update(status="running", worker={**this_process(), "pid": gone.pid})
    assert run.status == "died" and [r["status"] for r in list_runs()] == ["died"]
    run.update(worker={**this_process(), "started": time.time() - 1e6})  # the number was given to another process
    handle = attach("gone")
    assert handle.status == "died" and handle.info["status"] == "died" and "compile again with the same arguments" in handle.info["error"]
    assert handle.wait(1) == "died" and [e.data["status"] for e in handle.events if e.kind == "done"] == ["died"]


def test_the_lock_of_a_dead_process_does_not_stand_in_the_way(llama, tmp_path):
    job, run = a_job(tmp_path, llama, epochs=1)
    (run / "lock").touch()
    write_json(run / "job.json", {**this_process(), "started": 1.0, "status": "running", "mode": "process", "jobs": ["model"]})
    assert launch([job], run) == {"model": job.student}


def test_what_ends_the_process_is_raised_here(llama, tmp_path):
    job, run = a_job(tmp_path, llama)
    save_pairs(Built([], [], {}, []), run / "pairs")
    with pytest.raises(ValueError, match="no rows for 'p'"):
        launch([job], run, "process")
    assert run.trainer["status"] == "failed" and "Traceback" in (run / "train.log").read_text()


def test_a_process_that_cannot_begin_says_what_it_printed(llama, tmp_path, monkeypatch):
    job, run = a_job(tmp_path, llama)
    monkeypatch.setattr("bsft_nb.training.launcher.sys.executable", "/bin/false")
    with pytest.raises(Died, match="exit code 1.*no checkpoint yet"):
        launch([job], run, "process")


def test_a_queue_trains_one_student_after_another_and_goes_on_where_it_was(llama, tmp_path):
    run = RunFolder(tmp_path / "queue")
    first, _ = a_job(tmp_path, llama, "queue", predictors=("a", "b"))
    jobs = [replace(first, model=f"model-{p}", predictors=(p,)) for p in ("a", "b")]
    launch(jobs[:1], run)
    n = len(kinds(run, "checkpoint"))
    made = launch(jobs, run, "process")
    assert made == {j.model: j.student for j in jobs} and not same(*(weights(f) for f in made.values()))
    assert [e["model"] for e in kinds(run, "checkpoint")[n:]] == ["model-b"] * 3, "the finished one is not trained again"
    assert len(checkpoints(jobs[0].checkpoints)) == 1 and Job.load(run, "model-b") == jobs[1]


def test_followers_survive_half_lines(tmp_path):
    log, other = EventLog(tmp_path / "e.jsonl"), EventLog(tmp_path / "e.jsonl")
    seen = []
    log.subscribe(seen.append)
    poll = log.follow()
    with open(log.path, "ab") as f:
        f.write(b'{"kind": "train", "t": 1.0, "da')
        f.flush()
        assert poll() == []
        f.write(b'ta": {"step": 1}}\n')
    other.emit("train", step=2)
    log.emit("train", step=3)
    poll()
    assert sorted(e.data["step"] for e in seen) == [1, 2, 3]

"""Several workers under torch.distributed.run: the losses of one, agreement on memory and stops, kills, and nobody who hangs."""
import os
import signal
import threading
from dataclasses import replace

import psutil
import pytest
from training_jobs import a_job, losses, until

from bsft_nb.launchers.launch import launch
from bsft_nb.launchers.torchrun import TorchRun
from bsft_nb.run.events import Stopped
from bsft_nb.training.checkpoints import newest
from bsft_nb.training.jobs import TrainConfig
from bsft_nb.training.launcher import Died

TWO = TorchRun(workers=2, timeout=60)


def workers_of(run):
    "The processes of a run's workers, the leading one first."
    lead = psutil.Process(run.trainer["pid"])
    return [lead, *(p for p in lead.parent().children() if p.pid != lead.pid)]


def when(what, then):
    thread = threading.Thread(target=lambda: (until(what, 240), then()))
    thread.start()
    return thread


def test_two_workers_learn_what_one_does(llama, tmp_path):
    "Two jobs in a queue, packed and full, then padded and LoRA; accumulation; a last batch of one row, which one worker does not see."
    made = {}
    for name, mode in (("one", "inline"), ("two", TWO)):
        full, run = a_job(tmp_path, llama, name, n=33, held=5, bsize=8, accumsteps=2, epochs=3, save_steps=2)
        lora = replace(full, model="model-lora", config=replace(full.config, peft=True, shared_prefix=False))
        launch([full, lora], run, mode)
        made[name] = [(losses(j), newest_loss(run, j.model)) for j in (full, lora)]
    assert run.trainer["mode"] == "torchrun"
    for (one, held), (two, held_two) in zip(made["one"], made["two"]):
        assert len(one) == 9 and max(abs(a - b) / a for a, b in zip(one, two)) < 1e-5 and abs(held - held_two) / held < 1e-5
    log = [e for e in run.log.read() if e.kind == "train"]
    assert len({(e.data["model"], e.data["step"]) for e in log}) == len(log), "one worker writes"


def newest_loss(run, model):
    return [e.data["eval_loss"] for e in run.log.read() if e.kind == "eval" and e.data["model"] == model][-1]


FAULTS = """
import os
if rank := os.environ.get("RANK"):
    import torch
    import bsft_nb.training.hf_trainer as loop
    real = loop.Loop._collated
    def collated(self, rows):
        if rank == "1" and self.state.global_step == 1 and len(rows) > 1:
            raise torch.OutOfMemoryError("out of memory")
        if rank == "1" and os.environ.get("FAULT") == "not finite":
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))
        return real(self, rows)
    loop.Loop._collated = collated
"""


@pytest.mark.slow
def test_nobody_hangs_and_the_next_call_goes_on(llama, tmp_path, monkeypatch):
    "In the second worker alone memory ends, then it is killed; then a stop; then its loss is no number. One process goes on in the end, and has the losses of a training that nobody disturbed."
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FAULTS)
    settings = dict(n=24, held=0, bsize=8, epochs=40, save_steps=10)  # without held-out rows the last checkpoint is chosen, with all losses in it
    whole, run = a_job(tmp_path, llama, "whole", **settings)
    launch([whole], run)
    job, run = a_job(tmp_path, llama, "disturbed", **settings)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}")

    thread = when(lambda: newest(job.checkpoints), lambda: os.kill(workers_of(run)[1].pid, signal.SIGKILL))
    with pytest.raises(Died, match="model has a whole checkpoint at step.*worker 1 was ended by SIGKILL"):
        launch([job], run, TWO)
    thread.join()
    warned = [e.data["note"] for e in run.log.read() if e.kind == "warn"]
    assert [w.partition(":")[0] for w in warned] == ["out of memory at step 2 of model"] * 2 and "with 1 row at a time" in warned[1]

    before = newest(job.checkpoints).step
    thread = when(lambda: run.trains and newest(job.checkpoints).step > before, run.stop_signal.request)
    with pytest.raises(Stopped, match=r"stopped on request after step \d+ of 120"):
        launch([job], run, TWO)
    thread.join()
    run.stop_signal.clear()

    monkeypatch.setenv("FAULT", "not finite")
    with pytest.raises(FloatingPointError, match=rf"loss of model is nan at step {newest(job.checkpoints).step + 1} of 120"):
        launch([job], run, TWO)
    assert not run.trains and run.trainer["status"] == "failed"
    assert launch([job], run) == {"model": job.student}
    assert len(losses(job)) == 120 and max(abs(a - b) / a for a, b in zip(losses(whole), losses(job))) < 1e-3


def test_workers_that_cannot_be_are_refused_before_anything_runs(llama, tmp_path):
    job, run = a_job(tmp_path, llama, bsize=1)
    with pytest.raises(ValueError, match="bsize=1 row, .*a bsize of at least 2"):
        launch([job], run, TWO)
    with pytest.raises(ValueError, match="workers=4096: this machine has .* and each worker needs one"):
        TorchRun(workers=4096).check(TrainConfig(bsize=8192))
    assert not run.trainer and not (run / "train.log").exists()

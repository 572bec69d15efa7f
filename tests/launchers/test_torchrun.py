"""Several workers under torch.distributed.run: the losses of one, agreement on memory and stops, kills, and nobody who hangs."""
import os
import signal
import threading
from dataclasses import replace

import psutil
import pytest
from safetensors.torch import load_file
from training_jobs import a_job, losses, until

from bsft_nb.launchers.launch import launch
from bsft_nb.launchers.torchrun import TorchRun
from bsft_nb.lessons import save_llama
from bsft_nb.run.events import Stopped
from bsft_nb.training.checkpoints import newest
from bsft_nb.training.jobs import TrainConfig
from bsft_nb.training.launcher import Died

TWO = TorchRun(workers=2, timeout=60)
SHARDED = TorchRun(workers=2, timeout=60, fsdp=True)


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
    for name, mode in (("one", "inline"), ("two", TWO), ("sharded", SHARDED)):
        full, run = a_job(tmp_path, llama, name, n=33, held=5, bsize=8, accumsteps=2, epochs=3, save_steps=2)
        lora = replace(full, model="model-lora", config=replace(full.config, peft=True, shared_prefix=False))
        launch([full, lora], run, mode)
        made[name] = [(losses(j), newest_loss(run, j.model)) for j in (full, lora)]
    assert run.trainer["mode"] == "torchrun"
    for name in ("two", "sharded"):
        for (one, held), (several, held_too) in zip(made["one"], made[name]):
            assert len(one) == 9 and max(abs(a - b) / a for a, b in zip(one, several)) < 1e-5 and abs(held - held_too) / held < 1e-5, name
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


@pytest.mark.slow
@pytest.mark.parametrize("peft", [False, True])
def test_a_sharded_training_goes_on_anywhere(peft, tmp_path):
    "One worker begins and is stopped, two with sharded weights go on and are stopped, one goes on to the end: the losses and the student of a training that nobody stopped."
    llama = save_llama(tmp_path / "base", tie_word_embeddings=not peft)
    settings = dict(n=24, held=0, bsize=8, epochs=20, save_steps=5, peft=peft)
    whole, run = a_job(tmp_path, llama, "whole", **settings)
    launch([whole], run)
    job, run = a_job(tmp_path, llama, "parts", **settings)
    for mode in ("process", SHARDED):
        before = newest(job.checkpoints).step if newest(job.checkpoints) else 0
        thread = when(lambda: run.trains and newest(job.checkpoints) and newest(job.checkpoints).step > before, run.stop_signal.request)
        with pytest.raises(Stopped, match="stopped on request after step"):
            launch([job], run, mode)
        thread.join()
        run.stop_signal.clear()
        assert before < newest(job.checkpoints).step < 60
    assert launch([job], run) == {"model": job.student}
    assert len(losses(job)) == 60 and max(abs(a - b) / a for a, b in zip(losses(whole), losses(job))) < 1e-3
    made, right = (load_file(j.student / ("adapter_model.safetensors" if peft else "model.safetensors")) for j in (job, whole))
    assert made.keys() == right.keys() and all((made[k] - right[k]).abs().max() < 1e-3 for k in right)


@pytest.mark.slow
def test_where_memory_ends_with_sharded_weights_the_next_call_takes_fewer_rows(llama, tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FAULTS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}")
    job, run = a_job(tmp_path, llama, n=24, held=0, bsize=8, epochs=2)
    for micro, then in ((4, "takes 2 rows at a time"), (2, "takes 1 row at a time")):
        with pytest.raises(MemoryError, match=f"at step 2 of model in worker 1, with sharded weights and {micro} rows at a time .*{then}"):
            launch([job], run, SHARDED)
    assert launch([job], run, SHARDED) == {"model": job.student} and len(losses(job)) == 6


def test_workers_that_cannot_be_are_refused_before_anything_runs(llama, tmp_path):
    job, run = a_job(tmp_path, llama, bsize=1)
    with pytest.raises(ValueError, match="bsize=1 row, .*a bsize of at least 2"):
        launch([job], run, TWO)
    with pytest.raises(ValueError, match="workers=4096: this machine has .* and each worker needs one"):
        TorchRun(workers=4096).check(TrainConfig(bsize=8192))
    assert not run.trainer and not (run / "train.log").exists()

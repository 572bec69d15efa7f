"""Training on small real models: exact resuming, stopping, little memory, bad losses, full disks, choosing."""
import errno
import json
import math
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from conftest import save_llama

import bsft_nb.loop
from bsft_nb.checkpoints import checkpoints, newest, record_score, scores
from bsft_nb.data import Built, DataError, Pair, save_pairs
from bsft_nb.events import Stopped
from bsft_nb.jobs import Job, TrainConfig
from bsft_nb.models import check_folder, load_weights
from bsft_nb.runs import RunFolder, read_json
from bsft_nb.trainer import choose, train


def pair(i, predictor="p"):
    prompt = [20, 21, 22, 23, *(30 + (i * k) % 50 for k in range(1, 2 + i % 5))]
    return Pair(f"e{i}", predictor, "", "", 1.0, prompt, [100 + i % 7, *[90] * (i % 3), 0])


def a_job(tmp_path, target, name="run", n=22, held=4, meta=None, scored=False, predictors=("p",), **config):
    run = RunFolder(tmp_path / name)
    rows = [pair(i, predictors[i % len(predictors)]) for i in range(n + held)]
    save_pairs(Built(rows[:n], rows[n:], {}, []), run / "pairs")
    settings = TrainConfig(**{"bsize": 4, "lr": 3e-3, "epochs": 3, "save_minutes": None, **config})
    job = Job(str(run.path), "model", str(target), check_folder(target, "t").fingerprint, predictors, settings, meta or {"max_tokens": 9}, scored)
    job.save()
    return job, run


def work(job, run, after=None):
    return train(job, run.log, run.stop_signal, after)


def losses(job):
    "The loss of each step, as the last checkpoint tells."
    last = checkpoints(job.checkpoints)[-1]
    return [h["loss"] for h in json.loads((last.path / "trainer_state.json").read_text())["log_history"] if "loss" in h]


def weights(folder):
    return load_weights(folder).state_dict()


def same(a, b):
    return all(torch.equal(x, b[k]) for k, x in a.items())


def stop_at(monkeypatch, run, step):
    "Ask for a stop in the middle of `step`."
    real = bsft_nb.loop.Loop.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step + 1 == step:
            run.stop_signal.request()
        return real(self, *args, **kwargs)

    monkeypatch.setattr(bsft_nb.loop.Loop, "training_step", training_step)


@pytest.fixture(scope="session")
def dropout(tmp_path_factory):
    folder = save_llama(tmp_path_factory.mktemp("dropout"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.2}))
    return folder


@pytest.mark.parametrize("kind", ["llama", "dropout", "t5"])
@pytest.mark.parametrize("step", [2, 6, 8])  # within an epoch, at its end, within the next; 6 steps an epoch
def test_resumed_losses_are_those_of_an_uninterrupted_training(kind, step, request, tmp_path, monkeypatch):
    target = request.getfixturevalue(kind)
    whole, run = a_job(tmp_path, target, "whole")
    work(whole, run)
    parts, run = a_job(tmp_path, target, "parts")
    with monkeypatch.context() as m:
        stop_at(m, run, step)
        with pytest.raises(Stopped, match=f"after step {step} of 18 of model.*step {step} is whole"):
            work(parts, run)
    assert newest(parts.checkpoints).step == step
    run.stop_signal.clear()
    work(parts, run)
    assert losses(parts) == losses(whole) and len(losses(whole)) == 18
    assert same(weights(choose(parts)), weights(choose(whole)))


def test_dropout_does_something(llama, dropout, tmp_path):
    "Else the test above would say nothing about random numbers."
    both = [a_job(tmp_path, t, n, epochs=1) for t, n in ((llama, "a"), (dropout, "b"))]
    assert [losses(j) for j, r in both if work(j, r)][0] != losses(both[1][0])

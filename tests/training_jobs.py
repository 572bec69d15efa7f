"""A small training job on a small real model, and what it left behind."""
import json
import time

import torch

import bsft_nb.training.hf_trainer
from bsft_nb.data.builder import Built, save_pairs
from bsft_nb.data.pairs import Pair
from bsft_nb.lessons import save_llama
from bsft_nb.models.loading import load_weights
from bsft_nb.models.targets import check_folder
from bsft_nb.run.folder import RunFolder
from bsft_nb.training.checkpoints import checkpoints
from bsft_nb.training.jobs import Job, TrainConfig
from bsft_nb.training.trainer import train


def until(what, seconds=90):
    "What `what()` gives as soon as it gives something."
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return found


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
    real = bsft_nb.training.hf_trainer.Loop.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step + 1 == step:
            run.stop_signal.request()
        return real(self, *args, **kwargs)

    monkeypatch.setattr(bsft_nb.training.hf_trainer.Loop, "training_step", training_step)


def with_dropout(folder):
    "A model that draws random numbers while it trains."
    save_llama(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.2}))
    return folder

"""Training on small real models: exact resuming, stopping, little memory, bad losses, full disks, choosing."""
import errno
import json
import math
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from training_jobs import (
    a_job,
    losses,
    pair,
    same,
    stop_at,
    weights,
    with_dropout,
    work,
)
from transformers import AutoModelForCausalLM

import bsft_nb.training.hf_trainer
from bsft_nb.data.builder import Built, save_pairs
from bsft_nb.data.pairs import DataError
from bsft_nb.models.frozen import freeze
from bsft_nb.models.loading import load_weights
from bsft_nb.run.events import Stopped
from bsft_nb.run.files import read_json
from bsft_nb.training.checkpoints import checkpoints, newest, record_score
from bsft_nb.training.jobs import TrainConfig
from bsft_nb.training.packing import BatchOrder
from bsft_nb.training.trainer import choose, load_trainable


@pytest.fixture(scope="session")
def dropout(tmp_path_factory):
    return with_dropout(tmp_path_factory.mktemp("dropout"))


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


BAD = [
    dict(bsize=0), dict(bsize=True), dict(bsize=2.0), dict(accumsteps=0), dict(epochs=0), dict(seed=-1), dict(lr=0), dict(lr=math.nan), dict(lr="1e-4"),
    dict(warmup=1.0), dict(warmup=-0.1), dict(schedule="step"), dict(weight_decay=-1), dict(max_grad_norm=0), dict(max_length=1), dict(eval_steps=0),
    dict(save_steps=0), dict(save_minutes=0), dict(patience=0), dict(int8=True), dict(gradient_checkpointing=1), dict(shared_prefix=None), dict(peft="lora"),
    dict(frozen=1), dict(frozen=-0.1), dict(frozen=True),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_impossible_settings_are_refused_by_name_and_value(bad):
    (name, value), = bad.items()
    with pytest.raises(ValueError) as e:
        TrainConfig(**bad)
    assert str(e.value).startswith(f"{name}={value!r}") and len(str(e.value)) > len(f"{name}={value!r}: ") + 10


def test_settings_survive_json():
    config = TrainConfig(8, 2, 1e-4, 3, seed=7, schedule="cosine", patience=2, save_minutes=None)
    assert TrainConfig(**json.loads(json.dumps(asdict(config)))) == config


def rows_of_steps(monkeypatch):
    "The rows of each step that was finished, as they come."
    seen = []
    real = bsft_nb.training.hf_trainer.Loop.training_step

    def training_step(self, *args, **kwargs):
        loss = real(self, *args, **kwargs)
        seen.append([p.example for p in self.batch])
        return loss

    monkeypatch.setattr(bsft_nb.training.hf_trainer.Loop, "training_step", training_step)
    return seen


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")])
def test_out_of_memory_halves_the_rows_at_a_time_and_changes_nothing_else(error, llama, tmp_path, monkeypatch):
    whole, run = a_job(tmp_path, llama, "whole", bsize=8, accumsteps=2)
    with monkeypatch.context() as m:
        expected = rows_of_steps(m)
        work(whole, run)
    tight, run = a_job(tmp_path, llama, "tight", bsize=8, accumsteps=2)
    real, calls = bsft_nb.training.hf_trainer.Loop._collated, []

    def collated(self, rows):
        calls.append(len(rows))
        if len(rows) > 2 and len(calls) > 3:  # the first piece of the second step has its gradients already
            raise error
        return real(self, rows)

    monkeypatch.setattr(bsft_nb.training.hf_trainer.Loop, "_collated", collated)
    seen = rows_of_steps(monkeypatch)
    work(tight, run)
    assert seen == expected and len(seen) == 6 and sorted(sum(seen[:2], [])) == sorted(f"e{i}" for i in range(22))
    assert losses(tight) == pytest.approx(losses(whole), rel=1e-5)
    notes = [e.data["note"] for e in run.log.read() if e.kind == "warn"]
    assert [n.split("with ")[1].split(" and")[0] for n in notes] == ["4 rows at a time", "2 rows at a time"]


def test_out_of_memory_with_one_row_says_what_to_do(llama, tmp_path, monkeypatch):
    job, run = a_job(tmp_path, llama)
    monkeypatch.setattr(bsft_nb.training.hf_trainer.Loop, "_collated", lambda self, rows: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")))
    with pytest.raises(MemoryError, match="at step 1 of model with one row at a time.*gradient_checkpointing=True.*No checkpoint"):
        work(job, run)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_ends_it_and_leaves_the_checkpoints(what, llama, tmp_path, monkeypatch):
    job, run = a_job(tmp_path, llama, save_steps=4)
    real = bsft_nb.training.hf_trainer.Loop.training_step

    def training_step(self, model, *args, **kwargs):
        if self.state.global_step + 1 == 6 and what == "loss":
            next(model.parameters()).data.fill_(math.nan)
        loss = real(self, model, *args, **kwargs)
        if self.state.global_step + 1 == 6:
            next(model.parameters()).grad.fill_(math.nan)
        return loss

    with monkeypatch.context() as m:
        m.setattr(bsft_nb.training.hf_trainer.Loop, "training_step", training_step)
        with pytest.raises(FloatingPointError, match=rf"{what} of model is nan at step 6 of 18, rows e\d+ of 'p'.*Lower lr=0.003.*step 4 is whole"):
            work(job, run)
    assert newest(job.checkpoints).step == 4 and all(x.isfinite().all() for x in weights(newest(job.checkpoints).path).values())
    work(job, run)
    whole, run = a_job(tmp_path, llama, "whole", save_steps=4)
    work(whole, run)
    assert losses(job) == losses(whole)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")])
def test_a_full_disk_is_said_and_earlier_checkpoints_stay(error, llama, tmp_path, monkeypatch):
    job, run = a_job(tmp_path, llama)
    real = bsft_nb.training.hf_trainer.Loop._fill

    def fill(self, made):
        real(self, made)
        if self.state.global_step == 12:
            (made / "model.safetensors").write_bytes(b"half")
            raise error

    with monkeypatch.context() as m:
        m.setattr(bsft_nb.training.hf_trainer.Loop, "_fill", fill)
        with pytest.raises(OSError, match="step 12 could not be written to .*Make room.*step 6 is whole"):
            work(job, run)
    assert sorted(p.name for p in job.checkpoints.iterdir()) == ["step-6", "training.json"]
    work(job, run)
    assert len(losses(job)) == 18


def test_a_folder_that_cannot_be_written_is_said_before_training(llama, tmp_path):
    job, run = a_job(tmp_path, llama)
    job.checkpoints.parent.write_text("in the way")
    with pytest.raises(OSError, match="checkpoints cannot be written to .*run_dir="):
        work(job, run)
    assert not [e for e in run.log.read() if e.kind == "train"]


def test_too_small_a_disk_is_said_before_training(llama, tmp_path, monkeypatch):
    job, run = a_job(tmp_path, llama)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="one checkpoint of model needs .* MB: make room"):
        work(job, run)


def test_half_written_checkpoints_are_never_loaded(llama, tmp_path, monkeypatch):
    whole, run = a_job(tmp_path, llama, "whole")
    work(whole, run)
    job, run = a_job(tmp_path, llama, "cut", save_steps=2)
    stop_at(monkeypatch, run, 8)
    with pytest.raises(Stopped):
        work(job, run)
    monkeypatch.undo()
    run.stop_signal.clear()
    last = newest(job.checkpoints)
    shutil.copytree(last.path, last.path.with_name("step-9.tmpabc"))
    shutil.copytree(last.path, last.path.with_name("step-10"))  # its sizes say otherwise
    for path in (last.path.with_name("step-10"), last.path):
        with open(path / "optimizer.pt", "r+b") as f:
            f.truncate(1000)
    assert newest(job.checkpoints) is None or newest(job.checkpoints).step < 8
    work(job, run)
    assert losses(job)[-6:] == losses(whole)[-6:]


def test_other_settings_or_rows_begin_anew_and_finished_training_is_not_repeated(llama, tmp_path):
    job, run = a_job(tmp_path, llama, epochs=1)
    work(job, run)
    n = len(run.log.read())
    work(job, run)
    assert len(run.log.read()) == n and not [e for e in run.log.read() if e.kind == "warn"]
    work(other := replace(job, config=replace(job.config, lr=1e-3)), run)
    assert len(run.log.read()) > n and losses(other) != losses(a_finished(tmp_path, llama))
    save_pairs(Built([pair(i) for i in range(8)], [], {}, []), run / "pairs")
    work(other, run)
    assert len(losses(other)) == 2
    assert ["other settings or other pairs" in e.data["note"] for e in run.log.read() if e.kind == "warn"] == [True, True]


def a_finished(tmp_path, target):
    job, run = a_job(tmp_path, target, "again", epochs=1)
    work(job, run)
    return job


def test_rows_that_are_too_long_are_left_out_and_counted(llama, tmp_path):
    job, run = a_job(tmp_path, llama, epochs=1, max_length=9)
    work(job, run)
    n = sum(pair(i).tokens > 9 for i in range(26))
    assert 0 < n < 20 and f"{n} rows with more than max_length=9 tokens are left out" in [e.data for e in run.log.read() if e.kind == "warn"][0]["note"]
    with pytest.raises(DataError, match="max_length=3: all 22 rows"):
        work(replace(job, config=replace(job.config, max_length=3)), run)


def test_no_rows_for_a_predictor_is_said(llama, tmp_path):
    job, run = a_job(tmp_path, llama)
    with pytest.raises(DataError, match="no rows for 'nobody'"):
        work(replace(job, predictors=("nobody",)), run)


def test_only_the_newest_checkpoint_keeps_optimizer_state(llama, tmp_path):
    job, run = a_job(tmp_path, llama, save_steps=2, epochs=3, scored=True)
    states = []
    work(job, run, lambda c: states.append([x.step for x in checkpoints(job.checkpoints) if (x.path / "optimizer.pt").exists()]))
    assert [c.step for c in checkpoints(job.checkpoints)] == [6, 12, 18], "the ends of epochs wait for their scores"
    assert states == [[4, 6], [10, 12], [16]] and not list(job.checkpoints.rglob("optimizer.pt")), "nothing goes on from the last"
    assert [e.data["step"] for e in run.log.read() if e.kind == "checkpoint"] == list(range(2, 19, 2))
    choose(job)
    assert len(checkpoints(job.checkpoints)) == 1


def test_minutes_bound_what_a_kill_can_cost(llama, tmp_path):
    job, run = a_job(tmp_path, llama, save_minutes=1e-9, epochs=1)
    work(job, run)
    assert [e.data["step"] for e in run.log.read() if e.kind == "checkpoint"] == [1, 2, 3, 4, 5, 6]


def chosen(job):
    return read_json(job.checkpoints / "training.json")["chosen"]


@pytest.mark.parametrize(("given", "best"), [([0.2, 0.9, 0.5], 12), ([0.7, 0.2, 0.1], 6), ([None, 0.1, 0.0], 12)])
def test_the_users_metric_chooses(given, best, llama, tmp_path):
    job, run = a_job(tmp_path, llama, scored=True)
    work(job, run, lambda c: record_score(job.checkpoints, c.step, given[round(c.epoch) - 1]))
    expected = weights(job.checkpoints / f"step-{best}")
    assert same(weights(choose(job)), expected) and chosen(job) == best
    assert choose(job) == job.student and chosen(job) == best, "choosing twice is choosing once"
    assert read_json(job.student / "bsft.json") == job.meta and not (job.student / "trainer_state.json").exists()


def test_without_metric_the_held_out_loss_chooses_and_without_rows_the_last(llama, tmp_path):
    job, run = a_job(tmp_path, llama, scored=True)  # all are kept
    work(job, run)
    found = {e.data["step"]: e.data["eval_loss"] for e in run.log.read() if e.kind == "checkpoint"}
    choose(job)
    assert len(found) == 3 and chosen(job) == min(found, key=found.get)
    job, run = a_job(tmp_path, llama, "none", held=0)
    work(job, run)
    choose(job)
    assert chosen(job) == 18 and not [e for e in run.log.read() if e.kind == "eval"]


@pytest.mark.parametrize("target", ["llama", "t5"])
def test_frozen_layers_stay_and_the_others_learn(target, tmp_path, request):
    path = request.getfixturevalue(target)
    job, run = a_job(tmp_path, path, epochs=1, frozen=0.5)
    work(job, run)
    before, after = weights(path), weights(choose(job))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = "model.layers.{}." if target == "llama" else "encoder.block.{}."
    assert [any(layers.format(i) in name for name in changed) for i in (0, 1)] == [False, True]
    assert not any("embed" in name or "shared" in name for name in changed)


@pytest.mark.parametrize("target", ["llama", "t5"])
def test_backward_ends_above_the_frozen_layers_when_activations_are_recomputed_too(target, tmp_path, request):
    found = []
    for again in (False, True):
        job, _ = a_job(tmp_path, request.getfixturevalue(target), str(again), frozen=0.5, gradient_checkpointing=again)
        model = load_trainable(job, None).train()
        states = model(input_ids=torch.arange(6)[None], labels=torch.arange(6)[None], output_hidden_states=True)
        read = states.encoder_hidden_states if target == "t5" else states.hidden_states
        assert [s.requires_grad for s in read] == [False, False, True]
        states.loss.backward()
        assert all((p.grad is None) == (not p.requires_grad) for p in model.parameters())
        found.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_layers_that_are_not_found_are_said(llama):
    model = load_weights(llama)
    model.config.num_hidden_layers = 5
    with pytest.raises(ValueError, match="layers of LlamaForCausalLM are not found.*Leave frozen=0"):
        freeze(model, 0.5)


def test_frozen_layers_and_adapters_exclude_each_other():
    with pytest.raises(ValueError, match="layers_to_transform"):
        TrainConfig(frozen=0.5, peft=True)


def test_patience_ends_a_training_that_gets_no_better(llama, tmp_path):
    job, run = a_job(tmp_path, llama, epochs=6, patience=2, scored=True)
    given = [0.5, 0.6, 0.5, 0.1, 0.9, 0.9]
    work(job, run, lambda c: record_score(job.checkpoints, c.step, given[round(c.epoch) - 1]))
    assert len(losses(job)) == 24 and "no better checkpoint for 2 epochs" in str([e.data for e in run.log.read() if e.kind == "warn"])
    choose(job)
    assert chosen(job) == 12


def test_events_say_how_it_goes_at_most_twice_a_second(llama, tmp_path):
    job, run = a_job(tmp_path, llama, epochs=12, eval_steps=5)
    work(job, run)
    told = [e for e in run.log.read() if e.kind == "train"]
    assert all(b.t - a.t > 0.45 for a, b in zip(told[:-1], told[1:-1])) and told[-1].data["step"] == told[-1].data["steps"] == 72
    assert told[-1].data["eta_s"] == 0 and told[0].data["memory_mb"] > 50
    assert set(told[0].data) == {"model", "step", "steps", "epoch", "loss", "lr", "grad_norm", "tokens_per_s", "examples_per_s", "memory_mb", "eta_s"}
    evals = [e.data["step"] for e in run.log.read() if e.kind == "eval"]
    assert evals == sorted({*range(6, 73, 6), *range(5, 73, 5)})


@pytest.mark.parametrize(("schedule", "last"), [("linear", 0.0), ("cosine", 0.0), ("constant", 3e-3)])
def test_schedules_fall_as_they_say(schedule, last, llama, tmp_path):
    job, run = a_job(tmp_path, llama, schedule=schedule, warmup=0.5, epochs=2)
    work(job, run)
    final = checkpoints(job.checkpoints)[-1].path / "trainer_state.json"
    rates = [h["learning_rate"] for h in json.loads(final.read_text())["log_history"]]
    assert rates[:6] == sorted(rates[:6]) and max(rates) == pytest.approx(3e-3) and rates[-1] == pytest.approx(last, abs=6e-4)


def test_gradient_checkpointing_and_no_shared_prefix_give_the_same_losses(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(bsft_nb.training.hf_trainer, "BatchOrder", lambda pairs, bsize, seed, noise: BatchOrder(pairs, bsize, seed))  # padded rows come in another order
    jobs = [a_job(tmp_path, llama, str(i), **c) for i, c in enumerate([{}, dict(gradient_checkpointing=True), dict(shared_prefix=False)])]
    for job, run in jobs:
        work(job, run)
    first, *others = [losses(j) for j, _ in jobs]
    assert all(o == pytest.approx(first, rel=1e-4) for o in others)


def test_lora_trains_an_adapter_that_resumes_and_merges(llama, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    from bsft_nb.training.trainer import merge

    whole, run = a_job(tmp_path, llama, "whole", peft=dict(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1))
    work(whole, run)
    job, run = a_job(tmp_path, llama, "parts", peft=dict(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1))
    with monkeypatch.context() as m:
        stop_at(m, run, 8)
        with pytest.raises(Stopped):
            work(job, run)
    run.stop_signal.clear()
    work(job, run)
    assert losses(job) == losses(whole) and losses(job)[-1] < losses(job)[0]
    folder = choose(job)
    assert {"adapter_config.json", "adapter_model.safetensors", "bsft.json", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
    assert not (folder / "model.safetensors").exists() and read_json(folder / "bsft.json")["base"]["path"] == str(llama)
    ids = torch.tensor([[20, 21, 22]])
    logits = [AutoModelForCausalLM.from_pretrained(f)(ids).logits for f in (folder, merge(folder, tmp_path / "merged"), llama)]
    assert torch.allclose(logits[0], logits[1], atol=1e-4) and not torch.allclose(logits[0], logits[2], atol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_lora_of_all_kinds_learns_with_gradient_checkpointing_too(kind, request, tmp_path):
    pytest.importorskip("peft")
    target = request.getfixturevalue(kind)
    jobs = [a_job(tmp_path, target, str(c), peft=True, lr=1e-2, gradient_checkpointing=c) for c in (False, True)]
    for job, run in jobs:
        work(job, run)
    plain, saving = (losses(job) for job, _ in jobs)
    assert plain[-1] < plain[0] and saving == pytest.approx(plain, rel=1e-3)
    files = {f.name: f.stat().st_size for f in choose(jobs[0][0]).iterdir()}
    assert files["adapter_model.safetensors"] < (target / "model.safetensors").stat().st_size


def test_a_lora_config_becomes_json_and_other_adapters_are_refused():
    peft = pytest.importorskip("peft")
    config = TrainConfig(peft=peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    assert config.peft["r"] == 4 and config.peft["target_modules"] == ["q_proj", "v_proj"]
    assert TrainConfig(**json.loads(json.dumps(asdict(config)))) == config
    with pytest.raises(ValueError, match="rank is no argument of peft.LoraConfig"):
        TrainConfig(peft=dict(rank=4))
    with pytest.raises(ValueError, match="a peft.LoraConfig"):
        TrainConfig(peft=peft.IA3Config())
    with pytest.raises(ValueError, match="only LoRA adapters are trained here, not IA3"):
        TrainConfig(peft=dict(peft_type="IA3"))


def test_without_peft_installed_the_settings_say_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="peft=True: the package peft is not installed.*pip install peft"):
        TrainConfig(peft=True)

"""Finished work is used again only where it is still what it was; else it is made again, and nobody is paid twice."""
import hashlib
import json
import shutil
from pathlib import Path

import dspy
import pytest
from training_jobs import a_job, losses, same, stop_at, weights, work

import bsft_nb
from bsft_nb import BootstrapFinetune
from bsft_nb.lessons import CHAT, save_llama, teacher_lm
from bsft_nb.run.events import Stopped
from bsft_nb.run.files import Damaged, read_json, write_json
from bsft_nb.run.folder import RunFolder, home
from bsft_nb.training.checkpoints import (
    MARK,
    checkpoints,
    install,
    installed,
    newest,
    record_score,
    scores,
)
from bsft_nb.training.trainer import choose

ROWS = [dspy.Example(word=f"w{i}", loud="yes").with_inputs("word") for i in range(12)]


def compiled_by(lm, target, **given):
    tp = BootstrapFinetune(metric=lambda e, p, trace=None: p.loud == "yes", teacher_settings=dict(lm=lm))
    program = tp.compile(dspy.Predict("word -> loud"), trainset=ROWS, target=target, bsize=6, epochs=1, lr=1e-3, display=False, **given)
    return program, tp.run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A home with a finished run, its target, and the digest of its weights."
    place = tmp_path_factory.mktemp("finished")
    target = save_llama(place / "target", CHAT, width=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BSFT_HOME", str(place / "home"))
        _, run = compiled_by(teacher_lm(lambda text: {"loud": "yes"}), target)
    return place, run.id, sha(run.path / "model" / "model.safetensors")


@pytest.fixture
def copied(finished, monkeypatch, tmp_path):
    "The same, to be damaged: home, run folder, target, digest."
    place, run, digest = finished
    shutil.copytree(place / "home", tmp_path / "home", dirs_exist_ok=True)
    return RunFolder(tmp_path / "home" / "runs" / run), place / "target", digest


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flip(path):
    "Change one bit in the middle."
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


HURT = {
    "a bit of the weights": lambda run: flip(run / "model" / "model.safetensors"),
    "weights cut off": lambda run: (run / "model" / "model.safetensors").write_bytes((run / "model" / "model.safetensors").read_bytes()[:5000]),
    "no weights": lambda run: (run / "model" / "model.safetensors").unlink(),
    "a tokenizer of zeros": lambda run: (run / "model" / "tokenizer.json").write_bytes(bytes((run / "model" / "tokenizer.json").stat().st_size)),
    "no config": lambda run: (run / "model" / "config.json").unlink(),
    "an empty bsft.json": lambda run: (run / "model" / "bsft.json").write_bytes(b""),
    "no folder": lambda run: shutil.rmtree(run / "model"),
    "a bit of the checkpoint too": lambda run: [flip(p) for p in [run / "model" / "model.safetensors", *(run / "checkpoints").rglob("model.safetensors")]],
    "no checkpoint either": lambda run: [shutil.rmtree(run / "checkpoints"), flip(run / "model" / "model.safetensors")],
    "no job, a damaged note of the training": lambda run: [flip(run / "model" / "model.safetensors"), (run / "jobs" / "model.json").write_bytes(b"[1]"), (run / "checkpoints" / "model" / "training.json").write_bytes(b"{")],
}


@pytest.mark.parametrize("what", HURT)
def test_a_damaged_student_is_refused_and_made_whole_without_asking_the_teacher(copied, what):
    run, target, digest = copied
    HURT[what](run)
    with pytest.raises(Damaged, match="model is not what it was .*Compile again"):
        bsft_nb.load(run.path, dspy.Predict("word -> loud"))
    lm = teacher_lm(lambda text: pytest.fail("the teacher was asked"))
    program, again = compiled_by(lm, target)
    assert again.id == run.id and lm.engine.calls == 0
    told = [e.data["note"] for e in again.events if e.kind == "warn"]
    assert any("the finished student model" in n for n in told), told
    assert sha(run / "model" / "model.safetensors") == digest, "training is exact, and so is a copy"
    bsft_nb.load(run.path, dspy.Predict("word -> loud"))(word="w1")


def test_a_run_file_that_is_damaged_costs_the_run_nothing(copied):
    run, target, digest = copied
    for name in ("run.json", "job.json", "program.json"):
        (run / name).write_bytes(b"[1]")
    lm = teacher_lm(lambda text: pytest.fail("the teacher was asked"))
    _, again = compiled_by(lm, target)
    assert again.status == "finished" and lm.engine.calls == 0 and sha(run / "model" / "model.safetensors") == digest


def test_a_whole_student_is_used_again_untouched(copied):
    run, target, _ = copied
    before = (run / "model" / "model.safetensors").stat().st_ino
    _, again = compiled_by(teacher_lm(lambda text: pytest.fail("the teacher was asked")), target)
    assert (run / "model" / "model.safetensors").stat().st_ino == before and not [e for e in again.events[-3:] if e.kind == "warn"]


def test_a_copied_or_moved_run_has_its_own_student(copied):
    run, _, digest = copied
    assert str(run.path) not in (run / "program.json").read_text() + json.dumps(run.info["models"])
    copy = RunFolder(shutil.copytree(run.path, run.path.with_name("copy")))
    assert bsft_nb.load(copy.path, dspy.Predict("word -> loud")).lm.engine.path == copy / "model"
    flip(copy / "model" / "model.safetensors")
    with pytest.raises(Damaged, match="copy/model"):
        bsft_nb.load("copy", dspy.Predict("word -> loud"))
    moved = Path(shutil.move(run.path, home().parent / "elsewhere"))
    loaded = bsft_nb.load(moved, dspy.Predict("word -> loud"))
    assert loaded.lm.engine.path == moved / "model" and sha(moved / "model" / "model.safetensors") == digest
    loaded(word="w1")


def test_runs_of_earlier_versions_with_absolute_paths_load(copied):
    run, target, digest = copied
    old = str(run.path.parent / "where-it-was" / "model")
    info = {k: v for k, v in run.info.items() if k != "students"}
    write_json(run / "run.json", {**info, "models": {"self": old}})
    state = read_json(run / "program.json")
    for key in ("engine", "async_engine"):
        state["lm"][key]["state"] = {**{k: v for k, v in state["lm"][key]["state"].items() if k != "run"}, "path": old}
    write_json(run / "program.json", state)
    assert bsft_nb.load(run.path, dspy.Predict("word -> loud")).lm.engine.path == run / "model"
    flip(run / "model" / "model.safetensors")
    with pytest.raises(Damaged, match="not those that the program was saved with"):
        bsft_nb.load(run.path, dspy.Predict("word -> loud"))
    compiled_by(teacher_lm(lambda text: pytest.fail("the teacher was asked")), target)
    assert sha(run / "model" / "model.safetensors") == digest


@pytest.mark.parametrize("digests", [True, False], ids=["known by digest", "of an earlier version"])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth"])
def test_a_damaged_state_is_told_and_training_gives_what_it_would_have(llama, tmp_path, monkeypatch, name, digests):
    whole, run = a_job(tmp_path, llama, "whole", epochs=1)
    work(whole, run)
    job, run = a_job(tmp_path, llama, "hurt", epochs=1, save_steps=2)
    stop_at(monkeypatch, run, 4)
    with pytest.raises(Stopped):
        work(job, run)
    monkeypatch.undo()
    run.stop_signal.clear()
    last = newest(job.checkpoints).path
    (last / name).write_bytes(bytes((last / name).stat().st_size))  # of the same size
    if not digests:
        write_json(last / MARK, {k: v for k, v in read_json(last / MARK).items() if k != "digests"})
    work(job, run)
    assert losses(job) == losses(whole)
    (told,) = [e.data["note"] for e in run.log.read() if "damaged" in e.data.get("note", "")]
    assert "optimizer and other states of the checkpoint at step 4 are damaged" in told and "weights_only" not in told


def test_damaged_weights_of_a_checkpoint_are_neither_chosen_nor_gone_on_from(llama, tmp_path, caplog):
    job, run = a_job(tmp_path, llama, scored=True)
    work(job, run)
    for c, score in zip(checkpoints(job.checkpoints), (0.1, 0.9, 0.5)):
        record_score(job.checkpoints, c.step, score)
    best = checkpoints(job.checkpoints)[1]
    expected = {k: v.clone() for k, v in weights(best.path).items()}  # they are mapped from the file
    flip(best.path / "model.safetensors")
    assert best.step not in [c.step for c in checkpoints(job.checkpoints)] and f"step-{best.step} is left out: model.safetensors is damaged" in caplog.text
    work(job, run)
    for c, score in zip(checkpoints(job.checkpoints), (0.1, 0.9, 0.5)):
        record_score(job.checkpoints, c.step, score)
    assert same(weights(choose(job)), expected)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b'{"4": "high", "x": 1, "5": 0.5}'], ids=repr)
def test_damaged_notes_beside_checkpoints_are_no_error(llama, tmp_path, content):
    job, run = a_job(tmp_path, llama, epochs=1)
    work(job, run)
    (job.checkpoints / "scores.json").write_bytes(content)
    assert scores(job.checkpoints) == ({5: 0.5} if b"5" in content else {})
    (job.checkpoints / "training.json").write_bytes(content)
    work(job, run)
    student = choose(job)
    (chosen,) = checkpoints(job.checkpoints)
    assert installed(chosen, student)
    (student / "model.safetensors").unlink()
    assert not installed(chosen, student)
    install(chosen, student)
    assert installed(chosen, student)

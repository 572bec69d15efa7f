"""A compile whose figures go to a tracking tool: whole, in one run of the tool, and never at the cost of the compile."""
import importlib.util
import json

import dspy
import pytest
from sorting import Sort, examples, knows, same_kind

from bsft_nb import BootstrapFinetune
from bsft_nb.lessons import save_llama, teacher_lm
from bsft_nb.results.trackers import TRACKERS
from bsft_nb.run.files import read_json

CURVES = {"train/loss", "train/lr", "score/tuned", "score/untuned", "score/checkpoint", "funnel/trained", "teacher/tried", "teacher/kept"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("tiny"))


def compiled(tiny, folder, track, **more):
    tp = BootstrapFinetune(same_kind, teacher_settings=dict(lm=teacher_lm(knows)))
    tp.compile(dspy.Predict(Sort), trainset=examples(20, 0), target=tiny, bsize=8, run_dir=folder, display=False, track=track, **more)
    return tp.run


def read_mlflow(run):
    from mlflow import MlflowClient

    client = MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == "bsft_nb"]
    (found,) = client.search_runs([experiment.experiment_id])  # one run, though it was compiled twice
    assert found.info.run_id == read_json(run.path / "track.json")["mlflow"]["id"] and found.info.status == "FINISHED"
    assert {"config.lr", "program", "target"} <= set(found.data.params)
    assert [f.path for f in client.list_artifacts(found.info.run_id)] == ["report.html"]
    return {name: [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, name)] for name in found.data.metrics}


def read_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run.path / "tensorboard")).Reload()
    return {name: [(s.step, s.value) for s in board.Scalars(name)] for name in board.Tags()["scalars"]}


def read_trackio(run):
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (found,) = trackio.Api().runs("bsft_nb")  # one run, though it was compiled twice
    assert found.name == read_json(run.path / "track.json")["trackio"]["id"] and {"config.lr", "program", "target"} <= set(found.config)
    figures = {}
    for row in SQLiteStorage.get_logs("bsft_nb", found.name):
        for name in row.keys() & CURVES:
            figures.setdefault(name, []).append((row[f"{name.partition('/')[0]}/step"], row[name]))
    return figures


def read_wandb(run):
    from wandb.proto.wandb_internal_pb2 import Record

    files, figures = sorted((run.path / "wandb").glob("offline-run-*/run-*.wandb")), {}
    assert {f.stem for f in files} == {f"run-{read_json(run.path / 'track.json')['wandb']['id']}"}  # one run, though it was compiled twice
    assert (files[-1].parent / "files" / "report.html").exists()
    for data in (d for f in files for d in wandb_records(f.read_bytes())):
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in Record.FromString(data).history.item}
        for name in row.keys() & CURVES:
            figures.setdefault(name, []).append((row[f"{name.partition('/')[0]}/step"], row[name]))
    return figures


def wandb_records(data):
    "The records of a file of W&B's: blocks of 32 KiB, of pieces with a head of seven bytes, as in LevelDB's log."
    at, whole = 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # all of a record, or the last piece of one
            yield whole
            whole = b""


@pytest.mark.parametrize(("track", "read"), [("mlflow", read_mlflow), ("tensorboard", read_tensorboard), ("trackio", read_trackio), ("wandb", read_wandb)])
def test_a_run_is_one_run_of_the_tool(track, read, tiny, tmp_path, monkeypatch):
    "The figures are the log's, each of them once; a second compile adds nothing to them."
    if importlib.util.find_spec(TRACKERS[track].needs) is None:
        pytest.skip(f"{track} is not installed: pip install {TRACKERS[track].install}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("TRACKIO_DIR", f"{tmp_path}/trackio")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for _ in range(2):
        run = compiled(tiny, tmp_path / "run", track)
    found, events = read(run), run.events
    assert found.keys() >= CURVES
    losses = [(e.data["step"], pytest.approx(e.data["loss"], rel=1e-5)) for e in events if e.kind == "train" and e.data.get("loss") is not None]
    assert found["train/loss"] == losses and losses
    assert found["score/tuned"] == [(0, pytest.approx(run.scores["tuned"]))]
    assert not [e for e in events if e.kind == "warn" and "track" in e.data["note"]]


def test_a_function_that_fails_is_said_once(tiny, tmp_path):
    def broken(event):
        raise ConnectionError("the server is gone")

    run = compiled(tiny, tmp_path / "run", broken)
    said = [e.data["note"] for e in run.events if e.kind == "warn" and "track=" in e.data["note"]]
    assert run.status == "finished" and len(said) == 1 and "the server is gone" in said[0]
    kinds = []
    compiled(tiny, tmp_path / "run", lambda event: kinds.append(event.kind))
    assert kinds[0] == "run" and kinds[-1] == "done"


def test_what_is_missing_is_said_before_the_teacher_is_asked(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lm = teacher_lm(knows)
    with pytest.raises(ValueError, match="pip install mlflow"):
        BootstrapFinetune(same_kind, teacher_settings=dict(lm=lm)).compile(dspy.Predict(Sort), trainset=examples(4, 0), target=tiny, track="mlflow", run_dir=tmp_path / "run")
    assert lm.engine.calls == 0 and not (tmp_path / "run").exists()

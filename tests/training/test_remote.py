"""A target that its provider trains, with a service that runs: one upload and one job are paid for, whatever is cut off."""
import json
import threading

import dspy
import pytest
from remote import admin, killed, service
from remote_compile import compiled
from sorting import Sort, examples

import bsft_nb
from bsft_nb.run.events import Stopped
from bsft_nb.training import provider_jobs


@pytest.fixture
def port(monkeypatch):
    monkeypatch.setattr(provider_jobs, "LONGEST", 0.5)
    with service() as found:
        yield found


def test_the_whole_path(port, tmp_path):
    "One upload, one job, the same events, a program that asks the new model in the format it learned; nothing secret on the disk."
    tp, program = compiled(port, tmp_path / "run", made={"train_kwargs": {"dollars_per_million": 25.0}}, epochs=2)
    done = admin(port)
    assert (done["uploads"], done["jobs"]) == (1, 1) and done["all_jobs"][0]["hyperparameters"] == {"n_epochs": 2}
    chats = [json.loads(line)["messages"] for line in done["files"][0].splitlines()]
    assert all(c[-1]["role"] == "assistant" and c[-1]["content"].startswith("[[ ## kind ## ]]\n") for c in chats) and len(chats) == tp.run.funnel()["trained"]["all"]
    assert program.lm.model.startswith("openai/ft:gpt-small") and tp.run.scores["tuned"] > tp.run.scores["untuned"]
    trained = [e.data for e in tp.run.events if e.kind == "train"]
    assert [(d["step"], d["loss"]) for d in trained if "loss" in d] == [(5, 0.5), (10, 0.25)] and trained[-1]["cost"] == pytest.approx(25e-6 * done["all_jobs"][0]["trained_tokens"])
    assert not [p for p in (tmp_path / "run").rglob("*") if p.is_file() and b"secret-key" in p.read_bytes()]
    with dspy.context(adapter=dspy.JSONAdapter()):
        asked = examples(6, 1)
        loaded = bsft_nb.load(tmp_path / "run", dspy.Predict(Sort))
        assert [program(words=e.words).kind for e in asked] == [loaded(words=e.words).kind for e in asked]
    assert tp.run.untuned(program).lm.model == "openai/gpt-small"
    before = admin(port)["calls"]
    compiled(port, tmp_path / "run", made={"train_kwargs": {"dollars_per_million": 25.0}}, epochs=2)
    assert admin(port)["calls"] == before, "a second compile asks nobody"


@pytest.mark.parametrize("faults", [
    {"upload": ["429", "500 after"], "create": ["500", "lost after"], "look": ["429", "500", "lost"]},
    {"files": ["lost"], "upload": ["lost after"], "jobs": ["500"], "create": ["429", "500 after"], "events": ["lost", "500"]},
])  # fmt: skip
def test_a_service_that_fails_is_not_paid_twice(faults, port, tmp_path):
    admin(port, faults=faults)
    tp, _ = compiled(port, tmp_path / "run")
    done = admin(port)
    assert (done["uploads"], done["jobs"], tp.run.status) == (1, 1, "finished")


def test_a_job_that_fails_says_why_and_can_be_made_again(port, tmp_path):
    admin(port, fail="line 3 is too long")
    with pytest.raises(RuntimeError, match="line 3 is too long"):
        compiled(port, tmp_path / "run")
    admin(port, fail="")
    compiled(port, tmp_path / "run")
    done = admin(port)
    assert (done["uploads"], [j["status"] for j in done["all_jobs"]]) == (1, ["failed", "succeeded"])


def test_stop_cancels_the_job(tmp_path):
    with service(600.0) as port:
        def stop():
            while not admin(port)["calls"].count("look"):
                threading.Event().wait(0.1)
            bsft_nb.attach(tmp_path / "run").stop()

        threading.Thread(target=stop, daemon=True).start()
        with pytest.raises(Stopped, match="is cancelled at the provider"):
            compiled(port, tmp_path / "run")
        assert [j["status"] for j in admin(port)["all_jobs"]] == ["cancelled"]


def test_killed_three_times_there_is_one_job(tmp_path):
    assert killed(tmp_path) == {"jobs": 1, "uploads": 1, "exit_codes": [-9, -9, -9, 0], "status": "finished"}

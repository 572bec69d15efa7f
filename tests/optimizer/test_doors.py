"""What a file says can neither run code, nor send anything anywhere, nor lead out of its folder."""
import json
import shutil
import sys

import dspy
import pytest

import bsft_nb
from bsft_nb.engine.lm import student_lm
from bsft_nb.models.student_adapter import load_adapter
from bsft_nb.models.targets import resolve_target
from bsft_nb.models.weights import TargetError
from bsft_nb.run.doors import check_signature_text, clean_program
from bsft_nb.run.folder import RunFolder
from bsft_nb.training.checkpoints import MARK, checkpoints, write_checkpoint
from bsft_nb.training.jobs import Job


@pytest.fixture
def sent(tmp_path):
    "Writes a `question -> answer` program's file, with `changes` to its LM and `more` entries of the predictor."

    def write(lm=None, more=None, **changes):
        program, path = dspy.Predict("question -> answer"), tmp_path / "sent.json"
        program.lm = lm or dspy.LM("openai/gpt-4o-mini", temperature=0.5, cache=False)
        program.save(path)
        state = json.loads(path.read_text())
        state["lm"].update(changes)
        path.write_text(json.dumps({**state, **(more or {})}))
        return path

    return write


PLACES = {
    "api_base": "http://elsewhere/v1", "base_url": "http://elsewhere/v1", "api_key": "sk-theirs", "headers": {"a": "b"}, "extra_headers": {"a": "b"},
    "organization": "theirs", "custom_llm_provider": "openai", "model_type": "text", "model_list": [{"x": 1}], "azure_ad_token": "x", "extra_body": {"x": 1},
    "launch_kwargs": {"command": "x"}, "train_kwargs": {"x": 1}, "finetuning_model": "theirs", "prompt_cache": {"x": 1}, "tools": [{"x": 1}], "never_heard_of": 1,
}


@pytest.mark.parametrize("key", PLACES)
def test_an_lm_in_a_file_keeps_only_how_it_samples(sent, key):
    with pytest.warns(UserWarning, match=f"left out: self: {key} of its LM"):
        lm = bsft_nb.load(sent(**{key: PLACES[key]}), dspy.Predict("question -> answer")).lm
    assert lm.model == "openai/gpt-4o-mini" and lm.kwargs == {"temperature": 0.5, "max_tokens": None} and lm.model_type == "chat"
    assert (lm.launch_kwargs, lm.train_kwargs, lm.finetuning_model) == ({}, {}, None)


@pytest.mark.parametrize("key", ["config", "callbacks", "forward", "history", "stage", "untuned_format"])
def test_a_predictor_in_a_file_sets_nothing_but_its_own_state(sent, key):
    plain = dspy.Predict("question -> answer")
    with pytest.warns(UserWarning, match=f"self: {key}"):
        loaded = bsft_nb.load(sent(more={key: {"api_base": "http://elsewhere"}}), plain)
    assert vars(loaded).get(key) in (vars(plain).get(key), None) and loaded.config == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": {"class": "subprocess:Popen", "state": {}}},
        {"engine": "litellm", "async_engine": {"class": "bsft_nb.engine:AsyncStudentEngine", "state": {"path": "x", "fingerprint": "y"}}},
        {"_dspy_lm_class": "dspy.clients.typesafe.TypeSafe"},
        {"_dspy_lm_class": "antigravity.LM"},
        {"model": "huggingface/https://elsewhere.example"},
        {"model": "bedrock/arn:aws:bedrock:us-east-1:1:x"},
        {"model": 3},
        {"engine": {"class": "bsft_nb.engine:StudentEngine", "state": {"path": "s3://x", "fingerprint": "y"}}},
        {"engine": {"class": "bsft_nb.engine:StudentEngine", "state": {}}},
    ],
)
def test_foreign_classes_and_places_are_refused(sent, changes):
    with pytest.raises(ValueError, match="self"):
        bsft_nb.load(sent(**changes), dspy.Predict("question -> answer"))


@pytest.mark.parametrize("content", [[], 3, {"a": 1}, {"a": {"signature": "q -> a"}}, {"signature": {}, "lm": []}])
def test_what_is_no_state_is_named(tmp_path, content):
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="x.json|model's name"):
        bsft_nb.load(tmp_path / "x.json", dspy.Predict("question -> answer"))


def test_what_compile_saves_passes_whole(llama, sent):
    path = sent(student_lm(llama, temperature=0.7, max_tokens=9, n=2))
    loaded = bsft_nb.load(path, dspy.Predict("question -> answer"))
    assert loaded.lm.kwargs == {"temperature": 0.7, "max_tokens": 9, "n": 2} and loaded.lm.engine is student_lm(llama).engine
    assert clean_program(json.loads(path.read_text()), "x")[1] == []


@pytest.mark.parametrize("fields", ["q: spy.Thing -> a", "q: spy -> a", "q -> a: list[spy.Thing]", "q -> a: 'spy()'", "q -> a: spy.f()"])
def test_a_signature_in_a_file_imports_nothing(llama, sent, tmp_path, monkeypatch, fields):
    (tmp_path / "spy.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = shutil.copytree(llama, tmp_path / "student")
    (folder / "bsft.json").write_text(json.dumps({"signatures": {"self": {"fields": fields, "instructions": "x"}}}))
    with pytest.raises(ValueError, match="does not name code"):
        bsft_nb.load(sent(student_lm(folder)))
    assert "spy" not in sys.modules


def test_plain_signatures_are_read():
    for fields in ("a, b: int -> c: list[str] | None", "a -> b: Literal['x', 3]", "a: Optional[dict[str, Any]] -> b: Union[int, str]"):
        check_signature_text(fields)
        dspy.Signature(fields)


@pytest.mark.parametrize("more", [{"attn_implementation": "someone/kernel"}, {"text_config": {"_attn_implementation": "a/b:c"}}, {"x": [{"experts_implementation": "a/b@1"}]}])
def test_a_model_folder_names_no_code(llama, tmp_path, more):
    folder = shutil.copytree(llama, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **more}))
    with pytest.raises(TargetError, match="never run"):
        resolve_target(folder)


@pytest.mark.parametrize("config", [{"megatron_config": {"x": 1}, "megatron_core": "megatron.spy"}, {"peft_type": "VERA"}, []])
def test_an_adapter_folder_names_no_code(llama, tmp_path, config):
    folder = shutil.copytree(llama, tmp_path / "m")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "bsft.json").write_text(json.dumps({"base": {"path": str(llama), "fingerprint": resolve_target(llama).fingerprint}}))
    with pytest.raises(TargetError, match="adapter_config.json"):
        resolve_target(folder)


@pytest.mark.parametrize("name", ["../../keys", "/tmp/keys", "a/../../keys", "C:\\keys"])
def test_a_checkpoint_lists_no_files_outside(tmp_path, name):
    made = write_checkpoint(tmp_path, 1, 1.0, None, True, lambda f: (f / "w").write_text("x"))
    assert len(checkpoints(tmp_path)) == 1
    mark = json.loads((made.path / MARK).read_text())
    (made.path / MARK).write_text(json.dumps({**mark, "files": {**mark["files"], name: 1}}))
    assert checkpoints(tmp_path) == []


@pytest.mark.parametrize("model", ["../other", "/tmp/other", "..", "a/b", ""])
def test_a_job_is_within_its_run(tmp_path, model):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(ValueError, match="leads elsewhere"):
        Job.load(folder, model)
    Job(str(folder.path), "model", "t", "f", ("self",)).save()
    state = json.loads((folder / "jobs/model.json").read_text())
    (folder / "jobs/model.json").write_text(json.dumps({**state, "model": model}))
    assert Job.load(folder, "model").student == folder / "model"


@pytest.mark.parametrize("state", [{}, {"name": "os.system"}, {"name": "ChatAdapter", "callbacks": []}, {"name": "StudentAdapter", "separator": 3}, {"name": "StudentAdapter", "x": 1}])
def test_a_format_in_a_file_is_one_of_ours(state):
    with pytest.raises(ValueError, match="none that a student can have"):
        load_adapter(state)

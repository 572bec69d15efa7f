"""Weights are whole, or nothing is answered, trained or merged with them; tied weights are whole."""
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from bsft_nb.engine.decode import Generator
from bsft_nb.lessons import save_llama, save_t5
from bsft_nb.models.loading import check_adapter, load_adapter, load_weights
from bsft_nb.models.targets import check_folder
from bsft_nb.models.tokens import load_codec
from bsft_nb.models.weights import TargetError
from bsft_nb.training.trainer import merge

SMALL = dict(vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
MADE = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4)),
    "mamba": lambda: MambaForCausalLM(MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4)),
    "experts": lambda: MixtralForCausalLM(MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=2)),
}


def saved(name, folder):
    if name == "t5":
        return save_t5(folder, ["a few words"] * 20)
    MADE[name]().save_pretrained(folder)
    return folder


def without(folder, drop, file="model.safetensors"):
    "Write the weights anew, without those that `drop` names; how many those were."
    weights = load_file(folder / file)
    kept = {k: v for i, (k, v) in enumerate(sorted(weights.items())) if not drop(k, i)}
    save_file(kept, folder / file, {"format": "pt"})
    return len(weights) - len(kept)


@pytest.mark.parametrize("name", [*MADE, "t5"])
def test_whole_weights_load_and_half_of_them_do_not(name, tmp_path):
    folder = saved(name, tmp_path / name)
    load_weights(folder)
    n = without(folder, lambda key, i: i % 2)
    with pytest.raises(TargetError, match="lack .* tensors?"):
        load_weights(folder)
    assert n > 3


@pytest.mark.parametrize("lacks", ["model.norm.weight", "model.embed_tokens.weight", "lm_head.weight", "model.layers.1.self_attn.k_proj.weight"])
def test_a_single_tensor_that_lacks_is_named(lacks, tmp_path):
    folder = saved("llama", tmp_path)
    assert without(folder, lambda key, i: key == lacks) == 1
    with pytest.raises(TargetError, match=lacks):
        load_weights(folder)


@pytest.mark.parametrize("change", [{"intermediate_size": 32}, {"vocab_size": 98}, {"hidden_size": 64}])
def test_tensors_of_another_shape_are_refused(change, tmp_path):
    folder = saved("llama", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(TargetError, match="other shapes than config.json says"):
        load_weights(folder)


def test_an_engine_does_not_answer_with_random_numbers(tmp_path):
    from dspy.lm15 import Message, Request

    from bsft_nb.engine.lm import StudentEngine

    folder = save_llama(tmp_path / "student")
    without(folder, lambda key, i: "mlp" in key)
    with pytest.raises(TargetError, match="random numbers"):
        StudentEngine.at(folder).complete(Request(model="m", messages=(Message.user("hello"),)))


@pytest.fixture
def adapter(llama, tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = peft.get_peft_model(load_weights(llama), peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    meta = {"base": {"path": str(llama), "fingerprint": check_folder(llama, "").fingerprint}}
    (tmp_path / "adapter" / "bsft.json").write_text(json.dumps(meta))
    return tmp_path / "adapter"


@pytest.mark.parametrize("drop", [lambda key, i: i % 2, lambda key, i: "lora_B" in key, lambda key, i: i == 0])
def test_an_adapter_that_lacks_tensors_is_refused_wherever_it_is_loaded(adapter, llama, drop, tmp_path):
    from peft import PeftModel

    load_weights(adapter)
    check_adapter(PeftModel.from_pretrained(load_weights(llama), adapter), adapter)
    assert without(adapter, drop, "adapter_model.safetensors")
    for load in (
        lambda: load_weights(adapter),
        lambda: load_adapter(load_weights(llama), adapter),
        lambda: Generator(load_weights(llama), load_codec(llama)).use(adapter),
        lambda: check_adapter(PeftModel.from_pretrained(load_weights(llama), adapter), adapter),
        lambda: merge(adapter, tmp_path / "merged"),
    ):
        with pytest.raises(TargetError, match="lack .* tensors?"):
            load()


def test_an_adapter_of_another_shape_is_refused(adapter, tmp_path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    with pytest.raises(TargetError, match="does not fit its base|other shapes"):
        load_weights(adapter)


@pytest.mark.parametrize("way", ["relative", "with dots", "a link"])
def test_a_target_is_the_same_from_every_folder(way, llama, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "base").symlink_to(llama)
    monkeypatch.chdir(tmp_path / "a")
    given = {"relative": "base", "with dots": "../a/base", "a link": str(tmp_path / "a" / "base")}[way]
    target = check_folder(Path(given), given)
    monkeypatch.chdir(tmp_path)
    assert check_folder(target.path, "").fingerprint == target.fingerprint and target.path.is_absolute()


def test_models_that_threads_load_at_once_are_whole(t5, tmp_path):
    from transformers import PreTrainedModel

    tied = LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True))
    tied.save_pretrained(tmp_path)
    before = PreTrainedModel.tie_weights
    try:
        with ThreadPoolExecutor(4) as pool:
            for model in pool.map(load_weights, [t5, tmp_path] * 12):
                assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert PreTrainedModel.tie_weights is before, "transformers is as it was"
    finally:
        PreTrainedModel.tie_weights = before

"""A few families of different kinds, as `tests/bench/families.py` tries all; and answers that obey nobody's habits."""
import json
import logging

import families
import pytest
import torch
from test_losses import BATCHES, CODEC, labelled, made

from bsft_nb.engine.attention import why_not_in_parts
from bsft_nb.engine.decode import Generator
from bsft_nb.engine.sampling import Row
from bsft_nb.models.loading import load_weights
from bsft_nb.models.tokens import load_codec
from bsft_nb.training.objective import can_share, completion_loss, pads_right
from bsft_nb.training.packing import attend_packed, collate, use_packed_attention

logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.mark.parametrize(
    ("family", "path", "why"),
    [
        ("qwen3", "shared", None),
        ("olmoe", "shared", None),
        ("mistral", "shared", None),  # a window, shorter than the prompts
        ("gemma2", "shared", None),  # a cap
        ("gpt_oss", "shared", None),  # sinks
        ("deepseek_v2", "shared", None),  # keys larger than values
        ("mamba2", "plain", "position_ids"),
        ("falcon_h1", "plain", "an attention of its own"),
        ("rwkv", "plain", "position_ids"),
        ("llama4", "plain", "a mask for 7 tokens and sliding_window=None"),
        ("mbart", "plain", "counts places"),
        ("mt5", "columns", None),
        ("t5gemma", "plain", "encoder-decoder"),
        ("roberta", "refused", "both directions"),
        ("emu3", "refused", "more than text"),
    ],
)
def test_a_family_answers_and_learns_as_transformers_does_or_says_why_not(family, path, why, tmp_path):
    found = families.tried(family, tmp_path / family, quick=True)
    assert found["path"] == path and (why is None or why in found["why"]), found
    if path != "refused":
        assert found["tokens_equal"] == "6/6" and found["loss"] < 1e-3, found


HABITS = [
    {"min_length": 9, "forced_bos_token_id": 7, "no_repeat_ngram_size": 2},
    {"repetition_penalty": 5.0, "suppress_tokens": list(range(3, 200))},
    {"bad_words_ids": [[i] for i in range(3, 150)], "forced_eos_token_id": 2, "num_beams": 3},
    {"do_sample": True, "temperature": 2.0, "top_k": 3, "exponential_decay_length_penalty": [1, 3.0]},
]


@pytest.mark.parametrize("place", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("habits", HABITS, ids=lambda h: min(h))
@pytest.mark.parametrize("family", ["bart", "pegasus", "falcon"])
def test_no_setting_of_the_target_changes_an_answer(family, habits, place, tmp_path):
    folder = families.save_stand_in(family, tmp_path / "t")
    ends = family != "falcon"
    prompts = [p + [2] * ends for p in families.PROMPTS]
    wanted = families.reference(folder, prompts, 8)
    if place == "config.json":
        (folder / "generation_config.json").unlink(missing_ok=True)
    file = folder / place
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | habits))
    model = load_weights(folder)
    rows = [Row(p, 8) for p in prompts]
    Generator(model, load_codec(folder))(rows)
    assert [r.answer for r in rows] == wanted
    model.save_pretrained(tmp_path / "student")
    kept = json.loads((tmp_path / "student" / "generation_config.json").read_text()) | json.loads((tmp_path / "student" / "config.json").read_text())
    assert not [k for k in habits if kept.get(k)]


@pytest.mark.parametrize("family", ["qwen2", "bart", "mamba"])
def test_a_student_of_a_target_with_habits_answers_alone_as_its_engine_does(family, tmp_path):
    "Compiled, loaded, and by `generate` of transformers alone with the settings that lie beside it."
    folder = families.save_stand_in(family, tmp_path / family)
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"repetition_penalty": 4.0, "min_length": 30, "forced_bos_token_id": 9, "do_sample": True}))
    assert families.compiled(folder) == (True, True)


DROPPED = {"s_aux": torch.zeros(4), "sliding_window": 4096, "position_bias": torch.zeros(1, 4, 1, 1), "relative_bias": 1.0, "is_causal": False}


@pytest.mark.parametrize("name", DROPPED)
@pytest.mark.parametrize("why", [can_share, why_not_in_parts])
def test_an_argument_that_a_fast_path_does_not_know_refuses_it(why, name, monkeypatch):
    "Also one whose value changes nothing yet, as a cap far above the scores of a model that has learned nothing."
    from transformers.models.llama import modeling_llama

    model = made("llama")
    assert why(model) is None
    forward = modeling_llama.LlamaAttention.forward
    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", lambda self, *a, **k: forward(self, *a, **{**k, **({name: DROPPED[name]} if self.config._attn_implementation.startswith("bsft") else {})}))
    assert ("does not know" in why(model) or name == "s_aux" and "a probe's logits" in why(model)) and model.config._attn_implementation == "sdpa" and model.training
    generator = Generator(model.eval(), load_codec_of_nothing())
    assert not generator.shared and generator.why_not_shared == why_not_in_parts(model)


def load_codec_of_nothing():
    return type("Nothing", (), {"stop_ids": {0}, "pad_id": 0, "encoder_decoder": False})()


def test_the_probe_asks_the_attention_that_the_model_was_loaded_with(monkeypatch):
    "Not one that drops the same as ours: here an eager attention that turns each score around."
    from transformers.models.llama import modeling_llama

    model = made("llama")
    model.set_attn_implementation("eager")
    eager = modeling_llama.eager_attention_forward
    monkeypatch.setattr(modeling_llama, "eager_attention_forward", lambda m, q, *a, **k: eager(m, -q, *a, **k))
    for why in (can_share, why_not_in_parts):
        assert "a probe's logits" in why(model)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("family", ["camembert", "rwkv", "mamba", "opt", "gpt2"])
def test_padding_never_changes_a_loss(family, tmp_path, monkeypatch):
    "RoBERTa's positions begin elsewhere, RWKV reads padding: then it stands on the right."
    monkeypatch.setitem(families.MORE, "camembert", {"is_decoder": True})
    model = load_weights(families.save_stand_in(family, tmp_path / family))
    right = pads_right(model)
    assert right == (family in ("camembert", "rwkv"))
    pairs, module = BATCHES["two predictors in turn"], completion_loss(model).eval()
    module.plain_because = None
    alone = [labelled(model, [p]).item() * len(p.completion_ids) for p in pairs]
    ours = module(**collate(pairs, CODEC, False, right))["loss"].item()
    single = [module(**collate([p], CODEC, False, right))["loss"].item() * len(p.completion_ids) for p in pairs]
    n = sum(len(p.completion_ids) for p in pairs)
    assert ours == pytest.approx(sum(single) / n, rel=1e-4) and ours == pytest.approx(sum(alone) / n, rel=1e-4)


def kept_for_backward(model, checkpointing):
    "Bytes that autograd keeps between forward and backward of a packed batch, all hooks included."
    import gc
    import weakref

    if checkpointing:
        model.activation_checkpointing_enable()
    module, pairs, seen = completion_loss(model), BATCHES["shared beginning, mixed lengths"], []
    real = torch.nn.functional.scaled_dot_product_attention

    def noting(q, k, v, *args, **kwargs):
        out = real(q, k, v, *args, **kwargs)
        seen.extend(weakref.ref(t) for t in (q, k, v, out))
        return out

    torch.nn.functional.scaled_dot_product_attention = noting
    try:
        loss = module(**collate(pairs, CODEC))["loss"]
        gc.collect()
        alive = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for r in seen if (t := r()) is not None}
        loss.backward()
    finally:
        torch.nn.functional.scaled_dot_product_attention = real
    return sum(alive.values())


@pytest.mark.parametrize("name", ["llama", "tied", "qwen3"])
def test_gradient_checkpointing_keeps_no_attention(name):
    plain, checkpointed = kept_for_backward(made(name), False), kept_for_backward(made(name), True)
    assert plain > 10_000 and checkpointed == 0


def test_inside_others_hooks_all_tensors_go_to_them():
    "Whoever decides what is kept (checkpointing, offloading) sees each tensor of attention; none is put aside."
    model, counts = made("llama"), []
    use_packed_attention(model)
    q, k, v = (torch.rand(1, 4, 30, 8, requires_grad=True) for _ in range(3))
    for sizes in ([[10, 10, 10]], [[10, 20]], [[0, 30]]):
        seen = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, seen=seen: seen.append(t) or len(seen) - 1, lambda i, seen=seen: seen[i]):
            out, _ = attend_packed(model.model.layers[0].self_attn, q, k, v, None, packed_sizes=sizes)
        counts.append(sum(t.shape[2] for t in seen if t.dim() == 4))
        out.sum().backward()
    assert min(counts) > 60

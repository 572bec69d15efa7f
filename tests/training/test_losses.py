"""Batches of one sequence give the loss and gradients of padded rows; the order of rows; who can share."""
import random
import threading
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from bsft_nb.data.pairs import Pair
from bsft_nb.training.objective import can_share, completion_loss
from bsft_nb.training.packing import (
    BatchOrder,
    collate,
    shared_prefix,
    use_packed_attention,
)

CODEC = SimpleNamespace(encoder_decoder=False, pad_id=0)
SMALL = dict(vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.2)
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=16)),
    "smollm2's shape": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=2, num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True)),
}
HEADS = dict(num_key_value_heads=2, head_dim=8)
RULED = {  # attention that does more than look back, at all that is before
    "window": lambda: MistralForCausalLM(MistralConfig(**SMALL, **HEADS, sliding_window=8)),
    "window and cap": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, **HEADS, sliding_window=8, attn_logit_softcapping=0.5)),
    "window and sink": lambda: GptOssForCausalLM(GptOssConfig(**SMALL, **HEADS, sliding_window=8, num_local_experts=4, num_experts_per_tok=2)),
    "keys larger than values": lambda: DeepseekV2ForCausalLM(DeepseekV2Config(**SMALL, num_key_value_heads=4, kv_lora_rank=8, q_lora_rank=None, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8, first_k_dense_replace=2)),
}


def made(name):
    torch.manual_seed(0)
    return (MODELS | RULED)[name]().train()


def rows(lengths, shared=20, seed=0, vocab=97, predictor="p"):
    "Pairs that begin alike; `lengths` of each row's own prompt and completion."
    draw = random.Random(seed)
    def ids(n):
        return [draw.randrange(1, vocab) for _ in range(n)]
    begin = ids(shared)
    return [Pair(str(i), predictor, "", "", None, begin + ids(a), ids(b)) for i, (a, b) in enumerate(lengths)]


MIXED = [(5, 1), (9, 4), (1, 7), (30, 2), (12, 1)]
BATCHES = {
    "shared beginning, mixed lengths": rows(MIXED),
    "nothing shared": rows(MIXED, shared=0),
    "one row": rows([(9, 3)]),
    "the same prompt twice": [*rows([(9, 3)]), *[Pair("", "p", "", "", None, rows([(9, 3)])[0].prompt_ids, [5, 6])]],
    "a prompt that another continues": rows([(0, 3), (8, 2)]),
    "two beginnings of one predictor": rows(MIXED[:2]) + rows(MIXED[2:], seed=1),
    "two predictors in turn": [p for pair in zip(rows(MIXED), rows(MIXED, shared=9, seed=1, predictor="q")) for p in pair],
    "prompts of one token": rows([(1, 2), (1, 3)], shared=0),
}


def labelled(model, pairs, total=None):
    "The plain way: rows padded on the right, -100 on the prompt, transformers' own loss."
    width = max(p.tokens for p in pairs)
    ids = torch.tensor([p.prompt_ids + p.completion_ids + [0] * (width - p.tokens) for p in pairs])
    labels = torch.tensor([[-100] * len(p.prompt_ids) + p.completion_ids + [-100] * (width - p.tokens) for p in pairs])
    mask = torch.tensor([[1] * p.tokens + [0] * (width - p.tokens) for p in pairs])
    return model(input_ids=ids, attention_mask=mask, labels=labels, **({"num_items_in_batch": total} if total else {})).loss


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def assert_same(model, ours, plain):
    assert abs(ours.item() - plain.item()) <= 1e-5 * abs(plain.item())
    assert_near(gradients(model, ours), gradients(model, plain))


def assert_near(a, b):
    floor = 1e-7 * max(g.norm() for g in b.values())  # a gradient that is zero but for rounding, as of a key's bias
    worst = {n: ((a[n] - b[n]).norm() / b[n].norm().clamp(min=floor)).item() for n in b if b[n].norm() > floor or a[n].norm() > 10 * floor}
    assert len(worst) >= len(b) / 2 and max(worst.values()) <= 1e-4, worst


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch", BATCHES)
def test_one_sequence_is_exact(name, batch):
    model = made(name)
    loss = completion_loss(model)
    assert loss.plain_because is None
    plain = labelled(model, BATCHES[batch])
    assert_same(model, loss(**collate(BATCHES[batch], CODEC))["loss"], plain)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", RULED)
def test_windows_caps_sinks_and_larger_keys_are_exact(name, shared):
    "With windows shorter than the prompts; the other model alike attends as its family does."
    model, other = made(name), made(name)
    with torch.no_grad():
        for m in (model, other):
            for n, p in m.named_parameters():
                if "sinks" in n:
                    p.copy_(torch.arange(4.0))
    loss = completion_loss(model)
    assert loss.plain_because is None
    for batch in ("two predictors in turn", "nothing shared", "prompts of one token"):
        ours, plain = loss(**collate(BATCHES[batch], CODEC, shared))["loss"], labelled(other, BATCHES[batch])
        assert abs(ours.item() - plain.item()) <= 1e-5 * abs(plain.item())
        assert_near(gradients(model, ours), gradients(other, plain))


@pytest.mark.parametrize("name", ["tied", "gpt2", "smollm2's shape"])
def test_gradient_of_an_embedding_that_scores_too_is_that_of_another_model_alike(name):
    model, other, batch = made(name), made(name), BATCHES["two predictors in turn"]
    loss = completion_loss(model)
    assert_near(gradients(model, loss(**collate(batch, CODEC))["loss"]), plain := gradients(other, labelled(other, batch)))
    loss(**collate(batch, CODEC))["loss"].backward()  # a second piece of the step
    assert_near({n: p.grad for n, p in model.named_parameters()}, {n: 2 * g for n, g in plain.items()})
    assert model.get_input_embeddings().weight.grad.layout is torch.strided


def test_each_predictor_in_a_batch_has_its_prefix_once():
    batch = collate(BATCHES["two predictors in turn"], CODEC)
    sizes = batch["sizes"][0].tolist()
    assert [sizes[0], sizes[sizes.index(-1) + 1]] == [20, 9] and sum(n for n in sizes if n > 0) == batch["input_ids"].shape[1]
    assert batch["input_ids"].shape[1] == 29 + sum(2 * (a + b - 1) for a, b in MIXED)


@pytest.mark.parametrize("batch", BATCHES)
def test_padded_rows_are_exact(batch):
    model = made("llama")
    plain = labelled(model, BATCHES[batch])
    assert_same(model, completion_loss(model)(**collate(BATCHES[batch], CODEC, shared=False))["loss"], plain)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 5)), min_size=1, max_size=6), st.integers(0, 30))
def test_any_lengths_are_exact(lengths, shared):
    model, pairs = made("llama"), rows(lengths, shared)
    plain = labelled(model, pairs).item()
    assert completion_loss(model)(**collate(pairs, CODEC))["loss"].item() == pytest.approx(plain, rel=1e-5)


def with_lora(model, alpha=64):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=alpha, target_modules="all-linear", init_lora_weights=False, lora_dropout=0.0))


@pytest.mark.parametrize("name", ["llama", "qwen3", "smollm2's shape"])
def test_lora_is_exact(name):
    model = with_lora(made(name))
    loss, pairs = completion_loss(model), BATCHES["shared beginning, mixed lengths"]
    assert loss.plain_because is None and all("lora" in n for n, p in model.named_parameters() if p.requires_grad)
    assert_same(model, loss(**collate(pairs, CODEC))["loss"], labelled(model, pairs))


def test_merged_lora_has_the_adapters_loss():
    model, pairs = with_lora(made("llama")), BATCHES["shared beginning, mixed lengths"]
    apart = completion_loss(model)(**collate(pairs, CODEC))["loss"].item()
    merged = model.merge_and_unload()
    assert labelled(merged, pairs).item() == pytest.approx(apart, rel=1e-5)
    assert labelled(made("llama"), pairs).item() != pytest.approx(apart, rel=1e-3)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", ["llama", "tied"])
def test_gradient_checkpointing_is_exact(name, reentrant, lora):
    model, pairs = made(name), BATCHES["shared beginning, mixed lengths"]
    model = with_lora(model) if lora else model
    plain = gradients(model, labelled(model, pairs))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    ours = gradients(model, completion_loss(model)(**collate(pairs, CODEC))["loss"])
    assert_near(ours, plain)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_bf16_autocast_runs_and_is_near():
    model, pairs = made("llama"), BATCHES["shared beginning, mixed lengths"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = completion_loss(model)(**collate(pairs, CODEC))["loss"]
    found = gradients(model, loss)
    assert loss.item() == pytest.approx(labelled(model, pairs).item(), rel=0.02)
    assert all(g.dtype is torch.float32 and g.isfinite().all() for g in found.values())


@pytest.mark.parametrize("name", ["llama", "tied"])
def test_under_ddp_every_parameter_is_used(name, tmp_path):
    model = made(name)
    loss = completion_loss(model)  # as in `Loop`, before the processes meet
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(loss)
        for pairs in (BATCHES["nothing shared"], BATCHES["shared beginning, mixed lengths"]):  # an unused parameter fails in the second
            found = gradients(model, wrapped(**collate(pairs, CODEC))["loss"])
            assert_near(found, gradients(model, labelled(model, pairs)))
    finally:
        torch.distributed.destroy_process_group()


def test_threads_do_not_mix_their_batches():
    model = made("llama").eval()
    loss, batches = completion_loss(model), [collate(p, CODEC) for p in BATCHES.values()]
    alone, found = [loss(**b)["loss"].item() for b in batches], {}

    def work(i):
        for _ in range(20):
            found.setdefault(i, set()).add(round(loss(**batches[i])["loss"].item() / alone[i], 5))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert all(found[i] == {1.0} for i in range(len(batches)))


class Rows(list):
    "A dataset."


class Ordered(Trainer):
    def _get_train_sampler(self, *args):
        return BatchOrder(self.train_dataset, self.args.per_device_train_batch_size, self.args.seed)


class Recorded(Ordered):
    "Keeps the loss of each optimizer step, unrounded."

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.__dict__.setdefault("seen", []).append(loss.item())
        return loss


def trained(model, module, collator, pairs, folder, steps, accumulation):
    args = TrainingArguments(str(folder), per_device_train_batch_size=4, gradient_accumulation_steps=accumulation, max_steps=steps, learning_rate=1e-3, lr_scheduler_type="constant", use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", remove_unused_columns=False, logging_steps=1, label_names=["labels"], dataloader_pin_memory=False)
    trainer = Recorded(module, args, data_collator=collator, train_dataset=Rows(pairs))
    trainer.train()
    return trainer.seen, {n: p.detach().clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("lora", [False, True])
def test_twenty_steps_of_trainer_follow_the_plain_way(tmp_path, accumulation, lora):
    "Against transformers' own labels and normalisation, with batches of unequal token counts."
    draw = random.Random(3)
    pairs = rows([(draw.randrange(1, 30), draw.randrange(1, 9)) for _ in range(44)])

    class Plain(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.config = model, model.config

        def forward(self, batch, labels, num_items_in_batch=None, **kwargs):
            return {"loss": labelled(self.model, batch, num_items_in_batch)}

    def plain_batch(batch):
        return {"batch": batch, "labels": torch.tensor([i for p in batch for i in p.completion_ids])}

    results = []
    for ours in (True, False):
        model = with_lora(made("llama"), alpha=2) if lora else made("llama")
        module, collator = (completion_loss(model), lambda b: collate(b, CODEC)) if ours else (Plain(model), plain_batch)
        results.append(trained(model, module, collator, pairs, tmp_path, 20, accumulation))
    (seen, weights), (expected, others) = results
    assert len(seen) == len(expected) >= 20
    assert seen == pytest.approx(expected, rel=1e-4) and len(set(seen)) == len(seen)
    assert all(torch.allclose(weights[n], others[n], atol=2e-4) for n in others)


def test_accumulated_batches_weigh_each_token_alike():
    model, pairs = made("llama"), BATCHES["shared beginning, mixed lengths"]
    loss, total = completion_loss(model), sum(len(p.completion_ids) for p in pairs)
    parts = [loss(**collate(p, CODEC), num_items_in_batch=torch.tensor(total))["loss"] for p in (pairs[:2], pairs[2:])]
    assert_same(model, sum(parts), labelled(model, pairs))


def small_t5():
    torch.manual_seed(0)
    return T5ForConditionalGeneration(T5Config(vocab_size=97, d_model=32, d_ff=64, d_kv=8, num_layers=2, num_heads=4, dropout_rate=0.0, decoder_start_token_id=0))


def test_encoder_decoder_rows_are_exact():
    model, pairs = small_t5(), BATCHES["two predictors in turn"]
    batch = collate(pairs, SimpleNamespace(encoder_decoder=True, pad_id=0))
    alone = [model(input_ids=torch.tensor([p.prompt_ids]), labels=torch.tensor([p.completion_ids])).loss * len(p.completion_ids) for p in pairs]
    assert_same(model, completion_loss(model)(**batch)["loss"], sum(alone) / sum(len(p.completion_ids) for p in pairs))


CANNOT = {
    "encoder": (small_t5, "encoder-decoder"),
    "hybrid": (lambda: Lfm2ForCausalLM(Lfm2Config(**SMALL, num_key_value_heads=2, layer_types=["conv", "full_attention"])), "LinearAttentionLayer"),
    "recurrent": (lambda: MambaForCausalLM(MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1, state_size=4)), "position_ids"),
    "alibi": (lambda: BloomForCausalLM(BloomConfig(vocab_size=97, hidden_size=32, n_layer=1, n_head=4)), "Bloom"),
}


@pytest.mark.parametrize("name", CANNOT)
def test_who_cannot_share_says_why_and_takes_the_plain_path(name):
    make, word = CANNOT[name]
    torch.manual_seed(0)
    model = make().train()
    loss, pairs = completion_loss(model), BATCHES["two predictors in turn"]
    assert word in loss.plain_because and loss.plain_because == can_share(model)
    if model.config.is_encoder_decoder:
        return
    with pytest.raises(ValueError, match="shared=False"):
        loss(**collate(pairs, CODEC))
    model.eval()
    batch = collate(pairs, CODEC, shared=False)
    if name != "recurrent":  # Mamba reads padding on the left as zeros, not as nothing
        assert loss(**batch)["loss"].item() == pytest.approx(labelled(model, pairs).item(), rel=1e-4)
    assert loss(**batch)["loss"].isfinite()


def test_attention_of_its_own_is_found_by_the_probe(monkeypatch):
    "A model that drops the sizes on the way to its attention; no configuration shows it."
    model = made("llama")
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, packed_sizes=None, position_ids=None, logits_to_keep=0, **k: forward(*a, position_ids=position_ids, logits_to_keep=logits_to_keep, **k))
    assert "probe" in can_share(model)


@pytest.mark.parametrize("name", MODELS)
def test_asking_changes_nothing(name):
    model, pairs = made(name), BATCHES["one row"]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before = labelled(model, pairs).item()
    assert can_share(model) is None
    assert model.training and model.config._attn_implementation == "sdpa" and labelled(model, pairs).item() == before
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_a_saved_model_knows_nothing_of_it(tmp_path):
    model, pairs = made("llama"), BATCHES["one row"]
    use_packed_attention(model)
    model.save_pretrained(tmp_path)
    assert "bsft" not in (tmp_path / "config.json").read_text()
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    assert labelled(again, pairs).item() == pytest.approx(labelled(model, pairs).item(), rel=1e-6)
    ids = torch.tensor([pairs[0].prompt_ids])
    assert torch.equal(*(m.eval().generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None) for m in (model, again)))


@pytest.mark.parametrize(("prompts", "n"), [([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2], [1, 2, 4]], 1), ([[1, 2]], 1), ([[1], [2]], 0), ([[1], [1]], 0)])
def test_a_token_of_each_prompt_stays_its_own(prompts, n):
    assert shared_prefix(prompts) == n


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 200)), min_size=1, max_size=120), st.integers(1, 9), st.integers(0, 3), st.sampled_from([None, 0.1]))
def test_order_is_a_permutation_that_repeats(lengths, bsize, epoch, noise):
    pairs = [Pair(str(i), name, "", "", None, [1] * n, [0]) for i, (name, n) in enumerate(lengths)]
    order, again = BatchOrder(pairs, bsize, 7, noise), BatchOrder(pairs, bsize, 7, noise)
    order.set_epoch(epoch), again.set_epoch(epoch)
    found = list(order)
    assert found == list(order) == list(again) and sorted(found) == list(range(len(pairs))) and len(order) == len(pairs)


def test_order_changes_with_epoch_and_seed_and_is_not_sorted():
    draw = random.Random(0)
    pairs = [Pair(str(i), "p", "", "", None, [1] * draw.randrange(10, 300), [0]) for i in range(400)]
    order = BatchOrder(pairs, 8, 1, 0.1)
    first = list(order)
    order.set_epoch(1)
    assert len({tuple(first), tuple(order), tuple(BatchOrder(pairs, 8, 2, 0.1))}) == 3
    batches = [{frozenset(o[a : a + 8]) for a in range(0, 400, 8)} for o in (first, list(order))]
    assert not batches[0] & batches[1]  # rows meet others in each epoch
    sizes = [[pairs[i].tokens for i in first[a : a + 8]] for a in range(0, 400, 8)]
    waste = 1 - sum(p.tokens for p in pairs) / sum(8 * max(s) for s in sizes)
    means = [sum(s) / 8 for s in sizes]
    downhill = sum(a > b for a, b in zip(means, means[1:])) / (len(means) - 1)
    assert waste < 0.15 and 0.3 < downhill < 0.7

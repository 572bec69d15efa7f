"""Sampling and decoding, on small real models: what a row gets does not depend on its company."""
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bsft_nb.engine.attention import kv_buffer
from bsft_nb.engine.decode import Batch, Generator, buffer_tokens
from bsft_nb.engine.sampling import (
    Numbers,
    Row,
    Sampling,
    draw,
    find_template,
    learn_templates,
    take,
)
from bsft_nb.models.loading import load_weights
from bsft_nb.models.tokens import load_codec


def prompts(codec, n):
    rng = random.Random(0)
    return [codec.prompt([{"role": "system", "content": "Say it."}, {"role": "user", "content": "".join(rng.choices("abcde ", k=rng.randrange(1, 40)))}]) for _ in range(n)]


def by_generate(model, codec, prompt, tokens=8):
    out = model.generate(torch.tensor([prompt]), max_new_tokens=tokens, do_sample=False, pad_token_id=codec.pad_id, eos_token_id=sorted(codec.stop_ids))[0].tolist()
    return [t for t in out[1 if codec.encoder_decoder else len(prompt) :] if t not in codec.stop_ids]


def save_other(folder, kind):
    "A tiny causal model of another family, with the tokenizer of `folder`."
    import transformers

    small = dict(vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, eos_token_id=0, bos_token_id=0, pad_token_id=0)
    configs = {
        "qwen3": transformers.Qwen3Config(**small, head_dim=16),
        "gpt2": transformers.GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=512, eos_token_id=0, bos_token_id=0),
        "mistral": transformers.MistralConfig(**small, sliding_window=16),
        "gemma2": transformers.Gemma2Config(**small, head_dim=16, sliding_window=16, attn_logit_softcapping=0.5),
        "gpt_oss": transformers.GptOssConfig(**small, head_dim=16, sliding_window=16, num_local_experts=4, num_experts_per_tok=2),
        "deepseek_v2": transformers.DeepseekV2Config(**small | {"num_key_value_heads": 4}, kv_lora_rank=8, q_lora_rank=None, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8, first_k_dense_replace=2),
    }
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(configs[kind])
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.arange(4.0)) if "sinks" in name else p.mul_(5 if p.ndim > 1 else 1)  # scores that attention makes something of
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(folder.parent / "tokenizer").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["llama", "chat_llama", "t5", "qwen3", "gpt2", "mistral", "gemma2", "gpt_oss", "deepseek_v2"])
def test_greedy_tokens_are_those_of_generate_alone_and_in_any_batch(kind, request, tmp_path, llama):
    if kind in ("llama", "chat_llama", "t5"):
        path = request.getfixturevalue(kind)
    else:
        load_codec(llama).tokenizer.save_pretrained(tmp_path / "tokenizer")
        path = save_other(tmp_path / kind, kind)
    model, codec = load_weights(path), load_codec(path)
    asked = prompts(codec, 9)
    alone = [by_generate(model, codec, p) for p in asked]
    generator = Generator(load_weights(path), codec)
    assert generator.shared
    for batch in ([0], [1, 2, 3, 4], [8, 7, 6, 5, 4, 3, 2, 1, 0]):
        rows = [Row(asked[i], 8) for i in batch]
        generator(rows, group="same")
        assert [r.answer for r in rows] == [alone[i] for i in batch]


@pytest.mark.parametrize("kind", ["llama", "t5", "mistral"])
def test_rows_join_and_leave_and_nothing_changes(kind, request, tmp_path, llama):
    if kind == "mistral":  # answers longer than its window
        load_codec(llama).tokenizer.save_pretrained(tmp_path / "tokenizer")
    path = save_other(tmp_path / kind, kind) if kind == "mistral" else request.getfixturevalue(kind)
    model, codec = load_weights(path), load_codec(path)
    asked, rng = prompts(codec, 30), random.Random(1)
    lengths = [rng.randrange(1, 60) for _ in asked]
    alone = [by_generate(model, codec, p, n) for p, n in zip(asked, lengths, strict=True)]
    rows, generator = [Row(p, n) for p, n in zip(asked, lengths, strict=True)], Generator(load_weights(path), codec)
    waiting = list(rows)
    batch = generator.batch([waiting.pop(), waiting.pop()], "g")
    while batch.rows:
        batch.draw()
        batch.advance()
        some = [waiting.pop() for _ in range(min(len(waiting), rng.randrange(3)))] or ([waiting.pop()] if waiting and not batch.rows else [])
        fitting = [r for r in some if batch.fits(r)]
        assert fitting == some
        if some:
            batch.join(some)
    assert [r.answer for r in rows] == alone


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_an_answer_that_has_begun_goes_on_the_same(kind, request):
    "What templates and broken-up batches rely on."
    path = request.getfixturevalue(kind)
    model, codec = load_weights(path), load_codec(path)
    asked = prompts(codec, 4)
    alone = [by_generate(model, codec, p, 12) for p in asked]
    rows = [Row(p, 12, answer=a[:n]) for p, a, n in zip(asked, alone, (0, 3, 7, 11), strict=True)]
    Generator(load_weights(path), codec)(rows, "g")
    assert [r.answer for r in rows] == alone


def drawn(llama, indices):
    codec = load_codec(llama)
    asked = prompts(codec, 6)
    rows = [Row(asked[i], 8, Sampling(temperature=1.5, seed=3)) for i in indices]
    Generator(load_weights(llama), codec)(rows, group=None)
    return {i: r.answer for i, r in zip(indices, rows, strict=True)}


def test_a_seed_decides_whatever_else_is_in_the_batch(llama):
    together, apart = drawn(llama, [5, 3, 1, 0]), drawn(llama, [3, 2])
    assert together[3] == apart[3] and len({tuple(a) for a in together.values()}) > 1


def test_a_seed_decides_in_any_process(llama):
    code = f"import sys; sys.path[:0] = {[str(p) for p in Path(__file__).parents[:2]]!r}; from test_decode import drawn; print(drawn({str(llama)!r}, [3]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**__import__("os").environ, "PYTHONHASHSEED": "7"})
    assert done.returncode == 0, done.stderr
    assert eval(done.stdout.splitlines()[-1]) == drawn(llama, [3])


@pytest.mark.parametrize("folder", ["llama", "chat_llama", "t5"])
def test_numbers_are_whole_however_hot(folder, request):
    codec = load_codec(request.getfixturevalue(folder))
    numbers, generator, values = Numbers(codec), torch.Generator().manual_seed(0), set()
    for limit in (1, 2, 30):
        for _ in range(100):
            row, on = Row([1], limit, Sampling(temperature=2.0), numbers=numbers, generator=generator), True
            while on:
                on = take(row, draw(row, torch.randn(len(codec.tokenizer), generator=generator) * 3), codec)
            values.add(int(codec.text(row.answer)))
            assert codec.text(row.answer) == str(int(codec.text(row.answer)))
    assert min(values) < 0 and 0 in values and max(values) > 9


def test_a_sampled_prompt_that_comes_again_is_not_read_again_and_the_longest_unused_is_forgotten(llama):
    codec = load_codec(llama)
    a, b, c = [codec.prompt([{"role": "user", "content": x * 9}]) for x in "abc"]
    generator, read = Generator(load_weights(llama), codec), []
    n = len(Batch(generator, [Row(p, 4) for p in (a, b, c)], "g").prefix)
    generator.reader.prompts.limit = int(2.5 * kv_buffer(generator.model, len(a) - n).nbytes)
    generator.model.register_forward_pre_hook(lambda model, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True)

    def tokens_read(prompt):
        read.clear()
        Batch(generator, [Row(prompt, 4, Sampling(temperature=1.0))], "g")
        return sum(read)

    assert tokens_read(a) == tokens_read(b) == len(a) - n
    assert tokens_read(a) == 0
    assert tokens_read(c) == len(a) - n
    assert tokens_read(a) == 0
    assert tokens_read(b) == len(a) - n


def test_groups_that_begin_alike_read_what_differs(llama):
    codec = load_codec(llama)
    shown = [codec.prompt([{"role": "system", "content": demos}, {"role": "user", "content": u}]) for demos in ("one two three", "one three") for u in ("abc", "bcd")]
    generator, read = Generator(load_weights(llama), codec), []
    generator.model.register_forward_pre_hook(lambda model, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True)
    answers, begun = [], []
    for group, some in (("all", shown[:2]), ("one less", shown[2:])):
        rows, at = [Row(p, 8) for p in some], len(read)
        generator(rows, group)
        answers += [r.answer for r in rows]
        begun.append(read[at])
    assert answers == [by_generate(load_weights(llama), codec, p) for p in shown]
    first, second = (len(p) for p, _ in generator.reader.prefixes.known.values())
    same = next(i for i, (a, b) in enumerate(zip(shown[0], shown[2])) if a != b)
    assert 0 < same < second and begun == [first, second - same], "the second beginning is read from where it differs"


def test_rows_that_end_with_their_first_token_take_no_buffer(llama):
    codec = load_codec(llama)
    asked = prompts(codec, 5)
    generator = Generator(load_weights(llama), codec)
    batch = Batch(generator, [Row(p, n) for p, n in zip(asked, (1, 6, 1, 6, 1))], "g")
    assert batch.own.buffer is None and buffer_tokens(batch) > 0
    assert [r.prompt for r in batch.draw()] == [asked[0], asked[2], asked[4]]
    going = sorted(batch.rows, key=lambda r: asked.index(r.prompt))
    assert batch.own.buffer is None
    batch.advance()
    assert batch.own.buffer.shape[2] == 2
    while batch.rows:
        batch.draw()
        batch.advance()
    assert [r.answer for r in going] == [by_generate(load_weights(llama), codec, asked[i], 6) for i in (1, 3)]


def test_logprobs_are_those_of_the_model(llama):
    model, codec = load_weights(llama), load_codec(llama)
    prompt = prompts(codec, 1)[0]
    row = Row(prompt, 6, logprobs=3)
    Generator(load_weights(llama), codec)([row, Row(prompt[:-2], 9)], "g")
    ids = torch.tensor([prompt + row.answer])
    p = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    for i, (token, logprob, best) in enumerate(row.scores[: len(row.answer)]):
        assert token == row.answer[i] == best[0][0] and len(best) == 3
        assert logprob == pytest.approx(p[i, token].item(), abs=1e-4) == best[0][1]


def test_scores_that_are_not_numbers_fail_one_row_only(llama):
    codec = load_codec(llama)
    asked = prompts(codec, 2)
    generator = Generator(load_weights(llama), codec)
    batch = Batch(generator, [Row(p, 4, Sampling(temperature=1.0)) for p in asked], "g")
    batch.logits = batch.logits.clone()
    batch.logits[0] = torch.nan
    gone = batch.draw()
    assert len(gone) == 1 and isinstance(gone[0].error, ValueError) and len(batch.rows) == 1


def pair(prompt, completion, predictor="p"):
    return SimpleNamespace(predictor=predictor, prompt_ids=prompt, completion_ids=completion)


def test_templates_are_learned_where_completions_share_something_and_only_there():
    shared = [pair([1, 2, 50 + i, 3], [7, 8, 60 + i % 3, 61, 9, 9, 0]) for i in range(9)]
    bare = [pair([4, 50 + i, 3], [60 + i, 0], "bare") for i in range(9)]
    templates = learn_templates(shared + bare)
    assert set(templates) == {"p"} and templates["p"]["begin"] == [7, 8]
    assert templates["p"]["end"] == [61, 9, 9, 0] and templates["p"]["sign"] == 2, "61 stands inside a completion too: only 61, 9 shows the end"
    assert find_template(templates, [1, 2, 77, 78, 3]) is templates["p"]
    assert find_template(templates, [4, 77, 3]) is None and find_template(templates, [1, 2, 3]) is templates["p"]
    assert learn_templates(shared[:7]) == {}


def test_a_sign_within_a_completion_is_none():
    rows = [pair([1, 50 + i], [40 + i, 9, 30 + i, 9, 8, 0]) for i in range(9)]
    assert learn_templates(rows)["p"]["sign"] == 2


def test_a_template_does_not_lengthen_an_answer():
    codec = SimpleNamespace(stop_ids={0})
    row = Row([1], 4, answer=[7, 8], end=(9, 9, 9, 0), sign=1)
    assert not take(row, 9, codec) and row.answer == [7, 8, 9, 9] and row.finish == "length"

"""The engine's properties, on small real models."""
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import dspy
import pytest
import torch

from bsft_nb import StudentAdapter, local_lm
from bsft_nb.decode import Generator
from bsft_nb.sampling import Row
from bsft_nb.models import load_codec, load_weights


def prompts(codec, n):
    rng = random.Random(0)
    return [codec.prompt([{"role": "system", "content": "Say it."}, {"role": "user", "content": "".join(rng.choices("abcde ", k=rng.randrange(1, 40)))}]) for _ in range(n)]


@pytest.mark.parametrize("folder", ["llama", "chat_llama", "t5"])
def test_greedy_tokens_are_those_of_generate_alone_and_in_any_batch(folder, request):
    path = request.getfixturevalue(folder)
    model, codec = load_weights(path), load_codec(path)
    asked = prompts(codec, 9)
    alone = []
    for p in asked:
        out = model.generate(torch.tensor([p]), max_new_tokens=8, do_sample=False, pad_token_id=codec.pad_id, eos_token_id=sorted(codec.stop_ids))[0].tolist()
        alone.append([t for t in out[1 if codec.encoder_decoder else len(p) :] if t not in codec.stop_ids])
    generator = Generator(model, codec)
    for batch in ([0], [1, 2, 3, 4], [8, 7, 6, 5, 4, 3, 2, 1, 0]):
        rows = [Row(asked[i], 8) for i in batch]
        generator(rows, group="same")
        assert [r.answer for r in rows] == [alone[i] for i in batch]


def test_a_seed_decides_whatever_else_is_in_the_batch(llama):
    model, codec = load_weights(llama), load_codec(llama)
    asked = prompts(codec, 6)

    def drawn(indices):
        rows = [Row(asked[i], 8, temperature=1.5, seed=3) for i in indices]
        Generator(model, codec)(rows, group=None)
        return {i: r.answer for i, r in zip(indices, rows, strict=True)}

    together, apart = drawn([5, 3, 1, 0]), drawn([3, 2])
    assert together[3] == apart[3] and len({tuple(a) for a in together.values()}) > 1


class Judge(dspy.Signature):
    """Judge."""

    text: str = dspy.InputField()
    verdict: Literal["yes", "no", "not sure at all"] = dspy.OutputField()


@pytest.mark.parametrize("folder", ["llama", "chat_llama", "t5"])
def test_closed_types_always_parse_however_hot(folder, request):
    lm = local_lm(request.getfixturevalue(folder), temperature=2.0)
    adapter = StudentAdapter("<extra_id_0>", "%<\n") if folder == "t5" else StudentAdapter()
    with dspy.context(lm=lm, adapter=adapter):
        judge = dspy.Predict(Judge)
        with ThreadPoolExecutor(8) as pool:
            contexts = [(dspy.settings.copy(), i) for i in range(60)]

            def ask(job):
                with dspy.context(**job[0]):
                    return judge(text=f"case {job[1]}").verdict

            said = list(pool.map(ask, contexts))
    assert set(said) <= {"yes", "no", "not sure at all"} and len(set(said)) > 1


def test_an_error_in_one_request_does_not_reach_another(llama):
    lm = local_lm(llama, max_tokens=4)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(lm, "x" * (600 if i % 3 == 0 else 5 + i)) for i in range(12)]
    for i, future in enumerate(futures):
        if i % 3 == 0:
            with pytest.raises(dspy.ContextWindowExceededError, match="600 tokens, the model's limit is 512"):
                future.result()
        else:
            assert isinstance(future.result()[0], str)


def test_usage_history_and_close(llama):
    lm = local_lm(llama, max_tokens=4)
    lm("hello")
    assert lm.history[-1]["usage"]["prompt_tokens"] == 5 or lm.history[-1]["usage"].get("input_tokens") == 5
    lm.engine.close()
    lm.engine.close()
    assert isinstance(lm("hello again")[0], str), "starts again when asked"

"""Outputs of closed types hold one of their values, wherever they stand among others; what was learned is left alone."""
import enum
from typing import Literal, Optional

import dspy
import pytest
import torch
from dspy.lm15 import Config, Message, Request

from bsft_nb.engine.lm import student_lm
from bsft_nb.engine.predict import keep_format
from bsft_nb.engine.requests import to_row
from bsft_nb.engine.sampling import draw, take
from bsft_nb.lessons import CHAT, save_llama
from bsft_nb.models.student_adapter import StudentAdapter, adapter_state, fitting, joint
from bsft_nb.models.tokens import load_codec


class Mood(enum.Enum):
    GOOD, BAD = "good mood", "bad"


def signature(**outputs):
    return dspy.Signature({"question": (str, dspy.InputField()), **{k: (t, dspy.OutputField()) for k, t in outputs.items()}}, "Answer.")


SIGNATURES = {
    "closed last": signature(reason=str, label=Literal["yes", "no", "not sure"]),
    "closed first": signature(label=Literal["a", "a b", "a b c"], reason=str),
    "all closed": signature(ok=bool, mood=Mood, n=int, level=Literal[1, 2, 10]),
    "between": signature(one=str, n=int, two=str, ok=Optional[bool], three=str),
    "number or text": signature(n=Optional[int], note=str, m=int | Literal["many"], mood=Mood),
    "odd values": signature(a=Literal["label: x", '"q"', " spaced ", "née"], b=Literal["1", 1, "b: c"], note=str),
}
OTHERS = {"free": signature(a=str, b=list[int], c=float), "one": signature(label=Literal["yes", "no"]), "one number": signature(n=int)}


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    "A causal model whose tokens cross words, as those of real ones do."
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("merged")
    texts = ["yes it is not sure\nlabel: not sure\nmood: good mood\nn: 12\nok: True\nreason: because of that", "a b c\nreason: bad"] * 20
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|end|>", chat_template=CHAT)
    fast.save_pretrained(folder)
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(fast), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=512, eos_token_id=0, initializer_range=0.4)).save_pretrained(folder)
    return folder


@pytest.fixture(params=["llama", "chat_llama", "t5", "merged"])
def folder(request):
    return request.getfixturevalue(request.param)


def adapter_for(codec):
    return fitting(codec.survives, lambda t: codec.tokenizer.convert_tokens_to_ids(t) not in (None, codec.tokenizer.unk_token_id), ["née"])


@pytest.mark.parametrize("name", SIGNATURES)
@pytest.mark.parametrize("temperature", [1.0])
def test_an_untrained_model_gives_a_value_of_every_closed_output(folder, name, temperature):
    program = keep_format(dspy.Predict(SIGNATURES[name]))
    program.untuned_format = adapter_for(load_codec(folder))
    program.set_lm(student_lm(folder, max_tokens=60, temperature=temperature, cache=False))
    for i in range(1):
        try:
            answer = program(question=f"q{i}", config={"seed": i})
        except dspy.utils.exceptions.AdapterParseError as e:
            raise AssertionError(e) from e
        for k, f in SIGNATURES[name].output_fields.items():
            assert k in answer and (f.annotation is not Mood or isinstance(answer[k], Mood))


def row_for(codec, adapter, sig, n=200):
    schema = adapter.schema(sig)
    config = Config(max_tokens=n, response_format={"type": "json_schema", "name": "choices", "schema": schema} if schema else None)
    return to_row(Request(model="m", messages=(Message.user("x"),), config=config), [5, 6], codec, n, {})


def written(codec, row, wish):
    "What a model writes that wishes to write the tokens `wish`."
    going = True
    while going:
        logits, n = torch.zeros(len(codec.tokenizer)), len(row.answer)
        logits[wish[n] if n < len(wish) and row.answer == wish[:n] else min(codec.stop_ids)] = 9
        going = take(row, draw(row, logits), codec)
    return codec.text(row.answer)


VALUES = {
    "closed last": [{"reason": "so\nit is, label no", "label": v} for v in ("yes", "not sure")] + [{"reason": "", "label": "no"}],
    "closed first": [{"label": v, "reason": "a b: c"} for v in ("a", "a b", "a b c")],
    "all closed": [{"ok": True, "mood": Mood.BAD, "n": -12, "level": 10}, {"ok": False, "mood": Mood.GOOD, "n": 0, "level": 1}],
    "between": [{"one": "x: y", "n": 123, "two": "n: 3 of it", "ok": None, "three": "one: end"}],
    "number or text": [{"n": None, "note": "x", "m": "many", "mood": Mood.BAD}, {"n": 7, "note": "y", "m": 12, "mood": Mood.GOOD}],
    "odd values": [{"a": a, "b": b, "note": "x"} for a in ("label: x", '"q"', " spaced ") for b in ("1", 1, "b: c")],
}


@pytest.mark.parametrize("name", VALUES)
def test_what_was_learned_is_written_token_for_token(folder, name):
    codec = load_codec(folder)
    adapter, sig = adapter_for(codec), SIGNATURES[name]
    for values in VALUES[name]:
        text = adapter.format_assistant_message_content(sig, values)
        row = row_for(codec, adapter, sig)
        wish = codec.completion(text)
        assert row.guide is not None and written(codec, row, wish) == text
        assert row.answer == [t for t in wish if t not in codec.stop_ids] and row.finish == "stop" and adapter.parse(sig, text) == values


@pytest.mark.parametrize("wish", ["", "so", "so\nlabel", "so\nlabel: maybe", "so\nreason: again", "label: yes", "so\nlabel:no", "x" * 300])
def test_whatever_is_wished_the_answer_is_read(folder, wish):
    codec = load_codec(folder)
    adapter, sig = adapter_for(codec), SIGNATURES["closed last"]
    text = wish.replace("\n", joint(adapter.separator))
    row = row_for(codec, adapter, sig, 60)
    answer = adapter.parse(sig, written(codec, row, codec.completion(text)))
    assert answer["label"] in ("yes", "no", "not sure") and row.finish == "stop"


@pytest.mark.parametrize("name", OTHERS)
def test_other_signatures_are_as_they_were(llama, name):
    adapter, sig = StudentAdapter(), OTHERS[name]
    row = row_for(load_codec(llama), adapter, sig)
    assert row.guide is None and (adapter.schema(sig) is None) == (name == "free") and row.free == (name == "free")


def test_a_row_keeps_its_seed_and_its_log_probabilities(merged):
    program = keep_format(dspy.Predict(SIGNATURES["closed last"]))
    program.untuned_format = StudentAdapter()
    lm = student_lm(merged, max_tokens=40, temperature=1.0, cache=False)
    program.set_lm(lm)
    one, two, other = (program(question="q", config={"seed": s}).toDict() for s in (1, 1, 2))
    assert one == two and one != other
    with_logprobs = program(question="q", config={"seed": 1, "logprobs": True})
    assert with_logprobs.label in ("yes", "no", "not sure") and with_logprobs.reason == one["reason"]


def test_switched_off_it_is_free(llama, tmp_path):
    assert StudentAdapter(restrict=False).dump_state()["restrict"] is False and adapter_state(StudentAdapter())["restrict"]
    program = keep_format(dspy.Predict(SIGNATURES["closed last"]))
    program.untuned_format = StudentAdapter(restrict=False)
    program.set_lm(student_lm(save_llama(tmp_path / "x"), max_tokens=20, cache=False))
    with pytest.raises(dspy.utils.exceptions.AdapterParseError):
        program(question="q")

"""What a target, a format or a setting makes fail is found by a made-up example, before the first teacher call."""
import enum
import json
from datetime import date
from typing import Any, Literal

import dspy
import pydantic
import pytest

from bsft_nb import BootstrapFinetune
from bsft_nb.data.pairs import DataError, PairBuilder
from bsft_nb.lessons import CHAT, save_llama, teacher_lm
from bsft_nb.models.student_adapter import StudentAdapter
from bsft_nb.models.synthetic import UNKNOWN, made_up
from bsft_nb.models.targets import check_folder
from bsft_nb.models.tokens import check_token_ids, load_codec
from bsft_nb.models.weights import TargetError
from bsft_nb.optimizer.dry_run import dry_run, made_up_rows, shorten
from bsft_nb.results.evaluate import reason_line
from bsft_nb.training.jobs import TrainConfig


def rows(n=4, **labels):
    return [dspy.Example(words=f"w{i}", **labels).with_inputs("words") for i in range(n)]


@pytest.fixture
def refused():
    "Compiles, and gives the error, which must be a `ValueError` that comes before the teacher is asked."
    lm = teacher_lm(lambda text: {"kind": "plant"})

    def check(target, student=None, trainset=None, **more):
        with pytest.raises(ValueError) as raised:
            BootstrapFinetune(None, dict(lm=lm)).compile(student or dspy.Predict("words -> kind"), trainset=trainset or rows(), target=target, display=False, **more)
        assert lm.engine.calls == 0
        return raised.value

    return check


def byte_tokenizer(eos="<|end|>", ends=False, **more):
    "A byte-level tokenizer of 257 tokens; `ends`: it adds the end token itself, as an encoder-decoder's does."
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tok.train_from_iterator([], trainers.BpeTrainer(special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if ends:
        tok.post_processor = processors.TemplateProcessing(single="$A <|end|>", special_tokens=[("<|end|>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tok, eos_token=eos, **more)


SMALL = dict(vocab_size=257, eos_token_id=0, pad_token_id=0, bos_token_id=0)
PLAIN = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4)
BART = dict(d_model=32, encoder_layers=4, decoder_layers=4, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, decoder_start_token_id=0, forced_eos_token_id=None)


def save(path, kind, tokenizer=None, change=lambda model: None, **config):
    "A model with random weights of the type `kind`, and its tokenizer."
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        WhisperForConditionalGeneration,
    )

    torch.manual_seed(0)
    made = AutoConfig.for_model(kind, **SMALL | config)
    model = WhisperForConditionalGeneration(made) if kind == "whisper" else (AutoModelForSeq2SeqLM if made.is_encoder_decoder else AutoModelForCausalLM).from_config(made)
    change(model)
    model.save_pretrained(path)
    (tokenizer or byte_tokenizer(ends=made.is_encoder_decoder)).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("peft", "words"),
    [
        (dict(target_modules=["query"]), ["query", "not found"]),
        (dict(target_modules=["q_proj", "key_proj"]), ["no module 'key_proj' gets an adapter"]),
        (dict(target_modules=r".*\.attention\.q"), ["attention", "not found"]),
        (dict(target_modules=["norm"]), ["LlamaRMSNorm"]),
        (dict(target_modules=["self_attn"]), ["LlamaAttention"]),
        (dict(target_modules=["q_proj"], layers_to_transform=[0, 2]), ["layer 2 gets no adapter"]),
        (dict(target_modules=["q_proj"], layers_to_transform=7), ["7"]),
        (dict(target_modules=["q_proj"], layers_pattern="blocks", layers_to_transform=[0]), ["blocks"]),
        (dict(target_modules=["q_proj"], modules_to_save=["classifier"]), ["no module 'classifier'"]),
        (dict(target_modules=["q_proj"], trainable_token_indices=[5000]), ["5000"]),
        (dict(r=0), ["positive integer"]),
        (dict(lora_dropout=1.5), ["1.5"]),
        (dict(target_modules=["q_proj"], inference_mode=True), ["inference_mode"]),
    ],
    ids=lambda x: str(x)[:60] if isinstance(x, dict) else "",
)
def test_lora_settings_that_do_not_fit(refused, llama, peft, words):
    said = str(refused(llama, peft=peft))
    assert [w for w in [*words, "peft=", str(llama), "q_proj", "from 0 to 1"] if w not in said] == []


def test_lora_where_there_are_no_linear_layers_of_that_name_says_which_there_are(refused, tmp_path):
    target = save(tmp_path / "gpt2", "gpt2", n_embd=32, n_layer=2, n_head=2)
    assert "c_attn, c_proj, c_fc" in str(refused(target, peft=dict(target_modules=["q_proj", "v_proj"])))


@pytest.mark.parametrize("vocab", [256, 200, 40])
def test_tokenizer_larger_than_the_embeddings(refused, tmp_path, vocab):
    said = str(refused(save(tmp_path / "m", "llama", vocab_size=vocab, **PLAIN)))
    assert f"has {257 - vocab} {'token' if vocab == 256 else 'tokens'} that its model has no embedding for ({vocab} embeddings)" in said and "resize_token_embeddings(257)" in said


def test_special_tokens_without_embeddings_are_no_fault(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    target = check_folder(save(tmp_path / "m", "llama", tokenizer, **PLAIN), "m")
    check_token_ids(load_codec(target.path), target.path, "m")
    change = json.loads((target.path / "config.json").read_text()) | {"vocab_size": 256}
    (target.path / "config.json").write_text(json.dumps(change))
    with pytest.raises(TargetError, match="no embedding for"):
        check_token_ids(load_codec(target.path), target.path, "m")


@pytest.mark.parametrize(("kind", "more"), [("bert", {}), ("roberta", {}), ("electra", {"embedding_size": 32}), ("xlm-roberta", {}), ("xlnet", {"n_layer": 4, "n_head": 4, "d_model": 32, "d_inner": 48})])
def test_models_that_see_what_comes_later(refused, tmp_path, kind, more):
    config = more if kind == "xlnet" else PLAIN | more
    said = str(refused(save(tmp_path / kind, kind, **config)))
    assert str(tmp_path / kind) in said and "reads in both directions" in said and "Choose a causal" in said


def test_bert_as_a_decoder_is_causal(tmp_path):
    target = check_folder(save(tmp_path / "bert", "bert", is_decoder=True, **PLAIN), "bert")
    student = dspy.Predict("words -> kind")
    dry_run(student, PairBuilder(student, StudentAdapter(), load_codec(target.path)), target, TrainConfig())


def test_an_encoder_decoder_for_sounds(refused, tmp_path):
    said = refused(save(tmp_path / "w", "whisper", max_source_positions=64, max_target_positions=64, num_mel_bins=8, **BART))
    assert isinstance(said, TargetError) and str(tmp_path / "w") in str(said)


@pytest.mark.parametrize("kind", ["bart", "pegasus", "mbart", "led"])
def test_answers_longer_than_the_decoders_positions(refused, tmp_path, kind):
    size = dict(max_encoder_position_embeddings=512, max_decoder_position_embeddings=128, attention_window=16) if kind == "led" else dict(max_position_embeddings=128)
    target = save(tmp_path / kind, kind, **BART | size)
    said = refused(target, trainset=rows(4, kind="x" * 150))
    assert isinstance(said, DataError) and "4 of the 4 answers in trainset are longer than the 128 tokens" in str(said) and "trainset[0], predictor 'self': 151 tokens" in str(said)
    assert "valset[0]" in str(refused(target, valset=rows(1, kind="x" * 150)))


def test_an_answer_is_never_asked_beyond_the_decoders_positions(tmp_path):
    from dspy.lm15 import Config, Message, Request

    from bsft_nb.engine.requests import to_row

    codec = load_codec(save(tmp_path / "bart", "bart", **BART, max_position_embeddings=128))
    request = Request(model="m", messages=(Message.user("a"),), config=Config(max_tokens=4000))
    assert to_row(request, [5, 6], codec, 16, {}).max_tokens == 128


def test_prompts_longer_than_the_encoders_positions(refused, tmp_path):
    target = save(tmp_path / "led", "led", **BART, max_encoder_position_embeddings=64, max_decoder_position_embeddings=128, attention_window=16)
    assert "longer than the target's limit of 64 tokens" in str(refused(target, trainset=[dspy.Example(words="w" * 100).with_inputs("words")]))


def test_answers_end_though_the_tokenizer_adds_no_end(tmp_path):
    codec = load_codec(save(tmp_path / "bart", "bart", byte_tokenizer(), **BART))
    assert codec.tokenizer("a")["input_ids"][-1] != codec.end_id and [ids.count(codec.end_id) for ids in map(codec.completion, ("a", "bc", ""))] == [1, 1, 1]
    assert codec.completion("a")[-1] == codec.end_id


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.model.norm.weight.data.fill_(float("nan")),
        lambda m: m.model.layers[0].mlp.up_proj.weight.data.fill_(float("inf")),
        lambda m: m.lm_head.weight.data.fill_(float("nan")),
    ],
    ids=["norm", "layer", "head"],
)
def test_weights_that_are_not_numbers(refused, tmp_path, change):
    said = str(refused(save(tmp_path / "m", "llama", change=change, **PLAIN)))
    assert str(tmp_path / "m") in said and "weights are damaged" in said


def test_sizes_that_are_not_those_of_the_weights(refused, tmp_path):
    config = save(tmp_path / "m", "llama", **PLAIN) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 64}))
    assert isinstance(refused(tmp_path / "m"), TargetError)


@pytest.mark.parametrize("where", ["loading its weights", "a training step", "an answer"])
def test_any_error_names_target_step_reason_and_way_out(refused, llama, monkeypatch, where):
    def fails(*args, **kwargs):
        raise RuntimeError("cannot attend to that")

    name = {"loading its weights": "load_trainable", "a training step": "completion_loss", "an answer": "Generator"}[where]
    monkeypatch.setattr(f"bsft_nb.optimizer.dry_run.{name}", fails)
    said = refused(llama, seed=123)
    assert isinstance(said, TargetError) and isinstance(said.__cause__, RuntimeError)
    assert [w for w in (str(llama), "before the teacher is asked", f"failed at {where}: RuntimeError: cannot attend to that", "hoose") if w not in str(said)] == []


class Card(pydantic.BaseModel):
    title: str = pydantic.Field(alias="Title")


class Nested(pydantic.BaseModel):
    cards: list[Card]


def test_types_with_aliases_are_learnt(llama):
    signature = dspy.Signature({"words": (str, dspy.InputField()), "kind": (Nested, dspy.OutputField())})
    student, target = dspy.Predict(signature), check_folder(llama, "a llama")
    (row,) = made_up_rows(student, PairBuilder(student, StudentAdapter(), load_codec(target.path)), "a llama")
    assert StudentAdapter().parse(signature, row.completion)["kind"].cards[0].title


@pytest.mark.parametrize("name", ["demos", "config", "lm", "new_signature"])
def test_names_that_dspy_takes_for_itself(refused, llama, name):
    examples = [dspy.Example(**{"words": "a", name: "b"}).with_inputs("words", name)]
    said = str(refused(llama, student=dspy.Predict(f"words, {name} -> kind"), trainset=examples))
    assert name in said


class Late(dspy.Module):
    "No prompt of its predictor can be made of the examples alone."

    def __init__(self):
        super().__init__()
        self.sort = dspy.Predict("words, hint -> kind")

    def forward(self, words):
        return self.sort(words=words, hint="h")


TEMPLATES = {
    "a filter that is not there": "{% for m in messages %}{{ m['content'] | shout }}{% endfor %}",
    "a field that messages lack": "{% for m in messages %}{{ m['tool_calls'][0]['name'] }}{{ m['content'] }}{% endfor %}",
    "a syntax error": "{% for m in messages %}{{ m['content'] }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_templates_with_errors(refused, tmp_path, template):
    target = save_llama(tmp_path / "m", template)
    said = refused(target, student=Late())
    assert isinstance(said, TargetError) and str(target) in str(said)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "mixtral", "jamba", "falcon", "bart", "t5", "gpt_oss"])
def test_families_pass_with_their_upper_layers_taken_off(tmp_path, kind):
    from bsft_nb.optimizer import dry_run as room

    config = {
        "gpt2": dict(n_embd=32, n_layer=4, n_head=4),
        "gemma2": PLAIN | dict(num_key_value_heads=2, head_dim=8),
        "mixtral": PLAIN | dict(num_key_value_heads=2, num_local_experts=4),
        "jamba": PLAIN | dict(num_hidden_layers=8, num_key_value_heads=2, num_experts=2, attn_layer_period=4, attn_layer_offset=2, use_mamba_kernels=False, mamba_dt_rank=4),
        "falcon": dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=4),
        "bart": BART | dict(max_position_embeddings=256),
        "t5": dict(d_model=32, d_kv=8, d_ff=48, num_layers=4, num_heads=4, decoder_start_token_id=0),
        "gpt_oss": PLAIN | dict(num_key_value_heads=2, head_dim=8, num_local_experts=4, sliding_window=16),
    }[kind]
    target = check_folder(save(tmp_path / kind, kind, **config), kind)
    student, codec = dspy.ChainOfThought("words -> kind, sure: bool"), load_codec(target.path)
    made = room.made_up_rows(student, PairBuilder(student, StudentAdapter(), codec), kind)
    assert room.try_model(target, TrainConfig(), codec, made, True), "the whole model had to be asked"


def test_a_layer_of_each_make_stays(tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    made = PLAIN | dict(num_hidden_layers=8, num_key_value_heads=2, num_experts=2, attn_layer_period=8, attn_layer_offset=4, expert_layer_period=4, expert_layer_offset=1, use_mamba_kernels=False, mamba_dt_rank=4)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("jamba", **SMALL | made))
    makes = {type(layer) for layer in model.model.layers}
    assert shorten(model) and {type(layer) for layer in model.model.layers} == makes and len(model.model.layers) == 5


class Size(enum.Enum):
    small = "s"
    large = "l"


class Tree(pydantic.BaseModel):
    name: str
    born: date
    size: Size = Size.large
    more: dict[str, int] = {}
    kids: list["Tree"] = []


class Odd(pydantic.BaseModel):
    n: int

    @pydantic.field_validator("n")
    def even(cls, n):
        if n % 2:
            raise ValueError("odd")
        return n


@pytest.mark.parametrize("kind", [str, int, float, bool, Size, Literal["a", 2], list[Size], dict[str, list[int]], tuple[int, str], set[int], int | None, Tree, list[Tree], Any, date, dspy.Reasoning, bytes, complex | str])
def test_a_made_up_value_is_of_its_type(kind):
    value = made_up(kind)
    assert value is not UNKNOWN
    if kind is not Any:
        pydantic.TypeAdapter(kind, config=None if hasattr(kind, "model_config") else {"arbitrary_types_allowed": True}).validate_python(value)


@pytest.mark.parametrize("kind", [Odd, list[Odd], pydantic.constr(pattern=r"^\d{4}$"), "NoSuchType"])
def test_what_cannot_be_made_up_is_not_held_against_the_type(kind, llama):
    assert made_up(kind) is UNKNOWN


def test_a_type_that_cannot_be_made_up_compiles(llama):
    signature = dspy.Signature({"words": (str, dspy.InputField()), "kind": (Odd, dspy.OutputField())})
    plan = BootstrapFinetune(None, dict(lm=teacher_lm(lambda text: {}))).preflight(dspy.Predict(signature), trainset=rows(), target=llama)
    assert plan.calls == 4


def test_the_users_random_numbers_and_threads_stay(llama):
    import torch

    student, target = dspy.Predict("words -> kind"), check_folder(llama, "a name of its own")
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    dry_run(student, PairBuilder(student, StudentAdapter(), load_codec(llama)), target, TrainConfig(peft=True))
    assert torch.rand(1) == expected


def test_a_finished_run_and_a_second_look_try_nothing_again(tmp_path, monkeypatch):
    target, lm = save_llama(tmp_path / "m", CHAT, width=32), teacher_lm(lambda text: {"kind": "plant"})
    tried = []
    monkeypatch.setattr("bsft_nb.optimizer.prepare.dry_run", lambda *a: tried.append(a) or dry_run(*a))

    def compile():
        BootstrapFinetune(None, dict(lm=lm)).compile(dspy.Predict("words -> kind"), trainset=rows(), target=target, display=False)

    compile(), compile()
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\n  File "<unknown>", line 1\n    a b\n      ^\nSyntaxError: invalid syntax', "SyntaxError: invalid syntax"),
        ("Traceback (most recent call last):\n  File \"a\", line 1\nx.y.ParseError: no field 'a'.\n\nExpected: [a]\n\nActual: []\n", "ParseError: no field 'a'."),
        ("Traceback (most recent call last):\n  File \"a\", line 1\nValueError: inner\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File \"b\", line 2\nKeyError: 'outer'", "KeyError: 'outer'"),
        ("ValidationError: 1 error\n  Input should be a list\n    For further information visit https://errors.pydantic.dev", "ValidationError: 1 error Input should be a list For further information visit https://errors.pydantic.dev"),
        ("", ""),
        (None, ""),
    ],
)
def test_the_reason_of_an_error_is_its_own_line(text, line):
    assert reason_line(text) == line

"""Prompts: on one date, with no control token of a user's, from templates within bounds; what cannot work is said at once."""
import dataclasses
import json
import time
from collections import Counter
from datetime import datetime

import dspy
import pytest
from pydantic import BaseModel
from transformers import AutoTokenizer, BloomConfig, LlamaConfig

import bsft_nb.models.tokens
from bsft_nb import BootstrapFinetune, load
from bsft_nb.data.limits import check_lengths
from bsft_nb.data.pairs import DataError, PairBuilder
from bsft_nb.engine.lm import StudentEngine
from bsft_nb.lessons import CHAT, save_llama, save_t5, teacher_lm
from bsft_nb.models.budget import ChatError
from bsft_nb.models.sandbox import BoundedTemplate
from bsft_nb.models.student_adapter import StudentAdapter, roundtrip
from bsft_nb.models.texts import TextError, texts_in
from bsft_nb.models.tokens import load_codec, longest
from bsft_nb.models.weights import TargetError
from bsft_nb.optimizer.validate import fit_adapter
from bsft_nb.teacher.ledger import Call


def says(*turns):
    return [{"role": r, "content": c} for r, c in turns]


def with_template(folder, template, made):
    "A copy of the tokenizer and configuration in `folder`, with another chat template; no weights are needed."
    made.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(made)
    for name in ("config.json", "generation_config.json"):
        (made / name).write_bytes((folder / name).read_bytes())
    return made


ASKED = says(("system", "Be brief."), ("user", "Why?"))

DATED = {
    "llama 3.2": "{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}Today Date: {{ date_string }}\n" + CHAT,
    "gpt-oss": "{%- macro head() -%}{{ 'Current date: ' + strftime_now('%Y-%m-%d') }}{%- endmacro %}{{ head() }}" + CHAT,
    "time of day": "{{ strftime_now('%H:%M:%S %p, day %j, 100%%') }}" + CHAT,
    "in a loop": "{% for m in messages %}{{ strftime_now('%A, %-d. %B ') }}{{ m.content }}{% endfor %}",
}


@pytest.mark.parametrize("template", DATED.values(), ids=DATED)
def test_date_is_fixed_and_saved_with_the_template(chat_llama, tmp_path, template):
    folder = with_template(chat_llama, template, tmp_path / "t")
    first = load_codec(folder, moment="2024-02-29T23:59:58")
    assert first.prompt(ASKED) != load_codec(folder, moment="2025-03-01T01:00:00").prompt(ASKED), "the template asks for the date"
    first.tokenizer.save_pretrained(folder)
    later = load_codec(folder, moment="2031-01-01T00:00:00")
    assert later.moment is None and later.prompt(ASKED) == first.prompt(ASKED)
    assert AutoTokenizer.from_pretrained(folder).apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False) == first.prompt(ASKED), "transformers alone agrees"


def test_run_keeps_its_date(tmp_path, monkeypatch):
    "Template with the time of day that refuses the system role: pairs, both students, a later compile and a load agree."
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    target = save_llama(tmp_path / "dated", refuses + "{{ strftime_now('%Y-%m-%d %H:%M:%S') }}" + CHAT)
    untuned = []
    real = StudentEngine.__init__
    monkeypatch.setattr(StudentEngine, "__init__", lambda self, path, *a: (real(self, path, *a), untuned.append(self) if str(path) == str(target) else None)[0])

    class Clock(datetime):
        day = 1

        @classmethod
        def now(cls, tz=None):
            cls.day += 1
            return cls(2026, 5, cls.day, 10, 20, 30)

    monkeypatch.setattr(bsft_nb.models.tokens, "datetime", Clock)

    def compiled():
        tp = BootstrapFinetune(lambda e, p, trace=None: 1.0, dict(lm=lm))
        trainset = [dspy.Example(question=f"q{i}").with_inputs("question") for i in range(20)]
        made = tp.compile(dspy.Predict(dspy.Signature("question -> answer", "Answer as a zebra would.")), trainset=trainset, target=target, display=False, launch="inline")
        return tp.run, made

    lm = teacher_lm(lambda text: {"answer": "yes"})
    run, program = compiled()
    calls, row = lm.engine.calls, run.pairs["train"][0]
    assert row["prompt"].startswith("2026-05-") and "Answer as a zebra would.\n\nquestion" in row["prompt"]
    moment = next(iter(run.info["moment"].values()))
    assert {e.moment for e in untuned} == {moment} and all(e.codec.prompt(row["messages"]) == row["prompt_ids"] for e in untuned)
    again, twin = compiled()
    assert again.id == run.id and any(e.data.get("reused") for e in again.events) and lm.engine.calls == calls
    for p in (program, twin, load(run.id)):
        assert p.lm.engine.codec.prompt(row["messages"]) == row["prompt_ids"]
    assert again.untuned(twin).lm.engine.codec.prompt(row["messages"]) == row["prompt_ids"]
    run.folder.update(models={})  # what a kill before the end leaves: the job is found again, not begun anew
    steps = [e for e in run.events if e.kind == "train"]
    third, _ = compiled()
    assert next(iter(third.info["moment"].values())) == moment and [e for e in third.events if e.kind == "train"] == steps


SLY = ["bye<|end|>", "<|end|><|end|> twice", "<|END|> and <|end|", "<|im_start|>system<|end|>", "a</s>b <extra_id_0> <pad>", "＜/s＞ full width"]
TEMPLATES = {
    "as it is": CHAT,
    "trims": CHAT.replace("m['content']", "m['content'] | trim"),
    "lower case": CHAT.replace("m['content']", "m['content'] | lower"),
    "json": CHAT.replace("m['content']", "m['content'] | tojson"),
    "twice": CHAT.replace("m['content']", "m['content'] ~ ' / ' ~ m['content']"),
    "takes out": CHAT.replace("m['content']", "m['content'].split('</think>')[-1] | replace('x', '')"),
    "parts": CHAT.replace("m['content']", "m['content'][0]['text']"),
    "no system": CHAT.replace("messages %}", "messages if m['role'] != 'system' %}", 1),
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("text", SLY)
def test_no_control_token_of_a_user_in_a_chat(chat_llama, tmp_path, template, text):
    codec = load_codec(with_template(chat_llama, template, tmp_path / "t"))
    honest = Counter(codec.prompt(says(("system", "be"), ("user", "hi"), ("assistant", "yes"), ("user", "so"))))
    ids = Counter(codec.prompt(says(("system", text), ("user", text), ("assistant", text), ("user", text))))
    assert ids[0] == honest[0] > 0, "as many ends of turn as the template writes"


@pytest.mark.parametrize("model", ["llama", "t5", "bart"])
@pytest.mark.parametrize("text", SLY)
def test_no_control_token_of_a_user_without_a_template(request, tmp_path, model, text):
    if model == "bart":  # byte-level, with ends around a text, as BART and CodeT5 have
        from tokenizers.processors import TemplateProcessing

        folder = with_template(request.getfixturevalue("llama"), None, tmp_path / "t")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer._tokenizer.post_processor = TemplateProcessing(single="<|end|> $A <|end|>", special_tokens=[("<|end|>", 0)])
        tokenizer.save_pretrained(folder)
        codec = bsft_nb.models.tokens.Codec(AutoTokenizer.from_pretrained(folder), encoder_decoder=True)
    else:
        codec = load_codec(request.getfixturevalue(model))
    special = {*codec.tokenizer.all_special_ids} - {codec.tokenizer.unk_token_id}

    def controls(ids):
        return [i for i in ids if i in special]

    honest = [says(("system", "be"), ("user", "a")), says(("user", "a"), ("assistant", "b"), ("user", "c"))]
    sly = [says(("system", text), ("user", text)), says(("user", text), ("assistant", "b"), ("user", text))]
    assert [controls(codec.prompt(m)) for m in sly] == [controls(codec.prompt(m)) for m in honest]
    try:
        ids = controls(codec.completion(text))
        assert [i for i in ids if codec.tokenizer.convert_ids_to_tokens(i) != "<extra_id_0>"] == controls(codec.completion("a"))
    except TextError:
        pass  # said, so that the row is dropped
    assert model == "t5" or codec.survives(text), "and a text that stays whole where the vocabulary has all its letters"


def test_sentinel_of_our_own_stays_a_token(t5):
    codec, s = load_codec(t5), dspy.Signature("q -> answer, urgency: int")
    adapter = fit_adapter(codec, dspy.Predict(s), "t5")
    assert adapter.separator == "<extra_id_0>"
    outputs = {"answer": "say <extra_id_0>", "urgency": 3}
    text = adapter.format_assistant_message_content(s, outputs)
    sentinel = codec.tokenizer.convert_tokens_to_ids("<extra_id_0>")
    assert codec.completion(text).count(sentinel) == 1
    assert roundtrip(adapter, s, outputs, lambda t: codec.text(codec.completion(t))) is None
    assert codec.prompt(says(("user", "q <extra_id_0>"), ("assistant", text), ("user", "r"))).count(sentinel) == 1


@pytest.mark.parametrize("n", [1, 7])
def test_text_of_a_prompt_is_that_of_the_template(chat_llama, tmp_path, n):
    "Whatever a template does with contents that hold no control token, transformers alone renders the same."
    texts = ["plain", " led", "trailed\n", "<think>hm</think>\n\nx", 'quo"te \\ é', "UPPER", "  both  \n"]
    for i, template in enumerate(t for k, t in TEMPLATES.items() if k not in ("parts", "no system")):
        codec = load_codec(with_template(chat_llama, template, tmp_path / f"t{i}"))
        for text in texts:
            turns = says(("system", text), *[("user", text), ("assistant", text)] * n, ("user", text))
            rendered = codec.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            assert codec.tokenizer.decode(codec.prompt(turns)) == rendered


REFUSING = {
    "gemma": "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}" + CHAT.split("%}", 1)[1],
    "mistral 0.1": "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% elif m.role == 'assistant' %}{{ m.content }}<|end|>{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "drops it": TEMPLATES["no system"],
    "looks it up": "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('<|end|>') }}" + "{{ messages | selectattr('role', 'equalto', 'assistant') | map(attribute='content') | join('<|end|>') }}",
}


@pytest.mark.parametrize("template", REFUSING.values(), ids=REFUSING)
def test_instruction_is_folded_into_the_users_turn(chat_llama, tmp_path, template):
    codec = load_codec(with_template(chat_llama, template, tmp_path / "t"))
    for turns in (ASKED, says(("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "Why?")), says(("system", "Be brief."), ("user", "a"), ("user", "Why?"))):
        text = codec.tokenizer.decode(codec.prompt(turns))
        assert text.count("Be brief.\n\n") == 1 and text.count("Why?") == 1
    assert codec.prompt(ASKED) == codec.prompt(says(("user", "Be brief.\n\nWhy?"))), "as if the user had said it"


BOMBS = [
    "{{ 'a' * 10**9 }}", "{{ [0] * 10**9 }}", "{{ 7 ** 77777777 }}", "{{ '%0999999999d' % 1 }}", "{{ '{:>999999999}'.format(1) }}", "{{ 'a'.ljust(999999999) }}",
    "{{ ('a' * 9999).replace('a', 'b' * 9999) }}", "{{ ('s' * 9999).join('t' * 9999) }}", "{{ ('\n' * 9999) | indent('x' * 9999) }}", "{{ [1] | batch(999999999, 0) | list }}",
    "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% set ns = namespace(s=1) %}{% for i in range(99) %}{% set ns.s = {'a': ns.s, 'b': [ns.s]} %}{% endfor %}{{ ns.s }}",
    "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n else 'x' }}{% endmacro %}{{ f(40) }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "{% set l = range(99999) | list %}{% for a in l %}{% for b in l %}{% endfor %}{% endfor %}",
    "{{ nothing.at.all }}", "{{ 1 + 'a' }}", "{% include 'other' %}", "{{ lipsum() }}", "{{ messages | random }}", "{% for %}", "{{ ''.__class__.__mro__[1].__subclasses__() }}",
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_template_without_end_is_refused_by_name(chat_llama, tmp_path, monkeypatch, bomb):
    import resource

    monkeypatch.setattr("bsft_nb.models.budget.SECONDS", 1.0)
    folder, before = with_template(chat_llama, bomb + CHAT, tmp_path / "bomb"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.thread_time()
    with pytest.raises(TargetError, match=r"target 'the-name': its chat template cannot be used: .*Choose a target"):
        load_codec(folder, "the-name")
    assert time.thread_time() - began < 4 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


def test_bounds_hold_for_a_text_that_sets_it_off():
    "Not only when the template is tried first."
    template = BoundedTemplate("{{ messages[0].content * (10**9 if 'now' in messages[0].content else 1) }}")
    assert template.render(messages=says(("user", "later"))) == "later"
    with pytest.raises(ChatError):
        template.render(messages=says(("user", "now")))


def test_long_texts_are_no_bomb(chat_llama):
    codec = load_codec(chat_llama)
    assert len(codec.prompt(says(("system", "s"), *[("user", "long " * 9_000), ("assistant", "y")] * 20, ("user", "q")))) > 900_000


# ends, lengths, tokenizers


def change(file, **entries):
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({k: v for k, v in {**content, **entries}.items() if v is not None}))


ENDS = [("config.json", {"eos_token_id": 0}), ("config.json", {"eos_token_id": [0, 5]}), ("generation_config.json", {"eos_token_id": 0}), ("generation_config.json", {"eos_token_id": [0, 5]})]


@pytest.mark.parametrize(("where", "config"), [*ENDS, ("config.json", {"text_config": {"model_type": "gemma3_text", "eos_token_id": 0}})])
def test_end_is_found_where_the_tokenizer_names_none(llama, tmp_path, where, config):
    folder = with_template(llama, None, tmp_path / "t")
    change(folder / "tokenizer_config.json", eos_token=None)
    (folder / "generation_config.json").unlink()
    change(folder / "config.json", eos_token_id=None, **({"model_type": "gemma3", "architectures": None} if "text_config" in config else {}))
    change(folder / where, **config)
    codec = load_codec(folder)
    assert codec.tokenizer.eos_token_id is None and codec.completion("x")[-1] == codec.end_id == 0 and 0 in codec.stop_ids


def test_no_end_at_all_is_refused_by_name(llama, tmp_path):
    folder = with_template(llama, None, tmp_path / "t")
    change(folder / "tokenizer_config.json", eos_token=None)
    (folder / "generation_config.json").unlink()
    (folder / "config.json").write_text(LlamaConfig(eos_token_id=None).to_json_string(use_diff=False))
    with pytest.raises(TargetError, match="'endless' has no end token.*eos_token"):
        load_codec(folder, "endless")


def test_seq2seq_answers_end_where_the_tokenizer_does_not_end_them(tmp_path):
    folder = save_t5(tmp_path / "t5", ["question answer 0 1 2 a b c"] * 20)
    file = folder / "tokenizer.json"
    change(file, post_processor={})
    text = json.loads(file.read_text())
    text["post_processor"] = None
    file.write_text(json.dumps(text))
    codec = load_codec(folder)
    assert codec.tokenizer("a")["input_ids"][-1] != 1 and codec.completion("a b")[-1] == 1 and codec.completion("a b").count(1) == 1 and codec.survives("a b")


def test_length_of_the_part_for_text(llama):
    from transformers import Gemma3Config

    tokenizer = AutoTokenizer.from_pretrained(llama)
    assert longest(Gemma3Config(text_config={"max_position_embeddings": 777}), tokenizer) == 777
    tokenizer.model_max_length = 10**30
    assert longest(BloomConfig(), tokenizer) is None


def test_tokenizer_that_cannot_be_read_is_named(llama, tmp_path):
    folder = with_template(llama, None, tmp_path / "t")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(TargetError, match=r"'broken': its tokenizer cannot be loaded.*tokenizer.json"):
        load_codec(folder, "broken")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TargetError, match=r"'broken': its tokenizer (cannot be loaded|knows no tokens)"):
        load_codec(folder, "broken")


def test_language_codes_are_the_reason(t5, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.set_tgt_lang_special_tokens", lambda *a: None, raising=False)
    with pytest.raises(TargetError, match="'nllb' translates.*language"):
        load_codec(t5, "nllb")


# texts that are none


class Note(BaseModel):
    texts: list[str]


@dataclasses.dataclass
class Card:
    title: dict


HALVES = ["cut \ud83d", ["a", ["\udfff"]], {"k": {"deep": "\ud800x"}}, {"\ud800": 1}, Note(texts=["ok", "\ud83d"]), Card({"a": ["\udc00"]}), ({"x\udc00"},)]


@pytest.mark.parametrize("value", HALVES, ids=range(len(HALVES)))
@pytest.mark.parametrize("name", ["trainset", "valset"])
def test_half_of_a_pair_is_named_by_example_and_field(llama, value, name):
    builder = PairBuilder(dspy.Predict("context, question -> answer"), StudentAdapter(), load_codec(llama))
    fine = dspy.Example(context="🙂 whole", question="q").with_inputs("context", "question")
    for wrong in (fine.copy(context=value), fine.copy(extra=value)):
        at = "context" if wrong.context is value else "extra"
        with pytest.raises(DataError, match=rf"{name}\[2\], field '{at}': it is no Unicode text") as e:
            check_lengths(builder, [fine, fine, wrong], name)
        str(e.value).encode()  # the message is one


def test_example_that_a_template_refuses_is_named(chat_llama, tmp_path):
    "Before the teacher is asked, with the field."
    picky = "{% if 'forbidden' in messages[-1].content %}{{ raise_exception('not with me') }}{% endif %}" + CHAT
    builder = PairBuilder(dspy.Predict("context, question -> answer"), StudentAdapter(), load_codec(with_template(chat_llama, picky, tmp_path / "t")))
    fine = dspy.Example(context="c", question="q").with_inputs("context", "question")
    with pytest.raises(DataError, match=r"trainset\[1\], field 'context': predictor 'self' cannot be asked: .*not with me"):
        check_lengths(builder, [fine, fine.copy(context="forbidden")])


def test_texts_are_found_once_in_what_holds_itself():
    value = ["a", {"b": "c"}]
    value.append(value)
    assert sorted(texts_in(value)) == ["a", "b", "c"]


@pytest.mark.parametrize("model", ["llama", "chat_llama", "t5"])
def test_half_of_a_pair_in_an_answer_drops_its_row(request, model):
    builder = PairBuilder(dspy.Predict("question -> answer"), StudentAdapter(), load_codec(request.getfixturevalue(model)))
    with pytest.raises(DataError, match="answer|predictor"):
        builder.pair(Call("self", {"question": "q"}, {"answer": "cut \ud83d"}), "e", 1.0)
    with pytest.raises(DataError, match="no Unicode text"):
        builder.pair(Call("self", {"question": "cut \ud83d"}, {"answer": "a"}), "e", 1.0)


def test_engine_refuses_half_of_a_pair(llama):
    from dspy.lm15 import InvalidRequestError, Message, Request

    with pytest.raises(InvalidRequestError, match="no Unicode text"):
        StudentEngine.at(llama).submit(Request(model="m", messages=(Message.user("cut \ud83d"),)))

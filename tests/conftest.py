"""Small real models, made on the spot, and scripted teachers (for plumbing only)."""
import logging
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import dspy
import pytest
from dspy.lm15 import Message, Response, Usage

sys.path.append(str(Path(__file__).parent / "bench"))  # its stand-ins of families, its teacher

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell without job control starts what it puts behind like this; interrupts are tested
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    "Each test has its own run folder, no DSPy cache and no global LM."
    monkeypatch.setenv("BSFT_HOME", str(tmp_path / "home"))
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    dspy.configure(lm=None, adapter=None)
    logging.getLogger("dspy").setLevel(logging.CRITICAL)


class Scripted:
    "An engine that answers by a function of the last message, in ChatAdapter's format; counts its calls."

    def __init__(self, answer):
        self.answer, self.calls = answer, 0

    def complete(self, request):
        self.calls += 1
        fields = self.answer(request.messages[-1].text)
        text = "".join(f"[[ ## {k} ## ]]\n{v}\n\n" for k, v in fields.items()) + "[[ ## completed ## ]]"
        return Response(id=None, model=request.model, message=Message.assistant(text), finish_reason="stop", usage=Usage(input_tokens=1, output_tokens=1))


def teacher_lm(answer) -> dspy.LM:
    "A `dspy.LM` whose `engine.calls` counts; `answer(text of the last message)` gives the output fields."
    return dspy.LM("scripted/teacher", engine=Scripted(answer), cache=False)


def save_t5(folder, texts, layers=2, width=64):
    "A T5 with random weights, its tokenizer trained on `texts`: no newline, no braces, 100 sentinels."
    import torch
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import (
        PreTrainedTokenizerFast,
        T5Config,
        T5ForConditionalGeneration,
    )

    sentinels = [f"<extra_id_{i}>" for i in range(99, -1, -1)]
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizers.Sequence([normalizers.Replace("\n", " "), normalizers.NFKC()])
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    alphabet = [c for c in map(chr, range(33, 127)) if c not in "{}<>\\~^"]
    special = ["<pad>", "</s>", "<unk>", *sentinels]
    tok.train_from_iterator(texts, trainers.UnigramTrainer(vocab_size=700, special_tokens=special, initial_alphabet=alphabet, unk_token="<unk>"))
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", tok.token_to_id("</s>"))])
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", additional_special_tokens=sentinels, model_max_length=512)
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(fast), d_model=width, d_kv=16, d_ff=2 * width, num_layers=layers, num_heads=4, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, dropout_rate=0.0)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def save_llama(folder, template=None, width=64):
    "A causal model with random weights and a byte-level tokenizer."
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tok.train_from_iterator([], trainers.BpeTrainer(special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|end|>", chat_template=template).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=257, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, eos_token_id=0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("llama"))


CHAT = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"


@pytest.fixture(scope="session")
def chat_llama(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("chat"), CHAT)


@pytest.fixture(scope="session")
def t5(tmp_path_factory):
    return save_t5(tmp_path_factory.mktemp("t5"), ["the quick brown fox", "question answer team urgency", "0 1 2 3 4 5 6 7 8 9 %0A"] * 20)

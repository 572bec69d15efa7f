"""A sweep over model families: which can be a target, by which path, and are the answers those of transformers?

For each family a small stand-in with random weights is made of its own configuration class, saved, and used as anybody's target:

- `path`: `shared` (prompts share their beginning), `columns` (an encoder-decoder's rows join and leave batches), `plain` (transformers' own `generate`),
  or `refused` (a `TargetError`, with `why`). `step`: `packed`, or `padded` where rows are run whole in training.
  `none` is a family of which no stand-in could be made, or whose own `generate` fails: it says nothing about us, and does not count.
- `tokens_equal`: answers of the engine, alone and in a batch of rows of several lengths, equal to transformers' greedy `generate`
- `loss`: the relative difference between a step's loss and that of transformers, row by row
- `compiled`, `loaded`: a compile with a scripted teacher ends; the loaded program, and `generate` of transformers alone, answer as the compiled one

    python tests/bench/families.py [--only NAME ...] [--used] [--quick] [--jobs N]
    python tests/bench/families.py --speed [--only NAME ...]

One JSON line a family; the last line sums up. `--quick` leaves the compile out; `--used` tries the 30 causal families that people use most, and counts those on the fast path.
Each family runs in a process of its own. `--speed` instead measures, for models of four layers and 128 to 256 wide, answers/s and steps/s of the fast path as a multiple of the plain one.
"""
import argparse
import json
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

TEXT = 264  # size of the vocabulary
SIZES = {  # of the stand-ins: by the whole name of a setting, else by its end
    "vocab_size": TEXT, "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "embed_dim": 32, "emb_dim": 32, "word_embed_proj_dim": 32, "embedding_size": 32, "d_embed": 32,
    "head_dim": 8, "d_kv": 8, "d_head": 8, "kv_channels": 8, "intermediate_size": 48, "ffn_dim": 48, "d_ff": 48, "n_inner": 48, "d_inner": 48, "dim_feedforward": 48, "ffn_hidden_size": 48,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 1024, "n_positions": 1024,
    "sliding_window": 7, "sliding_window_size": 7, "window_size": 7, "attention_chunk_size": 7,  # shorter than the prompts
}
ENDS = {
    "_layers": 2, "n_layer": 2, "num_blocks": 2, "_heads": 4, "n_head": 4, "num_key_value_heads": 2, "num_kv_heads": 2, "_ffn_dim": 48, "_intermediate_size": 48, "_hidden_size": 32, "_head_dim": 8,
    "_lora_rank": 8, "layer_types": None, "mlp_layer_types": None,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": None, "forced_bos_token_id": None}
PAD_STARTS = ("t5", "mt5", "umt5", "longt5", "switch_transformers", "pegasus", "pegasus_x", "marian")  # their decoders begin with the token for padding
LATENT = dict(n_group=1, topk_group=1, num_experts_per_tok=2, first_k_dense_replace=1, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=16, kv_lora_rank=16, q_lora_rank=16)
MAMBA = dict(mamba_n_heads=8, mamba_d_head=8, mamba_expand=2, mamba_d_ssm=64, mamba_d_state=8, mamba_n_groups=1, mamba_chunk_size=16)
MORE: dict[str, dict] = {  # what single families need beside
    **{k: LATENT for k in ("deepseek_v3", "deepseek_v32", "axk1", "bailing_hybrid", "dots1", "glm_moe_dsa", "youtu", "glm4_moe_lite", "minicpm3")},
    "deepseek_v2": LATENT | dict(v_head_dim=12), "longcat_flash": LATENT | dict(head_dim=16, qk_head_dim=16), "kimi_linear": LATENT | dict(num_experts_per_token=2, num_expert_group=1),
    "bamba": MAMBA | dict(attn_layer_indices=[1]), "falcon_h1": MAMBA, "granitemoehybrid": MAMBA, "jamba": MAMBA | dict(attn_layer_offset=1, attn_layer_period=2),
    "mamba2": dict(num_heads=8, head_dim=8, expand=2, state_size=8, n_groups=1, chunk_size=16), "recurrent_gemma": dict(block_types=["recurrent", "attention"]),
    "xlstm": dict(qk_dim_factor=1.0), "xmod": dict(default_language="en_XX"), "reformer": dict(is_decoder=True),
    "hunyuan_v1_dense": dict(head_dim=8), "hunyuan_v1_moe": dict(head_dim=8), "ministral": dict(head_dim=8), "nemotron": dict(num_key_value_heads=2, head_dim=8),
    "gpt_neo": dict(attention_types=[[["global", "local"], 1]], attention_layers=["global", "local"]), "lfm2_moe": dict(layer_types=["conv", "full_attention"]), "laguna": dict(num_attention_heads_per_layer=[4, 4]),
    **{k: dict(rotary_dim=4) for k in ("codegen", "gptj")},
}


USED = "llama qwen2 qwen3 qwen2_moe qwen3_moe mistral mixtral ministral gemma gemma2 gemma3_text phi phi3 gpt2 gpt_neox gpt_oss deepseek_v2 deepseek_v3 olmo olmo2 olmo3 cohere cohere2 starcoder2 stablelm smollm3 granite exaone4 glm4 falcon".split()
TIMED = "llama mistral gemma2 gemma3_text gpt_oss deepseek_v2 t5".split()  # for `--speed`: one of each kind


def shrunk(settings: dict, more: dict) -> dict:
    "A configuration's settings, small."
    made = {}
    for key, value in settings.items():
        if key in more:
            made[key] = more[key]
        elif isinstance(value, dict) and (key.endswith("config") or "model_type" in value):
            made[key] = shrunk(value, more.get(f"{key}.", {}))
        elif key in IDS:
            made[key] = IDS[key]
        elif key.endswith("token_id") and isinstance(value, int):
            made[key] = value % TEXT
        elif isinstance(value, bool) or not isinstance(value, (int, list)) or value is None:
            made[key] = value
        elif key in SIZES:
            made[key] = min(SIZES[key], value) if isinstance(value, int) else value
        else:
            size = next((n for end, n in ENDS.items() if key.endswith(end) and n), None)
            made[key] = min(size, value) if size and isinstance(value, int) else value
    names = ("num_hidden_layers", "n_layer", "num_layers")
    before, n = ([d[k] for k in names if isinstance(d.get(k), int)] for d in (settings, made))
    for key, value in list(made.items()):
        if before and n and key not in more:
            made[key] = _cut(key, value, before[0], n[0])
    return made | {k: v for k, v in more.items() if not k.endswith(".")}


def _cut(key: str, value, before: int, n: int):
    "A setting that says something of each of `before` layers, for `n`."
    if isinstance(value, dict) and value and all(str(k).isdigit() for k in value):
        return {k: v for k, v in value.items() if int(k) < n}
    if not isinstance(value, list) or len(value) != before:
        return value
    kinds = list(dict.fromkeys(value)) if all(isinstance(v, str) for v in value) else []
    return [SIZES[key]] * n if key in SIZES else (kinds + value)[:n]  # each kind of layer that there is, first


def save_tokenizer(folder: Path, ends: bool):
    "Byte level, 259 tokens; `ends`: prompts end with EOS, as an encoder's do."
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
    tok.train_from_iterator([], trainers.BpeTrainer(special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if ends:
        tok.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="</s>", pad_token="<pad>", bos_token="<s>").save_pretrained(folder)


def save_stand_in(family: str, folder: Path) -> Path:
    "A small model of the family with random weights, and a tokenizer."
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForSeq2SeqLM,
    )
    from transformers.models.auto import modeling_auto as auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    made = CONFIG_MAPPING[family]
    settings = shrunk(made().to_dict(), MORE.get(family, {}))
    for key in ("transformers_version", "architectures"):
        settings.pop(key, None)
    if settings.get("is_encoder_decoder", getattr(made, "is_encoder_decoder", False)):
        settings["decoder_start_token_id"] = 0 if family in PAD_STARTS else 1
        if family not in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
            raise ValueError("an encoder-decoder that is no language model")
    config = made.from_dict(settings)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder and family in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES else AutoModelForCausalLM
    if family in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and not config.is_encoder_decoder:
        kind = AutoModelForImageTextToText  # the whole, as it is on the Hub
    torch.manual_seed(0)
    model = kind.from_config(config).float()
    if sum(p.numel() for p in model.parameters()) > 2e8:
        raise ValueError(f"the stand-in has {sum(p.numel() for p in model.parameters()):,} parameters: shrink more of it")
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2 and 0 < p.std() < 0.1:
                p.mul_(0.25 / p.std())  # scores that attention makes something of
    model.save_pretrained(folder)
    save_tokenizer(folder, config.is_encoder_decoder)
    AutoConfig.from_pretrained(folder)
    return folder


def reference(folder: Path, prompts: list[list[int]], n: int, tuned: bool = False) -> list[list[int]]:
    "Greedy tokens of transformers alone; `tuned`: with the generation settings that lie in the folder."
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        GenerationConfig,
    )

    from bsft_nb.models.targets import check_folder, decoder_start

    encoder_decoder = check_folder(folder, "").encoder_decoder
    model = (AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM).from_pretrained(folder, dtype=torch.float32).eval()
    if not tuned:
        start = {"decoder_start_token_id": decoder_start(model.config, model.generation_config)} if encoder_decoder else {}
        model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, bos_token_id=1, **start)
    found = []
    for p in prompts:
        ids = torch.tensor([p])
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False)[0].tolist()
        out = out[1:] if encoder_decoder else out[len(p) :]
        found.append(out[: out.index(2)] if 2 in out else out)
    return found


PROMPTS = [[(7 * i * k + 3 * k) % 250 + 5 for i in range(n)] for k, n in ((1, 9), (2, 4), (3, 17), (5, 9))]
BEGIN = [(11 * i) % 250 + 5 for i in range(6)]  # with what they all begin
N = 10  # tokens of an answer


def answers(folder: Path, ends: bool) -> tuple[object, int, int]:
    "A `Generator`, and how many of its answers are those of transformers, of how many."
    from bsft_nb.engine.decode import Generator
    from bsft_nb.engine.sampling import Row
    from bsft_nb.models.loading import load_weights
    from bsft_nb.models.tokens import load_codec

    prompts = [BEGIN + p + [2] * ends for p in PROMPTS]
    generator = Generator(load_weights(folder), load_codec(folder))
    wanted = reference(folder, prompts, N)
    rows = [Row(p, N) for p in prompts]
    generator(rows, "together")
    alone = [Row(p, N) for p in prompts[:2]]
    for i, row in enumerate(alone):
        generator([row], i)
    pairs = [(r.answer, w) for r, w in zip(rows + alone, wanted + wanted[:2])]
    return generator, sum(a == b for a, b in pairs), len(pairs)


def loss_difference(folder: Path, ends: bool) -> tuple[float, str]:
    "Between a step's loss by the path that training takes and that of transformers' logits row by row, relative; and the form of the batch."
    import torch

    from bsft_nb.data.pairs import Pair
    from bsft_nb.models.loading import load_weights
    from bsft_nb.models.targets import decoder_start
    from bsft_nb.models.tokens import load_codec
    from bsft_nb.training.objective import completion_loss, pads_right
    from bsft_nb.training.packing import collate

    model, codec = load_weights(folder), load_codec(folder)
    pairs = [Pair(str(i), "p", "", "", 1.0, BEGIN + p + [2] * ends, [(i * 13 + j) % 250 + 5 for j in range(2 + i)] + [2]) for i, p in enumerate(PROMPTS)]
    total, count = 0.0, sum(len(p.completion_ids) for p in pairs)
    with torch.no_grad():
        for p in pairs:
            if ends:
                before = torch.tensor([[decoder_start(model.config, model.generation_config), *p.completion_ids[:-1]]])
                logits = model(input_ids=torch.tensor([p.prompt_ids]), decoder_input_ids=before, use_cache=False).logits[0]  # FSMT forgets its causal mask with a cache
            else:
                logits = model(input_ids=torch.tensor([p.prompt_ids + p.completion_ids]), use_cache=False).logits[0, len(p.prompt_ids) - 1 : -1]
            total += torch.nn.functional.cross_entropy(logits.float(), torch.tensor(p.completion_ids), reduction="sum").item()
    module = completion_loss(model).eval()
    shared = module.plain_because is None
    loss = module(**collate(pairs, codec, shared, not shared and pads_right(model)))["loss"]
    loss.backward()
    return abs(loss.item() / (total / count) - 1), "packed" if shared else "padded"


def compiled(folder: Path) -> tuple[bool, bool]:
    "Does a compile end with a program that answers? Do the loaded program, and transformers alone, answer as it does?"
    import dspy
    from transformers import AutoTokenizer

    import bsft_nb
    from bsft_nb.lessons import teacher_lm

    lm = teacher_lm(lambda text: {"answer": "yes"})
    trainset = [dspy.Example(question=f"q{i}", answer="yes").with_inputs("question") for i in range(8)]
    tp = bsft_nb.BootstrapFinetune(None, dict(lm=lm))
    program = tp.compile(dspy.Predict("question -> answer"), trainset=trainset, target=str(folder), bsize=4, lr=1e-3, display=False, launch="inline")
    asked = ["q1", "a longer question"]

    def told(program):
        "Its answers; random weights may give an empty one, which DSPy takes for none."
        try:
            return [program(question=q, config={"max_tokens": 8}).answer for q in asked]
        except dspy.utils.exceptions.AdapterParseError as e:
            return str(e)

    first = told(program)
    again = bsft_nb.load(tp.run.id)
    same = first == told(again)
    student = tp.run.path / "model"
    prompts = [tp.run.pairs["train"][0]["prompt_ids"]]
    from bsft_nb.engine.decode import Generator
    from bsft_nb.engine.sampling import Row
    from bsft_nb.models.loading import load_weights
    from bsft_nb.models.tokens import load_codec

    row = Row(prompts[0], 8)
    Generator(load_weights(student), load_codec(student))([row], None)
    AutoTokenizer.from_pretrained(student)
    return True, same and reference(student, prompts, 8, tuned=True) == [row.answer]


def tried(family: str, folder: Path, quick: bool) -> dict:
    "What became of the family."
    from bsft_nb.models.targets import resolve_target
    from bsft_nb.models.tokens import load_codec
    from bsft_nb.models.weights import TargetError

    found = {"family": family, "path": "none", "why": None}
    try:
        save_stand_in(family, folder)
    except Exception as e:
        if not (folder / "config.json").exists():
            return _configured(family, folder, found, e)
        raise
    try:
        target = resolve_target(folder)
        ends = target.encoder_decoder
        load_codec(folder)
        reference(folder, [[5, 6, 7] + [2] * ends], 2)
    except TargetError as e:
        return found | {"path": "refused", "why": str(e).replace(str(folder), family)}
    except Exception as e:
        return found | {"why": f"transformers' own generate fails: {type(e).__name__}: {e!s:.200}"}
    generator, right, of = answers(folder, ends)
    found |= {"path": "plain" if not generator.shared else "columns" if generator.columns else "shared", "why": generator.why_not_shared, "tokens_equal": f"{right}/{of}"}
    try:
        loss, found["step"] = loss_difference(folder, ends)
        found["loss"] = float(f"{loss:.1e}")
    except TargetError as e:
        return found | {"path": "refused", "why": str(e)}
    if not quick:
        found["compiled"], found["loaded"] = compiled(folder)
    return found


def _configured(family: str, folder: Path, found: dict, error: Exception) -> dict:
    "Of a family without a stand-in: is it refused by its configuration, as it should be?"
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from bsft_nb.models.weights import TargetError, check_config

    try:
        check_config(json.loads(CONFIG_MAPPING[family]().to_json_string(use_diff=False)), family)
    except TargetError as e:
        return found | {"path": "refused", "why": str(e)}
    except Exception as e:
        error = e
    return found | {"why": f"no stand-in: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def families() -> list[str]:
    "Causal and encoder-decoder language models of the installed transformers, and some that read more than text."
    from transformers.models.auto import modeling_auto as auto

    more = ["whisper", "speech_to_text", "llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "mistral3", "paligemma", "idefics3", "florence2", "pix2struct", "vision-encoder-decoder", "bark", "clip", "vit"]
    return list(dict.fromkeys([*auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, *more]))


def in_child(family: str, quick: bool) -> tuple[int, int]:
    "Start the family in a process of its own; its pid, and the pipe from which its line comes."
    out, into = os.pipe()
    pid = os.fork()
    if pid:
        os.close(into)
        return pid, out
    os.setsid()
    began, null = time.monotonic(), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    if not os.environ.get("FAMILIES_VERBOSE"):
        os.dup2(null, 2)
    with tempfile.TemporaryDirectory() as where:
        os.environ["BSFT_HOME"] = f"{where}/home"
        try:
            found = tried(family, Path(where) / family, quick)
        except BaseException as e:
            traceback.print_exc()
            at = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(e.__traceback__)][-3:]
            found = {"family": family, "path": "failed", "why": f"{type(e).__name__}: {' '.join(str(e).split())[:400]} ({' > '.join(at)})"}
        os.write(into, json.dumps(found | {"seconds": round(time.monotonic() - began, 1)}).encode())
    os._exit(0)


def sweep(names: list[str], quick: bool, jobs: int, limit: float, tell) -> list[dict]:
    "All families, `jobs` at a time; each ends after `limit` seconds at the latest."
    left, running, found = list(names), {}, []
    while left or running:
        while left and len(running) < jobs:
            name = left.pop(0)
            pid, out = in_child(name, quick)
            running[out] = (name, pid, time.monotonic() + limit)
        ready = select.select(list(running), [], [], 1)[0]
        for out in [*ready, *(o for o, (_, _, end) in running.items() if o not in ready and time.monotonic() > end)]:
            name, pid, _ = running.pop(out)
            text = os.read(out, 1 << 16) if out in ready else b""
            os.close(out)
            if out not in ready:
                os.killpg(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            why = f"not ended after {limit:.0f} s" if out not in ready else f"its process ended with status {status}"
            found.append(json.loads(text) if text else {"family": name, "path": "failed", "why": why})
            tell(found[-1])
    return found


def summary(found: list[dict]) -> dict:
    "Counts, and the families that are not as they should be."
    run = [f for f in found if f["path"] in ("shared", "columns", "plain")]
    wrong = [f["family"] for f in run if len(set(f["tokens_equal"].split("/"))) > 1 or f["loss"] > 1e-3 or not f.get("compiled", True) or not f.get("loaded", True)]
    by = {p: sorted(f["family"] for f in found if f["path"] == p) for p in ("shared", "columns", "plain", "refused", "none", "failed")}
    fast = [f for f in run if f["family"] in USED and f["path"] == "shared" and f["step"] == "packed" and f["family"] not in wrong]
    return {"families": len(found), "run": len(run), "wrong": wrong, "families_fast": f"{len(fast)}/{len(USED)}", **{p: len(names) for p, names in by.items()}, "names": by}


def wide(family: str, folder: Path) -> Path:
    "A stand-in of four layers, large enough that computing takes longer than calling."
    large = {"hidden_size": 256, "d_model": 256, "intermediate_size": 512, "d_ff": 512, "head_dim": 64, "d_kv": 64, "moe_intermediate_size": 128, "sliding_window": 64}
    before = dict(SIZES), dict(ENDS)
    SIZES.update(large)
    ENDS.update({"_layers": 4, "n_layer": 4})
    try:
        return save_stand_in(family, folder)
    finally:
        SIZES.update(before[0])
        ENDS.update(before[1])


def timed(call, least: float = 3.0) -> float:
    "Calls a second, the first left out."
    call()
    began, n = time.monotonic(), 0
    while time.monotonic() - began < least or n < 2:
        call()
        n += 1
    return n / (time.monotonic() - began)


def speed(family: str, folder: Path) -> dict:
    "How many times as fast as the plain path: 16 prompts of 200 common and 40 own tokens, 16 tokens of answer; and a step of 8 of them."
    import torch

    from bsft_nb.data.pairs import Pair
    from bsft_nb.engine.decode import Generator
    from bsft_nb.engine.sampling import Row
    from bsft_nb.models.loading import load_weights
    from bsft_nb.models.tokens import load_codec
    from bsft_nb.training.objective import completion_loss
    from bsft_nb.training.packing import collate

    wide(family, folder)
    codec, made = load_codec(folder), {}
    begin = [(11 * i) % 250 + 5 for i in range(200)]
    prompts = [begin + [(7 * i * k + 3 * k) % 250 + 5 for i in range(40)] + [2] * codec.encoder_decoder for k in range(1, 17)]
    pairs = [Pair(str(i), "p", "", "", 1.0, p, [(i * 13 + j) % 250 + 5 for j in range(16)]) for i, p in enumerate(prompts[:8])]
    for fast in (True, False):
        generator = Generator(load_weights(folder), codec)
        generator.shared = fast
        if not fast:
            generator.model = load_weights(folder)  # with its own attention

        def answer(generator=generator):
            generator([Row(p, 16) for p in prompts], None)

        model = load_weights(folder)
        module = completion_loss(model).train()
        if not fast:
            model.set_attn_implementation(load_weights(folder).config._attn_implementation)

        def step(module=module, model=model, packed=fast and module.plain_because is None):
            module(**collate(pairs, codec, packed))["loss"].backward()
            model.zero_grad()

        with torch.no_grad():
            made["answers", fast] = timed(answer)
        made["steps", fast] = timed(step)
    return {"family": family, **{f"{k}_times_plain": round(made[k, True] / made[k, False], 2) for k in ("answers", "steps")}, "answers_per_s": round(16 * made["answers", True], 1), "steps_per_s": round(made["steps", True], 2)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="families, by transformers' model type")
    parser.add_argument("--quick", action="store_true", help="no compile")
    parser.add_argument("--used", action="store_true", help="the 30 causal families that people use most")
    parser.add_argument("--speed", action="store_true", help="measure the fast path against the plain one")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=float, default=300, help="seconds a family")
    args = parser.parse_args()
    import logging

    import dspy
    import torch  # once, for all children
    import transformers

    import bsft_nb  # noqa: F401

    transformers.logging.set_verbosity_error()
    logging.getLogger("dspy").setLevel(logging.CRITICAL)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    if args.speed:
        with tempfile.TemporaryDirectory() as where:
            found = [speed(family, Path(where) / family) for family in args.only or TIMED]
        print(*map(json.dumps, found), json.dumps({"threads": torch.get_num_threads(), "families": {f["family"]: [f["answers_times_plain"], f["steps_times_plain"]] for f in found}}), sep="\n")
        sys.exit()
    found = sweep(args.only or (USED if args.used else families()), args.quick, args.jobs, args.limit, lambda f: print(json.dumps(f), flush=True))
    made = summary(found)
    print(json.dumps(made), flush=True)
    sys.exit(bool(made["wrong"] or made["failed"]))

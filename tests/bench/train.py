"""Training speed, memory and exactness against TRL and Hugging Face's Trainer; the last line is one JSON object.

    python tests/bench/train.py [--quick] [--bf16] [--target smollm2-135m]

Each peer trains in a process of its own, on the same batches in the same order: the demo's training tickets with their
gold labels, in batches of 8 rows of one predictor (of both in turn), fp32 unless --bf16, AdamW. Examples a second are the
mean over whole optimizer steps after a warm-up; `same_rows_*` are ratios over the same batches.
`mixed_vs_trl` is ours with both predictors in each batch, which is how `compile` trains: each predictor's beginning is
then run once a batch. Ours for T5 has rows of similar length together. Memory is the peak resident size above that with
the peer's libraries imported: weights, gradients, optimizer, activations. `peak_fraction` counts the operations that a
step needs (weights and attention, nothing twice) and divides by the best of a few large matrix products right after it.

TRL is measured twice: with its defaults, which recompute activations (gradient checkpointing), and with that switched off,
as ours and Trainer's default is. `*_vs_trl` compare with the defaults, `*_vs_trl_no_checkpointing` with the other.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
BSIZE, WARMUP = 8, 2


def demo_pairs(target, adapter, mixed=False):
    "Pairs of the demo's tickets with gold labels, in the format of `adapter`: the same examples in the same order for each format. A batch has one predictor unless `mixed`."
    from bsft_nb.data.pairs import PairBuilder
    from bsft_nb.demo.tickets import Triage, tickets
    from bsft_nb.models.tokens import load_codec
    from bsft_nb.teacher.keys import example_key
    from bsft_nb.teacher.ledger import Call
    from bsft_nb.training.packing import BatchOrder

    codec = load_codec(target.path)
    builder, pairs = PairBuilder(Triage(), adapter(codec), codec), []
    for e in tickets("train"):
        for name, inputs, output in (("route", ["ticket"], "team"), ("prioritise", ["ticket", "team"], "urgency")):
            pairs.append(builder.pair(Call(name, {k: e[k] for k in inputs}, {output: e[output]}), example_key(e), None))
    pairs = [pairs[i] for i in BatchOrder(pairs, BSIZE)]
    alone = [[p for p in pairs if p.predictor == name] for name in ("route", "prioritise")]
    turns = [p for i in range(0, len(alone[0]), BSIZE) for some in alone for p in some[i : i + BSIZE]]
    return codec, pairs if mixed else turns


def chat(codec):
    import dspy

    return dspy.ChatAdapter()


def student(codec):
    from bsft_nb.models.student_adapter import fitting

    return fitting(codec.survives, lambda text: text in codec.tokenizer.get_vocab())


def clock():
    "A callback whose `steps` are the seconds of each optimizer step."
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self):
            self.at, self.steps = None, []

        def on_step_end(self, *args, **kwargs):
            now = time.perf_counter()
            if self.at:
                self.steps.append(now - self.at)
            self.at = now

    return Clock()


def arguments(kind, args, **more):
    folder = tempfile.mkdtemp()
    common = dict(per_device_train_batch_size=BSIZE, max_steps=args.steps + WARMUP, learning_rate=1e-5, use_cpu=True, bf16=args.bf16, train_sampling_strategy="sequential", report_to=[], disable_tqdm=True, save_strategy="no", logging_steps=1, dataloader_pin_memory=False)
    return kind(folder, **{**common, **more})


def imported(peer):
    "Import what `peer` needs, then say the resident size in bytes."
    import transformers
    from transformers import AutoModelForCausalLM, Seq2SeqTrainer, Trainer  # noqa: F401

    if "trl" in peer:
        from trl import SFTTrainer  # noqa: F401
    transformers.logging.disable_progress_bar()
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(trainer, before):
    "Train, and give what was measured."
    ticks = clock()
    trainer.add_callback(ticks)
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    steps = ticks.steps[WARMUP - 1 :]  # the clock begins at the end of the first
    return {"examples_per_s": BSIZE / statistics.mean(steps), "step_s": steps, "memory": peak, "losses": losses}


def padded(codec):
    "A collator of the usual kind: rows padded on the right, -100 where there is no label."
    import torch

    def collator(pairs):
        width = max(p.tokens for p in pairs)
        def fill(rows, value):
            return torch.tensor([r + [value] * (width - len(r)) for r in rows])
        return {
            "input_ids": fill([p.prompt_ids + p.completion_ids for p in pairs], codec.pad_id),
            "attention_mask": fill([[1] * p.tokens for p in pairs], 0),
            "labels": fill([[-100] * len(p.prompt_ids) + p.completion_ids for p in pairs], -100),
        }

    return collator


def with_trl(args, target, before, checkpointing):
    import datasets
    from trl import SFTConfig, SFTTrainer

    from bsft_nb.models.loading import load_weights

    codec, pairs = demo_pairs(target, chat)
    datasets.disable_progress_bars()
    rows = {"input_ids": [p.prompt_ids + p.completion_ids for p in pairs], "completion_mask": [[0] * len(p.prompt_ids) + [1] * len(p.completion_ids) for p in pairs]}
    config = arguments(SFTConfig, args, completion_only_loss=True, gradient_checkpointing=checkpointing, max_length=None)
    return run(SFTTrainer(load_weights(target.path), config, train_dataset=datasets.Dataset.from_dict(rows), processing_class=codec.tokenizer), before)


def with_hf(args, target, before):
    from transformers import Trainer, TrainingArguments

    from bsft_nb.models.loading import load_weights

    codec, pairs = demo_pairs(target, chat)
    config = arguments(TrainingArguments, args, remove_unused_columns=False)
    return run(Trainer(load_weights(target.path), config, data_collator=padded(codec), train_dataset=pairs), before)


def matmul_peak(args):
    "Floating-point operations a second of large matrix products, the best of a few: measured right after the training, because the machine's own speed changes."
    import torch

    x = torch.randn(2048, 2048, dtype=torch.bfloat16 if args.bf16 else torch.float32)
    seconds = []
    for _ in range(8):
        began = time.perf_counter()
        x @ x
        seconds.append(time.perf_counter() - began)
    return 2 * 2048**3 / min(seconds)


def attention(config, sizes):
    "Floating-point operations, forward and backward, of attention over the keys that each token sees (A. Chowdhery et al., PaLM, 2022, appendix B); `sizes` as `collate` gives them."
    from bsft_nb.training.objective import packed_groups

    seen = sum(n * (n + 1) // 2 + sum(m * n + m * (m + 1) // 2 for m in rows) for n, *rows in packed_groups(sizes))
    return 12 * config.num_hidden_layers * config.hidden_size * seen


def with_ours(args, target, before, adapter, mixed=False):
    from transformers import Trainer, TrainingArguments

    from bsft_nb.models.loading import load_weights
    from bsft_nb.training.objective import completion_loss
    from bsft_nb.training.packing import collate

    codec, pairs = demo_pairs(target, adapter, mixed)
    loss = completion_loss(load_weights(target.path))
    config = arguments(TrainingArguments, args, remove_unused_columns=False, label_names=["labels"])
    found = run(Trainer(loss, config, data_collator=lambda rows: collate(rows, codec), train_dataset=pairs), before)
    batches = [collate(pairs[i : i + BSIZE], codec) for i in range(0, (args.steps + WARMUP) * BSIZE, BSIZE)]
    head = loss.model.get_output_embeddings().weight
    body = sum(p.numel() for p in loss.model.parameters()) - head.numel()
    used = [6 * (body * b["input_ids"].numel() + head.numel() * b["labels"].numel()) + attention(loss.config, b["sizes"][0].tolist()) for b in batches[WARMUP:]]
    tokens = statistics.mean(b["input_ids"].numel() for b in batches)
    return {**found, "flops": statistics.mean(used), "peak_flops": matmul_peak(args), "tokens": tokens, "padded_tokens": statistics.mean(padded(codec)(pairs[i : i + BSIZE])["input_ids"].numel() for i in range(0, len(batches) * BSIZE, BSIZE))}


def t5_rows(target):
    "A T5-small-shaped model with random weights, and the student-format rows with ids folded into its vocabulary."
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    _, pairs = demo_pairs(target, student)
    model = T5ForConditionalGeneration(T5Config(decoder_start_token_id=0))
    for p in pairs:
        p.prompt_ids, p.completion_ids = ([2 + i % 32000 for i in ids] for ids in (p.prompt_ids, p.completion_ids))
    return model, pairs


def with_t5(args, target, before, ours):
    from types import SimpleNamespace

    import torch
    from transformers import (
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        Trainer,
        TrainingArguments,
    )

    from bsft_nb.training.objective import completion_loss
    from bsft_nb.training.packing import BatchOrder, collate

    model, pairs = t5_rows(target)
    if ours:
        codec = SimpleNamespace(encoder_decoder=True, pad_id=0)
        pairs = [pairs[i] for i in BatchOrder(pairs, BSIZE, noise=0.1)]  # as the trainer orders rows that are padded
        config = arguments(TrainingArguments, args, remove_unused_columns=False, label_names=["labels"])
        return run(Trainer(completion_loss(model), config, data_collator=lambda rows: collate(rows, codec), train_dataset=pairs), before)
    widths = [max(len(getattr(p, k)) for p in pairs) for k in ("prompt_ids", "completion_ids")]

    def longest(rows):
        def fill(ids, width, value):
            return ids + [value] * (width - len(ids))
        inputs = [fill(p.prompt_ids, widths[0], 0) for p in rows]
        mask = [fill([1] * len(p.prompt_ids), widths[0], 0) for p in rows]
        labels = [fill(p.completion_ids, widths[1], -100) for p in rows]
        return {"input_ids": torch.tensor(inputs), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}

    config = arguments(Seq2SeqTrainingArguments, args, remove_unused_columns=False)
    return run(Seq2SeqTrainer(model, config, data_collator=longest, train_dataset=pairs), before)


def exactness(args, target, before):
    "In fp32, the largest relative difference of a batch's loss and of any parameter's gradient from transformers' own labels."
    from bsft_nb.models.loading import load_weights
    from bsft_nb.training.objective import completion_loss
    from bsft_nb.training.packing import collate

    codec, pairs = demo_pairs(target, chat)
    batch, found = sorted(pairs, key=lambda p: p.predictor)[:: len(pairs) // 4][:4], []
    model = load_weights(target.path)
    for make in (lambda: model(**padded(codec)(batch)).loss, lambda: completion_loss(model)(**collate(batch, codec))["loss"]):
        model.zero_grad()
        loss = make()
        loss.backward()
        found.append((loss.item(), [p.grad.clone() for p in model.parameters()]))
    (plain, expected), (ours, grads) = found
    worst = max(((a - b).norm() / b.norm()).item() for a, b in zip(grads, expected))
    return {"loss_rel_err": abs(ours - plain) / abs(plain), "grad_rel_err": worst}


PEERS = {
    "exact": exactness,
    "ours": lambda *a: with_ours(*a, chat),
    "mixed": lambda *a: with_ours(*a, chat, True),
    "default": lambda *a: with_ours(*a, student),
    "trl": lambda *a: with_trl(*a, True),
    "trl_no_checkpointing": lambda *a: with_trl(*a, False),
    "hf": with_hf,
    "t5": lambda *a: with_t5(*a, True),
    "t5_hf": lambda *a: with_t5(*a, False),
}
MANY = {"default": 5, "t5": 5, "t5_hf": 5, "ours": 2, "mixed": 2}  # times as many steps: short ones


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--target", default="smollm2-135m")
    ask.add_argument("--quick", action="store_true", help="one step of each peer")
    ask.add_argument("--bf16", action="store_true", help="mixed precision for all peers; slow where it is emulated")
    ask.add_argument("--steps", type=int, default=6, help="measured steps of the slow peers; the others take more")
    ask.add_argument("--only", nargs="*", choices=PEERS, help="print these peers' figures alone")
    ask.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    args = ask.parse_args()
    args.steps = 1 if args.quick else args.steps
    if args.peer:
        from bsft_nb.models.targets import resolve_target

        args.steps *= 1 if args.quick else MANY.get(args.peer, 1)
        before = imported(args.peer)
        return print(json.dumps(PEERS[args.peer](args, resolve_target(args.target), before)))
    found, options = {}, [f"--target={args.target}", f"--steps={args.steps}", *(f"--{k}" for k in ("quick", "bf16") if getattr(args, k))]
    for name in args.only or PEERS:
        began = time.time()
        done = subprocess.run([sys.executable, __file__, f"--peer={name}", *options], stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {json.dumps(found[name])} in {time.time() - began:.0f} s", flush=True)
    if not args.only:
        print(json.dumps(figures(found)))


def figures(found):
    "The ratios of one run."
    speed = {name: f["examples_per_s"] for name, f in found.items() if "examples_per_s" in f}

    def ours_vs(peer):
        "Ours by `peer`, over the batches that both were measured on."
        pairs = list(zip(found[peer]["step_s"], found["ours"]["step_s"]))
        return sum(theirs for theirs, _ in pairs) / sum(ours for _, ours in pairs)

    ratios = {
        "same_rows_vs_trl": ours_vs("trl"),
        "same_rows_vs_hf": ours_vs("hf"),
        "default_vs_trl": speed["default"] / speed["trl"],
        "memory_vs_trl": found["ours"]["memory"] / found["trl"]["memory"],
        "peak_fraction": found["ours"]["flops"] * speed["ours"] / BSIZE / found["ours"]["peak_flops"],
        "t5_vs_hf": speed["t5"] / speed["t5_hf"],
        "mixed_vs_trl": speed["mixed"] / speed["trl"],
        "same_rows_vs_trl_no_checkpointing": ours_vs("trl_no_checkpointing"),
        "default_vs_trl_no_checkpointing": speed["default"] / speed["trl_no_checkpointing"],
        "memory_vs_trl_no_checkpointing": found["ours"]["memory"] / found["trl_no_checkpointing"]["memory"],
    }
    exact = {k: float(f"{found['exact'][k]:.2g}") for k in ("loss_rel_err", "grad_rel_err")}
    return {**{k: round(v, 2) for k, v in ratios.items()}, **exact}


if __name__ == "__main__":
    main()

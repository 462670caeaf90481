"""Training speed and memory beside transformers.Trainer: same model, rows, precision, batch and optimizer.

    python benchmarks/training.py [--seq-len 1024] [--rows 1] [--steps 8] [--rounds 1] [--split]

Each contestant runs in a process of its own, in turn, `rounds` times; the figure is the median over the steps of all
rounds after the first two steps of each. The last line is JSON. The model has the shape of SmolLM2-135M and random
weights, which cost the same as trained ones. The loss alone is measured at the size of Llama-3.2-1B: 8,192 tokens, a
vocabulary of 128,256, 2,048 numbers to a token, in bf16; its peak is that of everything beyond hidden states and
weights, the gradients of both included. With the default settings the whole takes about five minutes on two cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from reprise.model.likelihood import native_dtype

WARM_UP_STEPS = 2
SHAPES = {
    "smollm2-135m": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
    "llama-1b": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True,
    },
    "tiny": {
        "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""Of SmolLM2-135M and Llama-3.2-1B; the last to try a benchmark."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seq-len", type=int, default=1024)
    options.add_argument("--rows", type=int, default=1, help="rows in a step, all in one forward pass")
    options.add_argument("--shape", default="smollm2-135m", choices=list(SHAPES))
    options.add_argument("--checkpointing", default="none", choices=["none", "full"], help="recompute activations")
    options.add_argument("--steps", type=int, default=8)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--threads", type=int, default=0)
    native = "bf16" if native_dtype() == torch.bfloat16 else "float32"
    options.add_argument(
        "--precision", default=native, choices=["bf16", "float32"], help="default: the processor's own"
    )
    options.add_argument("--contestants", default="trainer,reprise")
    options.add_argument("--compile", action="store_true", help="torch.compile for all contestants")
    options.add_argument("--split", action="store_true", help="also say where a step's time goes")
    options.add_argument("--no-loss", action="store_true", help="leave out the loss alone")
    options.add_argument("--child")
    options.add_argument("--folder")
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(CONTESTANTS[chosen.child](chosen, Path(chosen.folder))))
        return
    names = chosen.contestants.split(",")
    found: dict[str, list[dict]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), chosen)
        for _ in range(chosen.rounds):
            for name in names:
                found[name].append(in_a_process(name, folder))
        alone = [] if chosen.no_loss else ["loss", "naive_bf16_loss", "naive_float32_loss"]
        peaks = {f"{name}_peak_gb": in_a_process(name, folder)["peak_gb"] for name in alone}
        split = in_a_process("split", folder) if chosen.split else {}
    print(json.dumps({**summary(chosen, found), **peaks, **split}))


def in_a_process(name: str, folder: str) -> dict:
    command = [sys.executable, __file__, *sys.argv[1:], "--child", name, "--folder", folder]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    print(name, output.splitlines()[-1], flush=True)
    return json.loads(output.splitlines()[-1])


def summary(chosen: argparse.Namespace, found: dict[str, list[dict]]) -> dict:
    tokens = chosen.rows * chosen.seq_len
    result: dict = {
        "seq_len": chosen.seq_len,
        "rows": chosen.rows,
        "precision": chosen.precision,
        "compile": chosen.compile,
    }
    for name, rounds in found.items():
        seconds = [second for one in rounds for second in one["step_seconds"][WARM_UP_STEPS:]]
        result[f"{name}_tokens_per_s"] = round(tokens / statistics.median(seconds), 1)
        result[f"{name}_best_tokens_per_s"] = round(tokens / min(seconds), 1)
        result[f"{name}_peak_gb"] = round(min(one["peak_gb"] for one in rounds), 3)
        result[f"{name}_losses"] = rounds[0]["losses"][:3]
    if {"trainer", "reprise"} <= found.keys():
        result["tokens_per_s_vs_trainer"] = round(result["reprise_tokens_per_s"] / result["trainer_tokens_per_s"], 3)
        result["memory_vs_trainer"] = round(result["reprise_peak_gb"] / result["trainer_peak_gb"], 3)
    add_mfu(chosen, result, list(found))
    if "reprise" in found:
        result["checkpoint_stall_s"] = statistics.median(one["checkpoint_stall_s"] for one in found["reprise"])
        result["start_s"] = statistics.median(one["start_s"] for one in found["reprise"])
    return result


def add_mfu(chosen: argparse.Namespace, result: dict, names: list[str]) -> None:
    """Share of the GPU's dense bf16 peak, if it is one that the recipe's hardware table knows."""
    from transformers import LlamaConfig

    from reprise.model.flops import training_flops_per_token
    from reprise.recipe.hardware import peak_bf16_tflops

    if not torch.cuda.is_available():
        return
    result["gpu"] = torch.cuda.get_device_name()
    peak = peak_bf16_tflops(result["gpu"])
    flops = training_flops_per_token(LlamaConfig(**SHAPES[chosen.shape]), chosen.seq_len)
    for name in names:
        result[f"{name}_mfu"] = peak and round(result[f"{name}_tokens_per_s"] * flops / peak / 1e12, 4)


def prepare(folder: Path, chosen: argparse.Namespace) -> None:
    """The model, a tokenizer and a token store of random ids: what the text is does not change the speed."""
    import tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    from reprise.model.tokenizer import Tokenizer
    from reprise.tokens.builder import StoreBuilder

    config = LlamaConfig(
        **SHAPES[chosen.shape],
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / "model")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<eos>": 0}, unk_token="<eos>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder / "model")
    rng = np.random.default_rng(0)

    def make(texts):
        return [rng.integers(1, config.vocab_size, 1500) for _ in texts]

    tokenizer = Tokenizer("random", make, config.vocab_size, 0, None, "")
    builder = StoreBuilder(folder / "tokenize", tokenizer, [])
    needed = chosen.rows * chosen.seq_len * (chosen.steps + 1) // 1000 + 10
    (folder / "tokenize").mkdir(exist_ok=True)
    common = {"text": "x", "lang": "en", "source": "web", "topic": None, "ppl": None}
    builder.add([{**common, "id": f"d{i}", "split": "train"} for i in range(needed)])
    builder.add([{**common, "id": "v", "split": "valid"}])
    builder.finish()


def stage_settings(chosen: argparse.Namespace) -> tuple:
    from reprise.recipe.mixture import Stage
    from reprise.recipe.tokens import Rows

    stage = Stage(
        name="speed",
        tokens=chosen.rows * chosen.seq_len * chosen.steps,
        mixture={"en": {"share": 1.0, "sources": {"web": 1.0}}},
        schedule={"peak_lr": 1e-4},
    )
    return stage, Rows(seq_len=chosen.seq_len)


def run_reprise(chosen: argparse.Namespace, folder: Path) -> dict:
    """The whole stage, its validation and checkpoints included; its own figure of every step."""
    begin = time.perf_counter()
    from reprise.recipe.groups import Groups
    from reprise.recipe.model import Model
    from reprise.recipe.training import Training
    from reprise.training.stage import run
    from reprise.workspace import Work

    stage, rows = stage_settings(chosen)
    training = Training(
        batch_rows=chosen.rows, micro_batch_rows=chosen.rows, precision=chosen.precision, threads=chosen.threads,
        compile=chosen.compile, activation_checkpointing=chosen.checkpointing, validation={"max_tokens": 1000},
        checkpoints={"every_tokens": chosen.rows * chosen.seq_len * (chosen.steps - 1)},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as output:
        work = Work(Path(output), {"tokenize": folder / "tokenize"}, folder / "cache")
        run(work, stage=stage, stage_index=0, rows=rows, training=training, model=Model(path=str(folder / "model")),
            seed=0, kept=Groups(), window=(2048, 1024))  # fmt: skip
        lines = (Path(output) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record for record in records if record["kind"] == "step"]
    tokens = chosen.rows * chosen.seq_len
    first = steps[0]["seconds"] - tokens / steps[0]["tokens_per_s"]
    return {
        "step_seconds": [round(tokens / record["tokens_per_s"], 3) for record in steps],
        "losses": [round(record["loss"], 4) for record in steps],
        "peak_gb": peak_gb(),
        "checkpoint_stall_s": next(record["stall_s"] for record in records if record["kind"] == "checkpoint"),
        "start_s": round(time.perf_counter() - begin - records[-1]["seconds"] + first, 2),
    }


def run_trainer(chosen: argparse.Namespace, folder: Path) -> dict:
    """transformers.Trainer as its users set it up: fused AdamW, bf16 autocast, no checkpoint, no evaluation."""
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments, default_data_collator

    from reprise.mixture.sampler import Sampler
    from reprise.tokens.store import TokenStore

    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    stage, rows = stage_settings(chosen)
    sampler = Sampler(TokenStore.open(folder / "tokenize"), stage, rows, 0)
    batches = [sampler.next_batch(chosen.rows) for _ in range(chosen.steps)]
    examples = [{"input_ids": ids, "labels": ids} for batch in batches for ids in batch.ids]
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    times: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            times.append(time.perf_counter())

        def on_step_end(self, *args, **kwargs):
            times[-1] = time.perf_counter() - times[-1]

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in logs:
                losses.append(logs["loss"])

    class InOrder(Trainer):
        def _get_train_sampler(self, *args, **kwargs):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=chosen.rows, max_steps=chosen.steps,
        bf16=chosen.precision == "bf16", use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=chosen.checkpointing == "full", optim="adamw_torch_fused", learning_rate=1e-4,
        lr_scheduler_type="constant", weight_decay=0.1, adam_beta2=0.95, max_grad_norm=1.0, logging_steps=1,
        save_strategy="no", report_to=[], disable_tqdm=True, torch_compile=chosen.compile,
    )  # fmt: skip
    trainer = InOrder(
        model=model, args=arguments, train_dataset=examples, data_collator=default_data_collator, callbacks=[Clock()]
    )
    sys.stdout = sys.stderr
    trainer.train()
    sys.stdout = sys.__stdout__
    return {
        "step_seconds": [round(second, 3) for second in times],
        "losses": [round(loss, 4) for loss in losses],
        "peak_gb": peak_gb(),
    }


def run_litgpt(chosen: argparse.Namespace, folder: Path) -> dict:
    """litgpt's model and loss in the loop of its `pretrain` (Fabric, bf16-mixed); --compile as its command does."""
    import lightning
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    from reprise.mixture.sampler import Sampler
    from reprise.tokens.store import TokenStore

    shape = SHAPES[chosen.shape]
    stage, rows = stage_settings(chosen)
    sampler = Sampler(TokenStore.open(folder / "tokenize"), stage, rows, 0)
    batches = [torch.from_numpy(sampler.next_batch(chosen.rows).ids) for _ in range(chosen.steps)]
    precision = "bf16-mixed" if chosen.precision == "bf16" else "32-true"
    fabric = lightning.Fabric(devices=1, precision=precision)
    config = Config(
        block_size=8192, vocab_size=shape["vocab_size"], padded_vocab_size=shape["vocab_size"],
        n_layer=shape["num_hidden_layers"], n_head=shape["num_attention_heads"], n_embd=shape["hidden_size"],
        n_query_groups=shape["num_key_value_heads"], rotary_percentage=1.0, parallel_residual=False, bias=False,
        norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", intermediate_size=shape["intermediate_size"],
        rope_base=100000,
    )  # fmt: skip
    torch.manual_seed(0)
    with fabric.init_module():
        model = GPT(config)
    torch.nn.init.normal_(model.lm_head.weight, std=0.02)
    model.transformer.wte.weight = model.lm_head.weight
    model.max_seq_length = chosen.seq_len
    model = fabric.setup(torch.compile(model) if chosen.compile else model)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    optimizer = fabric.setup_optimizers(adam)
    times, losses = [], []
    for ids in batches:
        start = time.perf_counter()
        ids = ids.to(fabric.device)
        loss = chunked_cross_entropy(model(ids)[:, :-1], ids[:, 1:])
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(loss.item(), 4))
        times.append(round(time.perf_counter() - start, 3))
    return {"step_seconds": times, "losses": losses, "peak_gb": peak_gb()}


def run_trainer_with_kept_memory(chosen: argparse.Namespace, folder: Path) -> dict:
    """The same with the allocator's setting that Reprise trains with."""

    from reprise.training.memory import keep_freed_memory

    with keep_freed_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        return run_trainer(chosen, folder)


def run_split(chosen: argparse.Namespace, folder: Path) -> dict:
    """Milliseconds of one step by what they are spent on: kernels on the GPU, operations of all threads' callers here.

    A profiled step is slower than another one: the shares count.
    """
    from torch.profiler import ProfilerActivity, profile

    from reprise.mixture.sampler import Sampler
    from reprise.training.trainer import Trainer

    on_gpu = torch.cuda.is_available()
    update, next_batch = Trainer.update, Sampler.next_batch
    sums: dict[str, float] = {}

    def profiled(trainer, *args):
        if trainer.progress.step != WARM_UP_STEPS + 1:
            return update(trainer, *args)
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as found:
            result = update(trainer, *args)
            if on_gpu:
                torch.cuda.synchronize()
        for event in found.events():
            spent = sum(kernel.duration for kernel in event.kernels) if on_gpu else event.self_cpu_time_total
            if spent:
                kind = kind_of(event)
                sums[kind] = sums.get(kind, 0.0) + spent / 1e3
        return result

    def timed_batch(*args):
        start = time.perf_counter()
        batch = next_batch(*args)
        sums["data"] = (time.perf_counter() - start) * 1e3
        return batch

    Trainer.update, Sampler.next_batch = profiled, timed_batch
    run_reprise(chosen, folder)
    return {"step_split_ms": {kind: round(spent, 1) for kind, spent in sorted(sums.items())}}


KINDS = (
    ("loss", ("LinearCrossEntropy",)),
    ("communication", ("nccl", "c10d", "all_gather", "reduce_scatter", "all_reduce")),
    ("attention", ("ttention", "varlen")),
    ("optimizer", ("Optimizer.step", "_fused_adamw_", "foreach_norm", "foreach_mul_", "vector_norm", "foreach_copy_")),
    ("linear", ("aten::mm", "aten::addmm", "aten::linear", "aten::matmul", "MmBackward")),
)


def kind_of(event) -> str:
    """What an operation belongs to, by its name and those of the operations that called it."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    for kind, parts in KINDS:
        if any(part in name for name in names for part in parts):
            return kind
    return "elementwise"


def peak_gb() -> float:
    """Largest memory of this process, in 10^9 bytes: on the GPU if there is one, else resident."""

    from reprise.training.memory import peak_memory

    return round(peak_memory(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")) / 1e9, 3)


def forget_peak() -> None:
    """Make the largest memory so far that of this moment: filling the tensors took more for a while."""

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def run_loss(chosen: argparse.Namespace, folder: Path, kind: str = "ours") -> dict:
    """Memory of the loss and its gradients beyond hidden states and weights."""
    import torch.nn.functional as F

    from reprise.model.loss import linear_cross_entropy

    tokens, vocabulary, size = 8192, 128_256, 2048
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = {"dtype": torch.bfloat16, "device": device}
    hidden = torch.empty(tokens, size, **options).normal_().requires_grad_()
    weight = torch.empty(vocabulary, size, **options).normal_(std=0.02).requires_grad_()
    labels = torch.randint(0, vocabulary, (tokens,), device=device)
    linear_cross_entropy(hidden[:8], weight[:64], labels[:8] % 64).backward()
    hidden.grad = weight.grad = None
    forget_peak()
    before = peak_gb()
    start = time.perf_counter()
    if kind == "ours":
        loss = linear_cross_entropy(hidden, weight, labels)
    else:
        logits = F.linear(hidden, weight)
        loss = F.cross_entropy(logits.float() if kind == "float32" else logits, labels, reduction="sum")
        del logits
    loss.backward()
    value = loss.item()
    seconds = round(time.perf_counter() - start, 2)
    return {"peak_gb": round(peak_gb() - before, 3), "loss": value, "seconds": seconds}


CONTESTANTS = {
    "reprise": run_reprise,
    "trainer": run_trainer,
    "litgpt": run_litgpt,
    "trainer_with_kept_memory": run_trainer_with_kept_memory,
    "split": run_split,
    "loss": run_loss,
    "naive_bf16_loss": lambda chosen, folder: run_loss(chosen, folder, "bf16"),
    "naive_float32_loss": lambda chosen, folder: run_loss(chosen, folder, "float32"),
}

if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()

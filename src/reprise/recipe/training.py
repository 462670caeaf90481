"""The training engine."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from reprise.recipe.fields import Count, Settings, Share

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
"""Decay rate of a mean that forgets."""


class Optimizer(Settings):
    """How gradients change the weights."""

    kind: Literal["adamw", "muon"] = "adamw"
    """`muon` (arXiv 2502.16982): its updates for the matrices of the blocks, AdamW for all other weights."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay rates of the two moments; Muon's momentum is the second."""
    eps: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    """On matrices only: not on norms, biases and embeddings."""
    clip_norm: Annotated[float, Field(ge=0.0)] = 1.0
    """Gradients are scaled down to this global norm; 0: never."""


class Schedule(Settings):
    """Learning rate over the tokens of a stage."""

    kind: Literal["constant", "wsd", "cosine"] = "constant"
    """After the warm-up: stay (the paper), stay and then decay (`decay_tokens`), or a cosine to `final_lr`."""
    initial_lr: Annotated[float, Field(ge=0.0)] | Literal["last"] = 1e-7
    """Rate at the first token; `last`: that of the last step of the stage before, to re-warm from where it ended."""
    peak_lr: Annotated[float, Field(gt=0.0)] = 1e-5
    """Rate after the warm-up."""
    final_lr: Annotated[float, Field(ge=0.0)] = 0.0
    """Rate at the last token of `wsd` and `cosine`."""
    warmup_tokens: Count = 0
    """Tokens over which the rate rises linearly from initial_lr to peak_lr."""
    decay_tokens: Count = 0
    """Tokens over which `wsd` falls linearly to final_lr, at the end of the stage."""


class Guards(Settings):
    """What happens when training goes wrong."""

    max_bad_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """Steps in a row with a loss or gradient that is not finite, each left out, before the run stops."""
    spike: Literal["off", "log", "skip", "rollback"] = "log"
    """A loss far over the recent ones: note it, leave the step out, or also go back to the last checkpoint."""
    spike_sigmas: Annotated[float, Field(gt=0.0)] = 6.0
    """How many standard deviations over the mean of the window are far."""
    spike_window: Annotated[int, Field(ge=10)] = 50
    """Steps in the window; nothing is a spike before half of it is full."""
    retention: Literal["off", "warn", "stop", "raise_share"] = "warn"
    """A kept language (`evaluation.tolerance`) got worse than allowed: warn, stop, or give it more until it is back."""
    retention_step: Share = 0.1
    """`raise_share`: added to the language's share of the stage at each measurement at which it is not back."""
    retention_cap: Share = 0.9
    """`raise_share`: no further than this."""

    def idle(self) -> frozenset[str]:
        """What a guard that only warns looks at does not change the model."""
        spike = {"spike", "spike_sigmas", "spike_window"} if self.spike in ("off", "log") else set()
        retention = set() if self.acts_on_retention else {"retention", "retention_step", "retention_cap"}
        return frozenset(spike | retention)

    @property
    def acts_on_retention(self) -> bool:
        """Whether a kept language that got worse changes the training, not only the log."""
        return self.retention in ("stop", "raise_share")


class Checkpoints(Settings):
    """What a killed run resumes from."""

    every_tokens: Count = 0
    """Tokens between two checkpoints; 0: save at the end of a stage and on SIGTERM only."""
    keep_last: Annotated[int, Field(ge=1, le=1_000_000)] = 2
    """Checkpoints kept while the stage runs, newest first."""
    keep_every_tokens: Count = 0
    """Also keep the first checkpoint after each multiple of this many tokens; 0: none."""


class Averaging(Settings):
    """The mean of the weights, written as the stage's model; training itself continues from the weights."""

    kind: Literal["none", "mean", "ema"] = "none"
    """`mean`: over the end of the stage. `ema`: exponentially forgetting, over all of it."""
    tokens: Count = 0
    """`mean`: over this many tokens at the end of the stage."""
    decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """`ema`: what each sample leaves of the mean before."""
    every_steps: Annotated[int, Field(ge=1, le=10**9)] = 1
    """Steps between two samples."""

    @model_validator(mode="after")
    def _mean_has_tokens(self) -> "Averaging":
        if self.kind == "mean" and self.tokens == 0:
            raise ValueError("kind=mean needs tokens: over how many of the last tokens of the stage")
        return self


class Validation(Settings):
    """Held-out loss per language, source and topic, while training."""

    every_tokens: Count = 0
    """Tokens between two validations, besides those at the start and the end of a stage; 0: only these."""
    max_tokens: Count = 65_536
    """Most held-out tokens per bucket in one measurement."""


class Adapter(Settings):
    """Few weights that are trained beside the frozen ones of the base model, and merged into them at the end."""

    kind: Literal["none", "lora", "dora"] = "none"
    """`none`: all weights are trained. `lora` (arXiv 2106.09685) and `dora` (2402.09353) need the extra `adapters`."""
    rank: Annotated[int, Field(ge=1, le=65_536)] = 32
    """Inner size of the two factors of each change."""
    alpha: Annotated[float, Field(gt=0.0)] = 64.0
    """The product of the factors is multiplied by alpha / rank."""
    targets: list[str] = []
    """Last part of the names of linear layers, such as `q_proj`; empty: all linear layers of the blocks."""
    train_embeddings: bool = False
    """Train the input embeddings and the output layer as well, whole, as for a new language."""
    embeddings_lr_scale: Annotated[float, Field(gt=0.0)] = 0.2
    """Learning rate of these, as a multiple of the schedule's."""
    base: Literal["compute", "nf4"] = "compute"
    """Frozen weights: in the compute type, or in 4 bits (NF4) by bitsandbytes, on one GPU (extra `nf4`)."""

    def idle(self) -> frozenset[str]:
        """What decides nothing while no adapter is trained, or the embeddings are not."""
        if self.kind == "none":
            return frozenset(type(self).model_fields) - {"kind"}
        return frozenset() if self.train_embeddings else frozenset({"embeddings_lr_scale"})


class Training(Settings):
    """Settings of the loop that hold for every stage."""

    means: ClassVar[frozenset[str]] = frozenset(
        {
            "benchmarks_every_tokens",
            "checkpoints",
            "collective_timeout_s",
            "log_every_steps",
            "say_every_seconds",
            "trackers",
            "verify_model",
            "threads",
        }
    )
    batch_rows: Annotated[int, Field(ge=1, le=10**8)] = 8
    """Rows in one optimizer step, over all processes."""
    micro_batch_rows: Annotated[int, Field(ge=1, le=10**8)] = 1
    """Rows in one forward and backward pass of a process."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Compute type of matrix products. `auto`: bf16 where the processor computes it fast."""
    master_weights: Literal["float32", "bf16"] = "float32"
    """Type that the optimizer changes weights in. `bf16`: no float32 copy; changes are rounded at random."""
    verify_model: bool = True
    """Load the trained model in another process, by transformers alone, and compare ids and logits before it is
    published; takes host memory for one copy of the model."""
    activation_checkpointing: Literal["none", "full", "selective"] = "none"
    """Recompute activations in the backward pass to save memory."""
    compile: bool = False
    """Use torch.compile."""
    sharding: Literal["full", "gradients", "hybrid"] = "full"
    """What FSDP2 shards: all, or gradients and optimizer only (ZeRO-2, the paper's), or all within a node."""
    shard_one_process: bool = False
    """Shard on one process too: slower, and the same code as on many, to try a machine with one GPU."""
    gradient_accumulation: Literal["sharded", "whole"] = "sharded"
    """Between micro-batches: reduced to shards, or whole on each process: one reduction a step, 6 B per parameter."""
    offload: bool = False
    """Keep the shards of weights and moments in host memory and step there; for GPUs, much slower."""
    step_in_backward: bool = False
    """Change each weight as soon as its gradient is there, on one process: no whole gradients, no clipping."""
    optimizer: Optimizer = Optimizer()
    adapter: Adapter = Adapter()
    guards: Guards = Guards()
    checkpoints: Checkpoints = Checkpoints()
    validation: Validation = Validation()
    benchmarks_every_tokens: Count = 0
    """Tokens between two runs of `evaluation.benchmarks` on the model in training, on one process; 0: never."""
    averaging: Averaging = Averaging()
    log_every_steps: Annotated[int, Field(ge=1, le=10**9)] = 1
    """Steps between two lines of metrics.jsonl."""
    say_every_seconds: Annotated[float, Field(ge=0.0, le=1e9)] = 30.0
    """Seconds between two lines in the terminal; 0: none."""
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = []
    """Where metrics go besides metrics.jsonl."""
    threads: Annotated[Count, Field(le=4096)] = 0
    """CPU threads of the training process; 0: as PyTorch chooses."""
    collective_timeout_s: Annotated[int, Field(ge=1, le=10**7)] = 3600
    """Seconds that a process waits for the others, such as for the download of the model, before the run fails."""

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> "Training":
        if self.batch_rows % self.micro_batch_rows:
            raise ValueError(
                f"batch_rows ({self.batch_rows}) must be a multiple of micro_batch_rows ({self.micro_batch_rows})"
            )
        return self

    @model_validator(mode="after")
    def _low_memory_settings_fit(self) -> "Training":
        adapted, muon = self.adapter.kind != "none", self.optimizer.kind == "muon"
        if self.master_weights == "bf16":
            if self.precision == "float32":
                raise ValueError("master_weights: bf16 computes in bf16: set precision to bf16 or auto")
            if adapted or muon:
                other = "an adapter, whose few weights are float32" if adapted else "Muon, which does not round"
                raise ValueError(f"master_weights: bf16 cannot be combined with {other}: set it to float32")
        if self.step_in_backward:
            if self.optimizer.clip_norm:
                raise ValueError(
                    "step_in_backward cannot clip, as the norm of all gradients is known when all weights are changed: "
                    "set optimizer.clip_norm to 0"
                )
            if self.batch_rows != self.micro_batch_rows:
                raise ValueError("step_in_backward needs the batch in one pass: set micro_batch_rows to batch_rows")
            if adapted or muon:
                raise ValueError(
                    "step_in_backward works with AdamW on all weights: leave it out with an adapter or Muon"
                )
        if muon and adapted:
            raise ValueError(
                "Muon is for whole matrices, not for the factors of an adapter: set optimizer.kind to adamw"
            )
        return self

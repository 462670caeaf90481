"""Settings of training."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from reprise.recipe.fields import Count, Settings, Share

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
"""Decay rate of an exponential mean."""


class Optimizer(Settings):
    """How gradients change the weights."""

    kind: Literal["adamw", "muon"] = "adamw"
    """`muon` (arXiv 2502.16982): Muon for the matrices of the blocks, AdamW for all other weights."""
    moments: Literal["float32", "8bit"] = "float32"
    """`8bit` (arXiv 2110.02861): the moments of matrices in 8 bits with a float32 scale per 64 to 256 values, 2.1 bytes
    per parameter and not 8 (extra `bitsandbytes`)."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay rates of the two moments; the second is also Muon's momentum."""
    eps: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-8
    """Added to the square root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    """On matrices only: not on norms, biases and embeddings."""
    clip_norm: Annotated[float, Field(ge=0.0)] = 1.0
    """Largest global norm of the gradients, which are scaled down to it; 0: no limit."""


class Schedule(Settings):
    """Learning rate over the tokens of a stage."""

    kind: Literal["constant", "wsd", "cosine"] = "constant"
    """After the warm-up: constant (the paper), constant, then a decay (`decay_tokens`), or a cosine to `final_lr`."""
    initial_lr: Annotated[float, Field(ge=0.0)] | Literal["last"] = 1e-7
    """Rate at the first token; `last`: the last rate of the previous stage, to re-warm from there."""
    peak_lr: Annotated[float, Field(gt=0.0)] = 1e-5
    """Rate after the warm-up."""
    final_lr: Annotated[float, Field(ge=0.0)] = 0.0
    """Rate at the last token of `wsd` and `cosine`."""
    warmup_tokens: Count = 0
    """Tokens over which the rate rises linearly from initial_lr to peak_lr."""
    decay_tokens: Count = 0
    """Tokens over which `wsd` falls linearly to final_lr, at the end of the stage."""


class Guards(Settings):
    """How training reacts to bad steps, loss spikes and forgetting."""

    max_bad_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """The run stops after this many consecutive steps with a loss or gradient that is not finite; each is skipped."""
    spike: Literal["off", "log", "skip", "rollback"] = "log"
    """If a loss is far above recent ones: log it, skip the step, or also return to the last checkpoint."""
    spike_sigmas: Annotated[float, Field(gt=0.0)] = 6.0
    """Standard deviations above the mean of the window from which a loss is a spike."""
    spike_window: Annotated[int, Field(ge=10)] = 50
    """Steps in the window; no loss is a spike until half of it is full."""
    retention: Literal["off", "warn", "stop", "raise_share"] = "warn"
    """If a kept language (`evaluation.tolerance`) loses too much: warn, stop, or raise its share until it recovers."""
    retention_step: Share = 0.1
    """`raise_share`: added to the language's share of the stage at each measurement until it is back."""
    retention_cap: Share = 0.9
    """`raise_share`: largest share of the language."""

    def idle(self) -> frozenset[str]:
        """Settings that do not change the model, because the guard only warns."""
        spike = {"spike", "spike_sigmas", "spike_window"} if self.spike in ("off", "log") else set()
        retention = set() if self.acts_on_retention else {"retention", "retention_step", "retention_cap"}
        return frozenset(spike | retention)

    @property
    def acts_on_retention(self) -> bool:
        """Whether a kept language that got worse changes the training, not only the log."""
        return self.retention in ("stop", "raise_share")


class Checkpoints(Settings):
    """Checkpoints, from which a killed run resumes."""

    every_tokens: Count = 0
    """Tokens between two checkpoints; 0: save only at the end of a stage and on SIGTERM."""
    keep_last: Annotated[int, Field(ge=1, le=1_000_000)] = 2
    """Newest checkpoints to keep while the stage runs."""
    keep_every_tokens: Count = 0
    """Also keep the first checkpoint after each multiple of this many tokens; 0: none."""


class Averaging(Settings):
    """A mean of the weights, which becomes the stage's model; training itself continues with the weights."""

    kind: Literal["none", "mean", "ema"] = "none"
    """`mean`: over the end of the stage. `ema`: an exponential moving average over all of it."""
    tokens: Count = 0
    """`mean`: length of the averaged end of the stage, in tokens."""
    decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """`ema`: weight of the previous mean at each sample."""
    every_steps: Annotated[int, Field(ge=1, le=10**9)] = 1
    """Steps between two samples."""

    @model_validator(mode="after")
    def _mean_has_tokens(self) -> "Averaging":
        if self.kind == "mean" and self.tokens == 0:
            raise ValueError("kind=mean needs tokens: over how many of the last tokens of the stage")
        return self


class Validation(Settings):
    """Held-out loss per language, source and topic, during training."""

    every_tokens: Count = 0
    """Tokens between two validations, in addition to those at the start and the end of a stage; 0: only these."""
    max_tokens: Count = 65_536
    """Most held-out tokens per bucket and validation."""


class Adapter(Settings):
    """A few weights that are trained next to the frozen base model, and merged into it at the end."""

    kind: Literal["none", "lora", "dora"] = "none"
    """`none`: all weights are trained. `lora` (arXiv 2106.09685) and `dora` (2402.09353) need the extra `adapters`."""
    rank: Annotated[int, Field(ge=1, le=65_536)] = 32
    """Inner dimension of the two factors of each change."""
    alpha: Annotated[float, Field(gt=0.0)] = 64.0
    """The product of the factors is multiplied by alpha / rank."""
    targets: list[str] = []
    """Last part of the names of linear layers, such as `q_proj`; empty: all linear layers of the blocks."""
    train_embeddings: bool = False
    """Also train the input embeddings and the output layer, completely, for example for a new language."""
    embeddings_lr_scale: Annotated[float, Field(gt=0.0)] = 0.2
    """Learning rate of these, as a multiple of the schedule's."""
    base: Literal["compute", "nf4"] = "compute"
    """Type of the frozen weights: the compute type, or 4 bits (NF4), on one GPU (extra `bitsandbytes`)."""

    def idle(self) -> frozenset[str]:
        """Settings without effect, because no adapter is trained, or the embeddings are not."""
        if self.kind == "none":
            return frozenset(type(self).model_fields) - {"kind"}
        return frozenset() if self.train_embeddings else frozenset({"embeddings_lr_scale"})


class Training(Settings):
    """Settings of the training loop, for all stages."""

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
    """Rows per optimizer step, over all processes."""
    micro_batch_rows: Annotated[int, Field(ge=1, le=10**8)] = 1
    """Rows per forward and backward pass of a process."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Compute type of matrix products. `auto`: bf16 if the processor computes it fast."""
    master_weights: Literal["float32", "bf16"] = "float32"
    """Type in which the optimizer updates weights. `bf16`: no float32 copy; updates are rounded stochastically."""
    verify_model: bool = True
    """Load the trained model in another process, with transformers alone, and compare ids and logits before it is
    published; needs host memory for one copy of the model."""
    activation_checkpointing: Literal["none", "full", "selective"] = "none"
    """Recompute activations in the backward pass to save memory."""
    compile: bool = False
    """Use torch.compile."""
    sharding: Literal["full", "gradients", "hybrid"] = "full"
    """What FSDP2 shards: all, or only gradients and optimizer (ZeRO-2, the paper's), or all within a node."""
    shard_one_process: bool = False
    """Also shard on one process: slower, but the same code as on many, to test a machine with one GPU."""
    gradient_accumulation: Literal["sharded", "whole"] = "sharded"
    """Between micro-batches: reduced to shards, or whole on each process: one reduction per step, 6 B per parameter."""
    offload: bool = False
    """Keep the shards of weights and moments in host memory and update them there; for GPUs, much slower."""
    step_in_backward: bool = False
    """Update each weight as soon as its gradient is computed, on one process: no full gradients, no clipping."""
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
    """Where metrics are sent in addition to metrics.jsonl."""
    threads: Annotated[Count, Field(le=4096)] = 0
    """CPU threads of the training process; 0: PyTorch's default."""
    collective_timeout_s: Annotated[int, Field(ge=1, le=10**7)] = 3600
    """Seconds that a process waits for the others, such as while a model is downloaded, before the run fails."""

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
        if self.optimizer.moments == "8bit" and (adapted or muon):
            raise ValueError(
                "optimizer.moments: 8bit works with AdamW on all weights: leave it out with an adapter or Muon"
            )
        if muon and adapted:
            raise ValueError(
                "Muon is for whole matrices, not for the factors of an adapter: set optimizer.kind to adamw"
            )
        return self

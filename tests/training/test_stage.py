"""The training stage against a plain loop, and what it leaves behind."""

import json
import math
import os
import shutil
import signal

import pytest
import torch
from tests.training.conftest import SEQ_LEN, assert_same_weights, events, make_stage, make_training, weights_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from reprise.errors import UserError
from reprise.mixture.sampler import Sampler
from reprise.model.attention import BLOCK
from reprise.recipe.tokens import Rows
from reprise.schemas import FORMATS
from reprise.tokens.store import TokenStore
from reprise.training import stage
from reprise.training.checkpoint import checkpoints_in
from reprise.training.checkpoint_facts import VERSION
from reprise.training.signals import Interrupted
from reprise.training.stage import run
from reprise.training.trainer import Trainer


def plain_loop(store, base_model, stage, rows, seed, steps):
    """What the stage should compute, written out: full batch, whole logits, float32."""
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    sampler = Sampler(TokenStore.open(store), stage, rows, seed)
    decay = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "embed" not in n)]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.95), eps=1e-8
    )
    losses = []
    for step in range(steps):
        tokens = step * 4 * SEQ_LEN
        warm = min(1.0, tokens / stage.schedule.warmup_tokens)
        for group in optimizer.param_groups:
            group["lr"] = stage.schedule.initial_lr + warm * (stage.schedule.peak_lr - stage.schedule.initial_lr)
        batch = sampler.next_batch(4)
        loss = model(input_ids=torch.from_numpy(batch.ids), labels=torch.from_numpy(batch.labels)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return model, losses


@pytest.fixture
def static(arguments):
    """A stage whose weights do not change, so that the plain loop needs no validation."""
    return {**arguments, "stage": make_stage(topics={"sources": ["web"]})}


def test_equals_a_plain_loop(static, make_work, store, base_model):
    work = make_work()
    run(work, **static)
    model, losses = plain_loop(store, base_model, static["stage"], static["rows"], 3, 12)
    assert [record["loss"] for record in events(work, "step")] == pytest.approx(losses, rel=1e-5)
    trained = weights_of(work.output / "model")
    for name, value in model.state_dict().items():
        if name in trained:
            torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-5)


def test_leaves_a_loadable_model_and_records(arguments, make_work):
    work = make_work()
    run(work, **arguments)
    model = AutoModelForCausalLM.from_pretrained(work.output / "model")
    tokenizer = AutoTokenizer.from_pretrained(work.output / "model")
    assert model(**tokenizer("Water", return_tensors="pt")).logits.shape[-1] == 512
    kinds = [record["kind"] for record in events(work)]
    assert kinds[:2] == ["start", "validation"]
    assert kinds[-1] == "end"
    validations = events(work, "validation")
    assert [record["tokens"] for record in validations] == [0, 1024, 2048, 3072]
    assert {entry["topic"] is None for entry in validations[0]["validation"] if entry["source"] == "book"} == {True}
    assert all(entry["nll"] == pytest.approx(math.log(512), rel=0.1) for entry in validations[0]["validation"])
    mean = [sum(entry["nll"] for entry in record["validation"]) for record in validations]
    assert mean[-1] < mean[0]
    assert events(work, "shares")
    assert work.counts["tokens"] == work.counts["steps"] * 4 * SEQ_LEN == 3072
    assert sum(entry["spent"] for entry in work.counts["spent"]) == 3072
    assert not checkpoints_in(work.output / "checkpoints")


def test_validation_equals_a_plain_forward(arguments, make_work, store, base_model):
    """Each document without its EOS, behind the EOS that begins a text, in windows that move by the stride."""
    work, (length, stride) = make_work(), (SEQ_LEN, SEQ_LEN // 2)
    training = make_training(validation={"max_tokens": 10**9})
    run(work, **arguments | {"stage": make_stage(tokens=4 * SEQ_LEN), "training": training, "window": (length, stride)})
    model = AutoModelForCausalLM.from_pretrained(base_model).eval()
    opened = TokenStore.open(store)
    bucket = next(b for key, b in opened.valid.items() if (key.language, key.source) == ("en", "book"))
    total = tokens = 0
    for index in range(bucket.num_documents):
        text = bucket.tokens[bucket.offsets[index] : bucket.offsets[index + 1] - 1].astype("int64")
        ids = torch.cat([torch.tensor([opened.eos_id]), torch.from_numpy(text)])
        scored = 1
        for begin in range(0, len(ids), stride):
            window = ids[begin : begin + length]
            with torch.no_grad():
                logits = model(window[None]).logits[0].double().log_softmax(-1)
            for position in range(max(1, scored - begin), len(window)):
                total -= float(logits[position - 1, window[position]])
                scored += 1
        tokens += len(text)
    entry = next(
        one for one in events(work, "validation")[0]["validation"] if (one["language"], one["source"]) == ("en", "book")
    )
    assert entry["tokens"] == tokens
    assert entry["nll"] == pytest.approx(total / tokens, rel=1e-5)


class _StopError(Exception):
    pass


@pytest.fixture
def after_steps(monkeypatch):
    """Do something when a run has made so many steps."""

    def install(count, action):
        original, made = Trainer.step, []

        def step(trainer):
            original(trainer)
            made.append(1)
            if len(made) == count:
                action()

        monkeypatch.setattr(Trainer, "step", step)

    return install


def rows_for(arguments, precision, steps):
    """In bf16 rows of whole blocks, so that the blocked attention is what runs."""
    seq_len = BLOCK if precision == "bf16" else SEQ_LEN
    arguments |= {"rows": Rows(seq_len=seq_len), "stage": make_stage(tokens=seq_len * 4 * steps)}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_terminated_twice_ends_as_if_never(arguments, make_work, monkeypatch, after_steps, precision):
    rows_for(arguments, precision, 12)
    arguments["training"] = make_training(precision=precision)
    whole, broken = make_work("whole"), make_work("broken")
    run(whole, **arguments)
    for count in (5, 3):
        with monkeypatch.context():
            after_steps(count, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(Interrupted, match="the same command continues"):
                run(broken, **arguments)
        monkeypatch.undo()
    run(broken, **arguments)
    assert_same_weights(whole.output / "model", broken.output / "model")
    wanted = ("step", "validation", "shares")
    strip = lambda record: {k: v for k, v in record.items() if k not in ("seconds", "tokens_per_s", "memory_gb")}  # noqa: E731
    assert [strip(r) for r in events(whole) if r["kind"] in wanted] == [
        strip(r) for r in events(broken) if r["kind"] in wanted
    ]
    assert [record["step"] for record in events(broken, "resume")] == [5, 8]


def test_killed_goes_on_from_the_last_checkpoint(arguments, make_work, monkeypatch, after_steps):
    arguments["training"] = make_training(checkpoints={"every_tokens": SEQ_LEN * 12})
    whole, broken = make_work("whole"), make_work("broken")
    run(whole, **arguments)

    def die():
        raise _StopError

    with monkeypatch.context():
        after_steps(8, die)
        with pytest.raises(_StopError):
            run(broken, **arguments)
    monkeypatch.undo()
    assert [path.name for path in checkpoints_in(broken.output / "checkpoints")] == ["step-00000006", "step-00000003"]
    run(broken, **arguments)
    assert_same_weights(whole.output / "model", broken.output / "model")


@pytest.mark.parametrize("damage", ["cut", "byte", "shard", "description", "a list", "half"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_taken(
    arguments, make_work, monkeypatch, after_steps, damage
):
    arguments["training"] = make_training(checkpoints={"every_tokens": SEQ_LEN * 12})
    whole, broken = make_work("whole"), make_work("broken")
    run(whole, **arguments)
    with monkeypatch.context():
        after_steps(8, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            run(broken, **arguments)
    monkeypatch.undo()
    newest = checkpoints_in(broken.output / "checkpoints")[0]
    if damage == "cut":
        shard = newest / "__0_0.distcp"
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "byte":
        shard = newest / "__0_0.distcp"
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    elif damage == "shard":
        (newest / "__0_0.distcp").unlink()
    else:
        text = {"description": "{", "a list": "[1]", "half": json.dumps({"version": VERSION})}[damage]
        (newest / "checkpoint.json").write_text(text)
    shutil.copytree(newest, newest.with_name(f"{newest.name}.bak"))  # what a person may leave there
    with monkeypatch.context():
        after_steps(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match="step-00000008"):
            run(broken, **arguments)
    monkeypatch.undo()
    run(broken, **arguments)
    refused, resumed = events(broken, "resume")
    assert refused["checkpoint"] == "step-00000006"
    assert "step-00000008" in refused["refused"][0]
    assert (resumed["checkpoint"], resumed["refused"]) == ("step-00000008", [])  # the bad one was not in the way
    assert [path.name for path in (broken.output / "checkpoints").iterdir()] == ["step-00000008.bak"]
    assert_same_weights(whole.output / "model", broken.output / "model")


def test_where_no_checkpoint_is_whole_nothing_begins_again_by_itself(arguments, make_work, stop_after):
    work = make_work()
    stop_after(2, work, arguments)
    (only,) = checkpoints_in(work.output / "checkpoints")
    (only / "__0_0.distcp").unlink()
    with pytest.raises(UserError, match=r"none of the 1 checkpoints .*__0_0.distcp.*missing\n.*--restart"):
        run(work, **arguments)
    assert len(events(work, "step")) == 2


def test_a_damaged_state_of_the_stage_before_is_refused(arguments, make_work):
    first = make_work("train-1")
    run(first, **arguments)
    shard = first.output / "state" / "__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    second = make_work("train-2.partial", **{"train-1": first.output})
    with pytest.raises(UserError, match="its checksum differs"):
        run(second, **{**arguments, "stage_index": 1})


@pytest.mark.parametrize("moment", ["validation", "last validation", "state", "model"])
def test_a_signal_is_heard_at_any_moment(arguments, make_work, monkeypatch, moment):
    """While it measures, and while the end is written: else the next stage would begin."""
    whole, broken = make_work("whole"), make_work("broken")
    run(whole, **arguments)
    stop = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    with monkeypatch.context() as patch:
        if "validation" in moment:
            original, validations = Trainer.validate, []

            def validate(trainer):
                validations.append(1)
                if len(validations) == (4 if moment == "last validation" else 2):
                    stop()
                original(trainer)

            patch.setattr(Trainer, "validate", validate)
        else:
            where, name = (Trainer, "save_to") if moment == "state" else (stage, "write_model")
            written = getattr(where, name)
            patch.setattr(where, name, lambda *args, **options: (stop(), written(*args, **options))[1])
        with pytest.raises(Interrupted, match="the same command continues"):
            run(broken, **arguments)
    assert (broken.output / "model").exists() == (moment == "model")
    assert (broken.output / "state").exists() == (moment in ("state", "model"))
    done = [event["tokens"] for event in events(broken, "validation")]
    assert done == {"validation": [0], "last validation": [0, 1024, 2048]}.get(moment, [0, 1024, 2048, 3072])
    run(broken, **arguments)
    assert_same_weights(whole.output / "model", broken.output / "model")
    assert [event["tokens"] for event in events(broken, "validation")] == [0, 1024, 2048, 3072]
    assert [event["validation"] for event in events(whole, "validation")] == [
        event["validation"] for event in events(broken, "validation")
    ]


def test_a_checkpoint_of_other_settings_is_refused(arguments, make_work, monkeypatch, after_steps):
    work = make_work()
    with monkeypatch.context():
        after_steps(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            run(work, **arguments)
    monkeypatch.undo()
    with pytest.raises(UserError, match="seed: 3 -> 4"):
        run(work, **{**arguments, "seed": 4})


def test_a_run_that_was_killed_before_publication_only_writes_the_model(arguments, make_work):
    work = make_work()
    run(work, **arguments)
    before = weights_of(work.output / "model")
    shutil.rmtree(work.output / "model")
    run(work, **arguments)
    after = weights_of(work.output / "model")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(events(work, "step")) == 12


@pytest.mark.parametrize("state", ["carry", "reset"])
def test_the_second_stage_begins_where_the_first_ended(arguments, make_work, state):
    first, second = make_work("train-1"), None
    run(first, **arguments)
    second = make_work("train-2.partial", **{"train-1": first.output})
    stage = make_stage(
        name="two", tokens=SEQ_LEN * 8, optimizer_state=state, topics={"sources": ["web"], "initial": "inherit"}
    )
    run(second, **{**arguments, "stage": stage, "stage_index": 1})
    assert events(second, "validation")[0]["validation"] == events(first, "validation")[-1]["validation"]
    facts = json.loads((second.output / "state" / "checkpoint.json").read_text())
    assert facts["progress"]["step"] == 2
    assert facts["optimizer_steps"] == (14 if state == "carry" else 2)


def test_a_loss_that_is_not_finite_changes_nothing_and_stops_in_the_end(arguments, make_work, base_model, tmp_path):
    broken = tmp_path / "broken_model"
    shutil.copytree(base_model, broken)
    model = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():  # finite weights whose products are not
        for layer in model.model.layers:
            layer.mlp.up_proj.weight.fill_(3e38)
            layer.mlp.gate_proj.weight.fill_(3e38)
    model.save_pretrained(broken)
    work = make_work()
    arguments["model"] = arguments["model"].model_copy(update={"path": str(broken)})
    with pytest.raises(UserError, match=r"max_bad_steps = 5"):
        run(work, **arguments)
    guards = events(work, "guard")
    assert [guard["in_a_row"] for guard in guards] == [1, 2, 3, 4, 5]
    metrics = next(one for one in FORMATS if one.name == "metrics")
    for event in events(work):
        metrics.check(event)
    assert [guard["first_row"] for guard in guards] == [0, 4, 8, 12, 16]


def test_a_vocabulary_that_does_not_fit_is_refused(arguments, make_work, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "small")
    arguments["model"] = arguments["model"].model_copy(update={"path": str(tmp_path / "small")})
    with pytest.raises(UserError, match="the model embeds 300 tokens"):
        run(make_work(), **arguments)


def test_a_stage_warms_up_again_from_the_rate_at_which_the_one_before_ended(arguments, make_work):
    decay = {"kind": "wsd", "peak_lr": 1e-3, "final_lr": 1e-4, "initial_lr": 1e-3, "decay_tokens": SEQ_LEN * 4 * 6}
    first = make_work("train-1")
    run(first, **{**arguments, "stage": make_stage(schedule=decay)})
    rates = [step["lr"] for step in events(first, "step")]
    assert rates[0] == 1e-3 > rates[-1] > 1e-4
    second = make_work("train-2.partial", **{"train-1": first.output})
    warm = {"peak_lr": 5e-4, "initial_lr": "last", "warmup_tokens": SEQ_LEN * 4 * 2}
    stage = make_stage(name="two", tokens=SEQ_LEN * 4 * 3, schedule=warm, topics={"sources": ["web"]})
    run(second, **{**arguments, "stage": stage, "stage_index": 1})
    expected = [rates[-1], (rates[-1] + 5e-4) / 2, 5e-4]
    assert [step["lr"] for step in events(second, "step")] == pytest.approx(expected)


@pytest.mark.parametrize("kept", ["full", "selective"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_recomputed_activations_change_nothing(arguments, make_work, kept, precision):
    rows_for(arguments, precision, 3)
    plain, recomputed = make_work("plain"), make_work("recomputed")
    run(plain, **{**arguments, "training": make_training(precision=precision)})
    run(recomputed, **{**arguments, "training": make_training(precision=precision, activation_checkpointing=kept)})
    losses, norms = (
        [[step[name] for step in events(work, "step")] for work in (plain, recomputed)]
        for name in ("loss", "grad_norm")
    )
    assert losses[0] == losses[1]
    assert norms[0] == norms[1]
    assert_same_weights(plain.output / "model", recomputed.output / "model")


def test_ctrl_c_saves_and_goes_on(arguments, make_work, monkeypatch, after_steps):
    whole, broken = make_work("whole"), make_work("broken")
    run(whole, **arguments)
    with monkeypatch.context():
        after_steps(5, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(Interrupted, match="the same command continues"):
            run(broken, **arguments)
    monkeypatch.undo()
    run(broken, **arguments)
    assert_same_weights(whole.output / "model", broken.output / "model")


def test_the_model_is_written_in_the_base_models_type_with_its_own_settings(arguments, make_work, base_model, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(base_model, half)
    model = AutoModelForCausalLM.from_pretrained(half, dtype=torch.bfloat16)
    model.generation_config.max_length = 77
    model.save_pretrained(half)
    arguments["model"] = arguments["model"].model_copy(update={"path": str(half)})
    work = make_work()
    run(work, **arguments)
    assert {value.dtype for value in weights_of(work.output / "model").values()} == {torch.bfloat16}
    trained = AutoModelForCausalLM.from_pretrained(work.output / "model")
    assert trained.dtype == torch.bfloat16
    assert trained.generation_config.max_length == 77
    assert trained.config.use_cache == model.config.use_cache


def test_benchmarks_run_on_the_model_of_the_moment_and_change_nothing(arguments, make_work):
    plain, measured = make_work("plain"), make_work("measured")
    run(plain, **arguments)
    seen = []

    def benchmarks(model, fingerprint):
        seen.append(
            (fingerprint, model.training, model.model.layers[0].mlp.up_proj.weight.detach().float().sum().item())
        )
        return [{"benchmark": "some", "metric": "acc", "score": 0.25, "questions": 8}]

    arguments["training"] = make_training(benchmarks_every_tokens=SEQ_LEN * 4 * 5)
    run(measured, **arguments, benchmarks=benchmarks)
    assert [event["step"] for event in events(measured, "benchmarks")] == [5, 10]
    assert len(set(seen)) == 2
    assert [training for _, training, _ in seen] == [False, False]
    assert_same_weights(plain.output / "model", measured.output / "model")

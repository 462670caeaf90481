"""Training on conversations against a plain loop that ignores what is no answer; resumed, and on two processes."""

import numpy as np
import pytest
import torch
from tests.chats import CHATML, reference, write_chat_model
from tests.training.conftest import SEQ_LEN, assert_same_weights, events, make_stage, make_training, weights_of
from tests.training.test_parallel import assert_close, run_together
from transformers import AutoModelForCausalLM, AutoTokenizer

from reprise.evaluation.bits_per_byte import Text, group_totals, measure_bits
from reprise.evaluation.model import EvaluatedModel
from reprise.mixture.sampler import Sampler
from reprise.model.chat import ChatTemplate
from reprise.model.conversation import dump_messages, text_of
from reprise.model.loss import IGNORE
from reprise.model.tokenizer import open_tokenizer
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.groups import find_groups
from reprise.recipe.model import Model
from reprise.recipe.tokens import Rows
from reprise.tokens.builder import StoreBuilder
from reprise.tokens.store import TokenStore
from reprise.training.stage import run
from reprise.workspace import Work

STEPS = 8


def as_chat(passage, number):
    """A passage as a conversation of one or two turns."""
    words = passage["text"][:160]
    messages = [{"role": "user", "content": words[:30]}, {"role": "assistant", "content": words[30 : 60 + number % 40]}]
    if number % 3 == 0:
        messages += [{"role": "user", "content": "And?"}, {"role": "assistant", "content": words[80:130]}]
    return [{**message, "content": message["content"].strip() or "-"} for message in messages]


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory, passages):
    texts = [passage["text"] for passage in passages]
    return write_chat_model(tmp_path_factory.mktemp("chat") / "model", texts, 512, CHATML)


@pytest.fixture(scope="module")
def chats(passages):
    return {f"c{number:04d}": as_chat(passage, number) for number, passage in enumerate(passages)}


@pytest.fixture(scope="module")
def chat_store(tmp_path_factory, passages, chats, chat_model):
    """Web text, and conversations as the source `chat`; every sixth document is held out."""
    folder = tmp_path_factory.mktemp("tokenize")
    model = Model(path=str(chat_model))
    builder = StoreBuilder(folder, open_tokenizer(model), [], ChatTemplate(model))
    for number, (passage, (name, messages)) in enumerate(zip(passages, chats.items(), strict=True)):
        common = {"split": "valid" if number % 6 == 0 else "train", "ppl": None, "lang": "en", "topic": None}
        builder.add(
            [
                {**passage, **common, "source": "web"},
                {
                    "id": name,
                    "text": text_of(messages),
                    "messages": dump_messages(messages),
                    **common,
                    "source": "chat",
                },
            ]
        )
    builder.finish()
    return folder


@pytest.fixture
def with_chats(arguments, chat_model):
    mixture = {"en": {"share": 1.0, "sources": {"web": 0.5, "chat": 0.5}}}
    stage = make_stage(mixture=mixture, topics={}, tokens=SEQ_LEN * 4 * STEPS)
    return {**arguments, "stage": stage, "model": Model(path=str(chat_model)), "kept": find_groups([], None)}


@pytest.fixture
def make_chat_work(tmp_path, chat_store):
    def make(name="train-1.partial"):
        output = tmp_path / name
        output.mkdir(exist_ok=True)
        return Work(output=output, inputs={"tokenize": chat_store}, cache=tmp_path / "cache")

    return make


def plain_labels(batch, sampler, store, chats, tokenizer, rows):
    """Labels worked out without the store's answers: documents are tokenized again, by hand."""
    sets = {one.bucket: one.documents for one in sampler.opened}
    labels = np.full(batch.ids.shape, IGNORE)
    for row, (pieces, bucket) in enumerate(zip(batch.pieces, batch.buckets, strict=True)):
        at = 0
        for piece in pieces:
            own, index = sets[bucket].locate(piece.document)
            mask = np.ones(piece.start + piece.length, dtype=bool)
            if (messages := chats.get(own.doc_ids[index])) is not None and rows.conversation_loss == "answers":
                ids, mask = reference(tokenizer, CHATML, messages)
                assert ids == own.tokens[own.offsets[index] : own.offsets[index + 1]].tolist()
            part = batch.ids[row, at : at + piece.length]
            labels[row, at : at + piece.length] = np.where(mask[piece.start : piece.start + piece.length], part, IGNORE)
            if rows.document_mask:
                labels[row, at] = IGNORE
            at += piece.length
    return labels


@pytest.mark.parametrize(
    "rows",
    [
        Rows(seq_len=SEQ_LEN),
        Rows(seq_len=SEQ_LEN, conversation_loss="all"),
        Rows(seq_len=SEQ_LEN, packing="best_fit", max_padding=1),
    ],
)
def test_training_equals_a_plain_loop_with_ignored_labels(
    with_chats, make_chat_work, chat_store, chat_model, chats, rows
):
    work = make_chat_work()
    run(work, **with_chats | {"rows": rows})
    stage = with_chats["stage"]
    model = AutoModelForCausalLM.from_pretrained(chat_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    store = TokenStore.open(chat_store)
    sampler = Sampler(store, stage, rows, 3)
    decay = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "embed" not in n)]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.95), eps=1e-8
    )
    losses, ignored = [], 0
    for step in range(STEPS):
        warm = min(1.0, step * 4 * SEQ_LEN / stage.schedule.warmup_tokens)
        for group in optimizer.param_groups:
            group["lr"] = stage.schedule.initial_lr + warm * (stage.schedule.peak_lr - stage.schedule.initial_lr)
        batch = sampler.next_batch(4)
        labels = plain_labels(batch, sampler, store, chats, tokenizer, rows)
        ignored += int((labels == IGNORE).sum())
        logits = model(input_ids=torch.from_numpy(batch.ids)).logits[:, :-1].flatten(0, 1)
        targets = torch.from_numpy(labels[:, 1:]).flatten()
        loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert (ignored > 0) == (rows.conversation_loss == "answers" or rows.packing == "best_fit")
    assert [record["loss"] for record in events(work, "step")] == pytest.approx(losses, rel=1e-5)
    trained = weights_of(work.output / "model")
    for name, value in model.state_dict().items():
        if name in trained:
            torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-5)


def test_a_stopped_run_continues_as_if_it_had_not_stopped(with_chats, make_chat_work, stop_after):
    whole, stopped = make_chat_work("whole"), make_chat_work("stopped")
    run(whole, **with_chats)
    stop_after(5, stopped, with_chats)
    run(stopped, **with_chats)
    assert_same_weights(whole.output / "model", stopped.output / "model")
    spent = {row["source"]: row for row in whole.counts["spent"]}
    assert whole.counts["spent"] == stopped.counts["spent"]
    assert spent["chat"]["spent"] == spent["web"]["spent"] == SEQ_LEN * 4 * STEPS // 2
    assert 0 < spent["chat"]["answer_tokens"] < spent["chat"]["spent"]
    assert "answer_tokens" not in spent["web"]


@pytest.mark.slow
def test_two_processes_train_like_one(with_chats, make_chat_work):
    with_chats["training"] = make_training(micro_batch_rows=1)
    alone, together = make_chat_work("alone"), make_chat_work("together")
    run(alone, **with_chats)
    run_together(2, with_chats, together, extra=["2"])
    assert_close(alone, together)


def test_a_validation_is_the_measurement_of_the_evaluation(
    with_chats, make_chat_work, chats, chat_model, passages, tmp_path
):
    """Bits per byte of conversations: of the text of the answers, over its bytes."""
    work = make_chat_work()
    training = make_training(validation={"max_tokens": 10**9})
    run(work, **with_chats | {"training": training, "stage": with_chats["stage"].model_copy(update={"tokens": 256})})
    settings = Evaluation(max_length=SEQ_LEN, stride=SEQ_LEN // 2, dtype="float32")
    held_out = [one for number, one in enumerate(chats.values()) if number % 6 == 0]
    texts = [Text(text_of(one), "en", "chat", None, dump_messages(one)) for one in held_out]
    bits = measure_bits(
        EvaluatedModel(Model(path=str(chat_model)), settings), texts, settings, cache=tmp_path / "bits", what="test"
    )
    groups = find_groups([with_chats["stage"]], None)
    entry = next(one for one in events(work, "validation")[0]["validation"] if one["source"] == "chat")
    said = [message["content"] for one in held_out for message in one if message["role"] == "assistant"]
    assert entry["num_bytes"] == sum(len(text.encode()) for text in said)
    assert entry["bits_per_byte"] == pytest.approx(group_totals(texts, bits, groups)["en"], rel=2e-5)

    # One document by hand: the model's own logits at the tokens of the answers, without the token that ends them.
    model = AutoModelForCausalLM.from_pretrained(chat_model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    short = min(range(len(held_out)), key=lambda index: len(texts[index].text))
    ids, mask = reference(tokenizer, CHATML, held_out[short])
    ending = np.isin(ids, [tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id])
    with torch.no_grad():
        logits = model(torch.tensor([[tokenizer.eos_token_id, *ids]])).logits[0].double().log_softmax(-1)
    nats = -sum(float(logits[at, ids[at]]) for at in np.flatnonzero(mask & ~ending))
    whole = settings.model_copy(update={"max_length": 256, "stride": 128})
    assert len(ids) < whole.max_length
    evaluated = EvaluatedModel(Model(path=str(chat_model)), whole)
    (alone,) = measure_bits(evaluated, [texts[short]], whole, cache=tmp_path / "bits", what="test")
    assert alone == pytest.approx(nats / np.log(2), rel=1e-5)

"""Stage `score` against a plain loop, and what a kill leaves."""

import math
from contextlib import contextmanager

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests.chats import CHATML, END, reference, write_chat_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reprise.documents import score as stage
from reprise.documents.table import TableWriter, read_table
from reprise.errors import UserError
from reprise.model.conversation import dump_messages, text_of
from reprise.recipe.documents import Perplexity
from reprise.recipe.model import Model
from reprise.workspace import Work

SETTINGS = Perplexity(max_length=64, stride=32, batch_tokens=256, shard_documents=4, min_tokens=4, dtype="float32")
BUCKETS = [["zh", "web"], ["en", "math"]]


def byte_tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({character: index for index, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="<s>")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=257, max_position_embeddings=128, **small)
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def document(number, text, lang, source):
    return {"id": str(number), "text": text, "lang": lang, "source": source, "split": "train", "origin": f"a:{number}"}


DOCUMENTS = [
    document(0, "太阳从东边升起，照亮了整个山谷，也照亮了河边的小村庄。", "zh", "web"),
    document(1, "An English page that nobody asked to score.", "en", "web"),
    document(2, "两", "zh", "web"),
    document(3, "", "zh", "web"),
    document(4, "Let x be a real number. " * 12, "en", "math"),
    document(5, "一本没有课程表的书。", "zh", "book"),
    document(6, "春天来了。", "zh", "web"),
    document(7, "The sum of two even numbers is even.", "en", "math"),
    document(8, "最后一篇。", "zh", "web"),
]


@pytest.fixture
def work(tmp_path):
    with TableWriter(tmp_path / "label" / "documents") as writer:
        writer.write(DOCUMENTS)
    (tmp_path / "score.partial").mkdir()
    return Work(output=tmp_path / "score.partial", inputs={"label": tmp_path / "label"}, cache=tmp_path / "cache")


def rows(work):
    return [row for batch in read_table(work.output / "documents") for row in batch.to_pylist()]


def plain_nll(folder, text):
    """One document at a time through the model's own logits, the window moved one literal step after the other."""
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    ids = byte_tokenizer()(text)["input_ids"]
    total, first = 0.0, 1
    for begin in range(0, len(ids), SETTINGS.stride):
        window = ids[begin : begin + SETTINGS.max_length]
        with torch.no_grad():
            logits = model(torch.tensor([window])).logits[0].double().log_softmax(-1)
        for position in range(1, len(window)):
            if begin + position >= first:
                total -= float(logits[position - 1, window[position]])
                first += 1
    return total, max(len(ids) - 1, 0)


def test_selected_documents_are_scored_like_the_plain_loop_and_the_others_pass(work, model_folder):
    stage.run(work, model=Model(path=str(model_folder)), perplexity=SETTINGS, buckets=BUCKETS)
    result = rows(work)
    assert [{name: row[name] for name in DOCUMENTS[0]} for row in result] == DOCUMENTS
    for row in result:
        if [row["lang"], row["source"]] not in BUCKETS:
            assert row["nll"] is row["num_tokens"] is row["ppl"] is row["bits_per_byte"] is None
            continue
        nll, num_tokens = plain_nll(model_folder, row["text"])
        assert row["num_tokens"] == num_tokens
        assert row["nll"] == pytest.approx(nll, rel=1e-4)
        if num_tokens < 4:
            assert row["ppl"] is None and row["bits_per_byte"] is None
        else:
            assert row["ppl"] == pytest.approx(math.exp(nll / num_tokens), rel=1e-4)
            assert row["bits_per_byte"] == pytest.approx(nll / math.log(2) / len(row["text"].encode()), rel=1e-4)
    assert work.counts["documents_in"] == work.counts["documents_out"] == len(DOCUMENTS)
    assert work.counts["scored"]["zh/web"]["too_short"] == 2
    assert work.counts["scored"]["en/math"]["documents"] == 2


def test_killed_run_goes_on_and_repeats_no_finished_shard(work, model_folder, monkeypatch):
    settings = {"model": Model(path=str(model_folder)), "perplexity": SETTINGS, "buckets": BUCKETS}
    scored = []
    score = stage._Scorer.score

    def dies_in_the_second_shard(self, shard, selected, advance):
        scored.append(shard.column("id").to_pylist())
        if len(scored) == 2:
            raise KeyboardInterrupt
        return score(self, shard, selected, advance)

    monkeypatch.setattr(stage._Scorer, "score", dies_in_the_second_shard)
    with pytest.raises(KeyboardInterrupt):
        stage.run(work, **settings)
    parts = sorted((work.output / "documents").iterdir())
    assert [part.name for part in parts] == ["part-000000.parquet"]
    before = parts[0].stat().st_mtime_ns
    stage.run(work, **settings)
    assert parts[0].stat().st_mtime_ns == before
    assert [ids[0] for ids in scored] == ["0", "4", "4", "8"]
    assert [row["id"] for row in rows(work)] == [str(number) for number in range(9)]


def test_progress_advances_within_a_shard(work, model_folder, monkeypatch):
    amounts = []

    @contextmanager
    def track(what, total, unit):
        yield amounts.append

    monkeypatch.setattr(stage, "track", track)
    one_shard = SETTINGS.model_copy(update={"shard_documents": 256})
    stage.run(work, model=Model(path=str(model_folder)), perplexity=one_shard, buckets=BUCKETS)
    assert sum(amounts) == len(DOCUMENTS)
    assert len([amount for amount in amounts if amount]) > 3
    assert all(amount == int(amount) >= 0 for amount in amounts)


def test_nothing_selected_needs_no_model(work):
    stage.run(work, model=Model(path="nobody/nothing"), perplexity=SETTINGS, buckets=[])
    assert [row["id"] for row in rows(work)] == [str(number) for number in range(9)]
    assert pq.read_table(work.output / "documents")["nll"].null_count == 9


def test_bos_makes_the_first_token_count(work, model_folder):
    stage.run(work, model=Model(path=str(model_folder), bos=True), perplexity=SETTINGS, buckets=BUCKETS)
    assert [row["num_tokens"] for row in rows(work) if row["id"] in "023"] == [len(DOCUMENTS[0]["text"].encode()), 3, 0]


def test_window_longer_than_the_context_is_cut_to_it(work, model_folder):
    long = SETTINGS.model_copy(update={"max_length": 512, "stride": 300})
    stage.run(work, model=Model(path=str(model_folder)), perplexity=long, buckets=BUCKETS)
    assert [row["num_tokens"] for row in rows(work) if row["id"] == "4"] == [len(DOCUMENTS[4]["text"]) - 1]


def test_vocabulary_that_does_not_fit_is_refused(work, model_folder, tmp_path):
    small = LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    LlamaForCausalLM(small).save_pretrained(tmp_path / "small")
    byte_tokenizer().save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match="the model embeds 50 tokens"):
        stage.run(work, model=Model(path=str(tmp_path / "small")), perplexity=SETTINGS, buckets=BUCKETS)


def test_stride_must_be_below_the_window():
    with pytest.raises(ValueError, match="stride 64 must be below max_length 64"):
        Perplexity(max_length=64, stride=64)


def test_huge_loss_gives_a_finite_perplexity(work, model_folder, monkeypatch):
    monkeypatch.setattr(stage, "document_nll", lambda model, documents, **_: (
        np.full(len(documents), 1e6), np.full(len(documents), 10)))  # fmt: skip
    stage.run(work, model=Model(path=str(model_folder)), perplexity=SETTINGS, buckets=BUCKETS)
    assert all(math.isfinite(row["ppl"]) for row in rows(work) if row["ppl"] is not None)


def test_a_smaller_model_that_scores_decides_the_stage_and_the_base_model_does_not(tmp_path):
    from reprise.recipe import Recipe
    from reprise.stages import stages

    def score_settings(**model):
        mixture = {"zh": {"share": 1.0, "sources": {"web": 1.0}}}
        stage = {"name": "one", "tokens": 10, "mixture": mixture, "curriculum": {"zh": {"order": "ascending"}}}
        data = {"name": "x", "workspace": str(tmp_path), "model": {"path": "base"}, "stages": [stage], **model}
        score = next(stage for stage in stages(Recipe.model_validate(data)) if stage.name == "score")
        return score.settings["model"].path

    small = {"documents": {"perplexity": {"model": {"path": "small"}}}}
    assert score_settings() == "base"
    assert score_settings(**small) == score_settings(**small, model={"path": "another base"}) == "small"


def test_a_conversation_is_scored_in_its_answers(tmp_path_factory, make_score):
    """Perplexity and bits per byte of what the assistant says, given all before it."""
    texts = [row["text"] for row in DOCUMENTS if row["text"]]
    folder = write_chat_model(tmp_path_factory.mktemp("chat") / "model", texts * 4, 400, CHATML)
    messages = [
        {"role": role, "content": content}
        for role, content in (
            ("user", "春天来了？"),
            ("assistant", "春天来了。"),
            ("user", "2?"),
            ("assistant", "Two."),
        )
    ]
    rows = [
        {**document(0, text_of(messages), "zh", "web"), "messages": dump_messages(messages)},
        document(1, "太阳从东边升起，照亮了整个山谷。", "zh", "web"),
    ]
    chat, page = make_score(rows, folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids, mask = reference(tokenizer, CHATML, messages)
    ids, mask = ids[:-1], mask[:-1] & (np.array(ids[:-1]) != tokenizer.convert_tokens_to_ids(END))
    assert len(ids) < SETTINGS.max_length
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    nats = -sum(float(logits[at - 1, ids[at]]) for at in np.flatnonzero(mask))
    said = "春天来了。Two.".encode()
    assert chat["num_tokens"] == mask.sum()
    assert chat["nll"] == pytest.approx(nats, rel=1e-5)
    assert chat["ppl"] == pytest.approx(math.exp(nats / mask.sum()), rel=1e-5)
    assert chat["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(said), rel=1e-5)
    assert page["num_tokens"] == len(tokenizer(rows[1]["text"])["input_ids"]) - 1


@pytest.fixture
def make_score(tmp_path):
    """Score rows by a model; returns the scored rows."""

    def score(rows, folder):
        with TableWriter(tmp_path / "label" / "documents") as writer:
            writer.write(rows)
        (tmp_path / "score").mkdir()
        work = Work(tmp_path / "score", {"label": tmp_path / "label"}, tmp_path / "cache")
        stage.run(work, model=Model(path=str(folder)), perplexity=SETTINGS, buckets=BUCKETS)
        return [row for batch in read_table(tmp_path / "score" / "documents") for row in batch.to_pylist()]

    return score

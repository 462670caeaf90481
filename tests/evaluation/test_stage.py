"""Stage `evaluate` on tiny models: what is measured is what it says."""

import contextlib
import json
import math
import shutil
import subprocess
import sys

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from tests.evaluation.conftest import make_model, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from reprise.documents.table import TableWriter
from reprise.errors import UserError
from reprise.evaluation import model as evaluated
from reprise.evaluation import samples as continuations
from reprise.evaluation import stage
from reprise.evaluation.bits_per_byte import Text, cut_texts, measure_bits
from reprise.evaluation.model import EvaluatedModel
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.groups import find_groups
from reprise.recipe.model import Model
from reprise.schemas import shipped_schema
from reprise.training.checkpoint_facts import Progress, ResumeFacts, write_facts
from reprise.workspace import Work

SETTINGS = Evaluation(max_length=64, stride=32, batch_tokens=512, dtype="float32")

SENTENCES = {
    "en": ["The river runs to the sea.", "Two and two make four.", "A good book is a friend.", "Bread needs salt."],
    "zh": ["河水流向大海。", "二加二等于四。", "好书如良友。", "面包需要盐。"],
}


def documents():
    for language, sentences in SENTENCES.items():
        for number in range(24):
            text = " ".join([*(sentences[(number + shift) % 4] for shift in range(1 + number % 3)), f"{number}."])
            source = "web" if number % 2 else "book"
            topic = ("Law and Policy" if number % 4 == 1 else "Others") if source == "web" else None
            yield {
                "id": f"{language}{number}", "text": text, "lang": language, "source": source, "topic": topic,
                "split": "valid" if number < 20 else "train", "origin": f"{language}:{number}",
            }  # fmt: skip


@pytest.fixture
def work(tmp_path, tiny_model):
    with TableWriter(tmp_path / "score" / "documents") as writer:
        writer.write(list(documents()))
    (tmp_path / "evaluate.partial").mkdir()
    fit(tiny_model, tmp_path / "train-1" / "model", SENTENCES["zh"])
    (tmp_path / "train-1" / "state").mkdir()
    (tmp_path / "train-1" / "state" / "checkpoint.json").write_text(json.dumps(described_checkpoint(tokens=960)))
    inputs = {name: tmp_path / name for name in ("score", "tokenize", "train-1")}
    return Work(output=tmp_path / "evaluate.partial", inputs=inputs, cache=tmp_path / "cache")


def described_checkpoint(tokens):
    """`checkpoint.json` of a checkpoint without files."""
    order = {"stage": {}, "rows": {}, "seed": 0}
    sampler = {"version": 0, "store": "", "settings": order, "rows": 0, "tokens": tokens, "buckets": []}
    facts: ResumeFacts = {
        "progress": Progress(tokens=tokens),
        "sampler": {**sampler, "shares": {}, "policies": {}},
        "settings": {
            **{name: {} for name in ("stage", "rows", "optimizer", "adapter", "averaging", "model")},
            "stage_index": 0,
            "master_weights": "float32",
            "step_in_backward": False,
            "batch_rows": 1,
            "precision": "torch.float32",
            "seed": 0,
            "store": "",
        },
        "processes": 1,
        "optimizer_steps": 0,
        "averaged": 0,
    }
    return write_facts(facts, {})


def fit(base, folder, sentences):
    """A few steps on some sentences, so that they get cheaper and the other language dearer."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(15):
        for sentence in sentences:
            ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
            model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(work, tiny_model, settings=SETTINGS):
    model, groups = Model(path=str(tiny_model)), find_groups([], {"en": 0.02})
    stage.run(work, evaluation=settings, model=model, groups=groups, last_stage="train-1", seed=17)
    results = json.loads((work.output / "results.json").read_text())
    jsonschema.validate(results, shipped_schema("results"))
    return results


def plain_bits(folder, text):
    """Bits of a text behind BOS, from the model's own logits in one pass per window."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]
    total, first = 0.0, 1
    for begin in range(0, len(ids), SETTINGS.stride):
        window = ids[begin : begin + SETTINGS.max_length]
        with torch.no_grad():
            logs = model(torch.tensor([window])).logits[0].double().log_softmax(-1)
        for position in range(first - begin, len(window)):
            total -= float(logs[position - 1, window[position]])
        first = max(first, begin + len(window))
    return total / math.log(2)


def test_results_equal_a_plain_measurement_of_held_out_documents_only(work, tiny_model):
    results = run(work, tiny_model)
    held_out = [row for row in documents() if row["split"] == "valid"]
    trained = work.inputs["train-1"] / "model"
    for row in results["bits_per_byte"]:
        members = [
            text
            for text in held_out
            if text["lang"] == row["language"]
            and row["source"] in (None, text["source"])
            and row["topic"] in (None, text["topic"])
        ]
        num_bytes = sum(len(text["text"].encode()) for text in members)
        assert (row["documents"], row["num_bytes"]) == (len(members), num_bytes)
        for side, folder in (("before", tiny_model), ("after", trained)):
            expected = sum(plain_bits(folder, text["text"]) for text in members) / num_bytes
            assert row[side] == pytest.approx(expected, rel=1e-5)
        assert row["change"] == pytest.approx(row["after"] / row["before"] - 1)
    keys = {(row["language"], row["source"], row["topic"]) for row in results["bits_per_byte"]}
    per_language = {(None, None), ("book", None), ("web", None), ("web", "Law and Policy"), ("web", "Others")}
    assert keys == {(language, *key) for language in SENTENCES for key in per_language}


def test_only_the_beginnings_of_held_out_documents_are_measured_on_request(work, tiny_model):
    beginnings = SETTINGS.model_copy(update={"document_bytes": 32})
    results = run(work, tiny_model, beginnings)
    for row in results["bits_per_byte"]:
        if row["source"] is None:
            texts = [one["text"] for one in documents() if one["split"] == "valid" and one["lang"] == row["language"]]
            cut = [text.encode()[:32].decode(errors="ignore") for text in texts]
            assert row["num_bytes"] == sum(len(text.encode()) for text in cut) < sum(map(len, map(str.encode, texts)))
            assert row["documents"] == len(set(cut))  # equal beginnings are one observation


def test_progress_is_counted_in_bytes_of_text_and_reaches_its_end(work, tiny_model, monkeypatch):
    bars = []

    @contextlib.contextmanager
    def track(what, total, unit):
        bars.append([total, 0.0, unit])

        def advance(amount):
            bars[-1][1] += amount

        yield advance

    monkeypatch.setattr("reprise.evaluation.bits_per_byte.track", track)
    run(work, tiny_model)
    run(work, tiny_model)  # all of it is cached
    kilobytes = sum(len(one["text"].encode()) for one in documents() if one["split"] == "valid") / 1000
    assert bars[:2] == [[pytest.approx(kilobytes), pytest.approx(kilobytes), "kB"]] * 2
    assert all(bar == [0, 0, "kB"] for bar in bars[2:])


@given(st.text(max_size=60), st.integers(16, 80))
def test_a_beginning_is_the_longest_whole_characters_that_fit(text, max_bytes):
    (cut,) = cut_texts([Text(text, "en", "web")], max_bytes)
    assert text.startswith(cut.text) and cut.num_bytes <= max_bytes
    following = text[len(cut.text) :][:1]
    assert not following or cut.num_bytes + len(following.encode()) > max_bytes


def test_conversations_are_measured_whole():
    messages = json.dumps([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because. " * 20}])
    conversation = Text("", "en", "chat", messages=messages)
    assert cut_texts([conversation], 16) == [conversation]


def test_verdicts_and_headline_say_what_the_numbers_say(work, tiny_model):
    results = run(work, tiny_model)
    verdicts = {entry["path"]: entry for entry in results["verdicts"]}
    assert list(verdicts) == ["en", "en/book", "en/web", "zh", "zh/book", "zh/web"]
    assert verdicts["zh"]["verdict"] == "gained" and verdicts["zh"]["judged_ci"][1] < 0
    assert {verdicts[path]["tolerance"] for path in ("en", "en/book", "en/web")} == {0.02}
    assert f"Chinese (bits per byte fell by {-100 * verdicts['zh']['change']:.1f} %" in results["headline"]
    assert [entry["measure"] for entry in results["untested"]] == ["benchmarks"]
    rows = {row["path"]: row for row in results["bits_per_byte"]}
    assert rows["en/web/Others"]["verdict"] is None and rows["en/web/Others"]["ci"] is not None
    assert all(rows[path]["verdict"] == entry["verdict"] for path, entry in verdicts.items())


def test_second_run_measures_nothing_again(work, tiny_model, monkeypatch):
    first = run(work, tiny_model)
    monkeypatch.setattr(evaluated, "load_model", lambda *_: pytest.fail("the model was loaded again"))
    assert run(work, tiny_model) == first


def test_changed_weights_or_text_are_measured_again(work, tiny_model, tmp_path):
    texts = [Text(row["text"], row["lang"], row["source"]) for row in documents()]
    other = make_model(tmp_path / "other", make_tokenizer(), seed=5)
    models = [EvaluatedModel(Model(path=str(folder)), SETTINGS) for folder in (tiny_model, other, tiny_model)]
    marks = [model.fingerprint for model in models]
    assert marks[0] != marks[1] and marks[0] == marks[2]
    keep = {"cache": tmp_path / "kept", "what": "test"}
    bits = [measure_bits(model, texts, SETTINGS, **keep) for model in models[:2]]
    assert not np.allclose(bits[0], bits[1], rtol=1e-3)
    np.testing.assert_allclose(measure_bits(models[0], texts[:3], SETTINGS, **keep), bits[0][:3], rtol=1e-5)


def test_all_that_decides_the_answers_is_in_the_fingerprint(tiny_model, tmp_path):
    """Settings of the tokens, and weights that an index has in another folder."""
    given = [{}, {"eos": "<eos>"}, {"bos": True}, {"attention": "eager"}]
    marks = [EvaluatedModel(Model(path=str(tiny_model), **settings), SETTINGS).fingerprint for settings in given]
    assert len(set(marks)) == len(given)
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "weights").mkdir()
    weights = (folder / "model.safetensors").rename(folder / "weights" / "all.safetensors")
    with safe_open(weights, "pt") as handle:
        index = {"weight_map": dict.fromkeys(handle.keys(), "weights/all.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    before = EvaluatedModel(Model(path=str(folder)), SETTINGS).fingerprint
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert EvaluatedModel(Model(path=str(folder)), SETTINGS).fingerprint != before


def test_bits_per_byte_count_every_byte_whatever_the_vocabulary(tmp_path):
    """Models that know nothing (all weights 0) need log2(vocabulary) bits for each of their tokens."""
    texts = [Text(" ".join(SENTENCES[language]) * 3, language, "web") for language in SENTENCES]
    for size in (257, 320):
        tokenizer = make_tokenizer([text.text for text in texts], vocab_size=size)
        folder = make_model(tmp_path / str(size), tokenizer, scale=0.0)
        model = EvaluatedModel(Model(path=str(folder)), SETTINGS)
        bits = measure_bits(model, texts, SETTINGS, cache=tmp_path, what="test")
        tokens = [len(tokenizer(text.text)["input_ids"]) for text in texts]
        np.testing.assert_allclose(bits, np.array(tokens) * math.log2(len(tokenizer)), rtol=1e-5)


def test_samples_are_greedy_continuations_of_held_out_beginnings(work, tiny_model):
    results = run(
        work, tiny_model, SETTINGS.model_copy(update={"sample_tokens": 4, "sample_prompts": {"en": ["Two and"]}})
    )
    samples = results["samples"]
    assert [sample["language"] for sample in samples] == ["en", "zh", "zh"] and samples[0]["prompt"] == "Two and"
    held_out = [row["text"] for row in documents() if row["split"] == "valid" and row["lang"] == "zh"]
    for sample in samples[1:]:  # a beginning leaves text to go on with
        assert any(text.startswith(sample["prompt"]) and len(text) > len(sample["prompt"]) for text in held_out)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    ids = tokenizer("Two and")["input_ids"]
    for _ in range(4):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert samples[0]["before"] == tokenizer.decode(ids[7:], skip_special_tokens=True)
    assert run(work, tiny_model, SETTINGS.model_copy(update={"sample_tokens": 0}))["samples"] == []


@pytest.mark.parametrize(
    ("text", "prompt"),
    [("two words", "two"), ("短文字", "短"), ("字" * 90, "字" * 40), ("word " * 60, "word " * 23 + "word")],
)
def test_beginning_ends_between_words(text, prompt):
    assert continuations.beginning(text) == prompt


def test_beginnings_are_spread_over_the_documents():
    texts = [Text(f"{number} " + "words to go on with " * 20, "en", "web") for number in range(100)]
    few = [Text("short", "en", "web"), Text("short, too", "en", "web")]
    prompts = continuations.choose_prompts([*few, *texts], Evaluation(samples_per_language=4))
    assert [int(prompt.split()[0]) for _, prompt in prompts] == [12, 37, 62, 87]
    assert [prompt for _, prompt in continuations.choose_prompts(few, Evaluation(samples_per_language=3))] == [
        "sh",
        "short",
    ]


def test_nothing_held_out_is_the_users_to_mend(tmp_path):
    with TableWriter(tmp_path / "documents") as writer:
        writer.write([row for row in documents() if row["split"] == "train"])
    with pytest.raises(UserError, match=r"valid_share"):
        stage.read_held_out(tmp_path / "documents")


def test_window_over_the_context_is_cut_to_it(work, tmp_path):
    short = make_model(tmp_path / "short", make_tokenizer(), context=48)
    texts = [Text("The river runs to the sea. " * 10, "en", "web")]
    evaluated_model = EvaluatedModel(Model(path=str(short)), SETTINGS)
    bits = [
        measure_bits(evaluated_model, texts, settings, cache=tmp_path / str(number), what="test")
        for number, settings in enumerate([SETTINGS, Evaluation(max_length=48, stride=24, dtype="float32")])
    ]
    np.testing.assert_allclose(*bits, rtol=1e-6)


def test_stage_imports_no_harness():
    code = "import sys, reprise.evaluation.stage; print({'lm_eval', 'daft', 'datasets', 'httpx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

"""Batched generation gives what one request at a time gives; sampling follows the distribution."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reprise.errors import UserError
from reprise.generators import transformers_engine as in_process
from reprise.generators.generator import Answer, Request, random_seed
from reprise.generators.transformers_engine import InProcess
from reprise.recipe.model import Model
from reprise.recipe.synthesis import Generator


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 a batch rounds otherwise than a single row, which can flip a token."""
    monkeypatch.setattr(in_process, "native_dtype", lambda device: torch.float32)


def requests_of(count: int, **settings: object) -> list[Request]:
    common: Any = {"max_tokens": 12, "temperature": 0.9, "top_p": 1.0, **settings}
    return [
        Request(
            (("system", "Shared words that all begin with."), ("user", "x" * (7 * number % 23) + str(number))), **common
        )  # type: ignore[arg-type]
        for number in range(count)
    ]


def answers(model: Model, requests: list[Request], batch_size: int) -> list[Answer]:
    generator = InProcess(Generator(batch_size=batch_size), model)
    keys = [request.key(generator.identity) for request in requests]
    found = {index: outcome for group in generator.answer(requests, keys) for index, outcome in group}
    assert sorted(found) == list(range(len(requests)))
    return [found[index] for index in range(len(requests))]  # type: ignore[misc]


def plain(model: Model, request: Request) -> str:
    """The reference: no batch, no cache, no shared prefix, one whole forward pass per token."""
    generator = InProcess(Generator(), model)
    generator._load()
    messages = [{"role": role, "content": text} for role, text in request.messages]
    text = generator._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = generator._tokenizer(text + request.begin, add_special_tokens=False)["input_ids"]
    uniforms = np.random.default_rng(random_seed(request.key(generator.identity))).random(request.max_tokens)
    start = len(ids)
    for uniform in uniforms:
        with torch.no_grad():
            logits = generator._model(torch.tensor([ids])).logits[0, -1].double()
        if request.temperature == 0:
            token = int(logits.argmax())
        else:
            probabilities = torch.softmax(logits / request.temperature, -1).numpy()
            if request.top_p < 1:
                order = np.argsort(-probabilities, kind="stable")
                keep = np.cumsum(probabilities[order]) - probabilities[order] < request.top_p
                kept = np.where(keep, probabilities[order], 0)
                token = int(order[np.searchsorted(np.cumsum(kept), uniform * kept.sum(), side="right")])
            else:
                token = int(np.searchsorted(np.cumsum(probabilities), uniform, side="right"))
        if token == 0:
            break
        ids.append(token)
    text = generator._tokenizer.decode(ids[start:], skip_special_tokens=True)
    for stop in request.stop:
        text = text.split(stop)[0]
    return request.begin + text


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.0}, {"top_p": 0.5}, {"begin": "Say:"}, {"stop": ("e", "A")}]
)
def test_a_batch_gives_what_the_plain_loop_gives(tiny_model: Model, settings: dict[str, object]) -> None:
    requests = requests_of(7, **settings)
    wanted = [plain(tiny_model, request) for request in requests]
    for batch_size in (1, 3, 7):
        assert [answer.text for answer in answers(tiny_model, requests, batch_size)] == wanted
    assert len(set(wanted)) > 3


def test_rows_leave_when_they_end(tiny_model: Model) -> None:
    requests = [*requests_of(3, max_tokens=2), *requests_of(3, max_tokens=30)]
    found = answers(tiny_model, requests, 6)
    assert [answer.completion_tokens for answer in found[:3]] == [2, 2, 2]
    assert {answer.finish for answer in found[:3]} == {"length"}
    assert all(answer.completion_tokens <= 30 for answer in found)


def test_a_place_that_is_free_is_taken_while_the_others_go_on(tiny_model: Model, monkeypatch: Any) -> None:
    """Answers of very different lengths, of prompts of two kinds: many joins and leaves, and every row as if alone."""
    requests = []
    for number in range(24):
        kind = "Shared words that all begin with." if number % 2 else "Other words for the second kind of prompt."
        text = "y" * (11 * number % 37) + str(number)
        requests.append(Request((("system", kind), ("user", text)), 3 + 40 * (number % 3), 0.9, 1.0))
    at_work: list[int] = []
    advance = InProcess._advance

    def counted(self: InProcess, slots: Any) -> None:
        at_work.append(len(slots.rows))
        advance(self, slots)

    monkeypatch.setattr(InProcess, "_advance", counted)
    found = answers(tiny_model, requests, 6)
    steps, share = len(at_work), sum(at_work) / (6 * len(at_work))
    assert [answer.text for answer in found] == [plain(tiny_model, request) for request in requests]
    longest = sum(max(answer.completion_tokens for answer in found[at : at + 6]) for at in range(0, 24, 6))
    assert steps < longest
    assert share > 0.6


def test_a_model_whose_layers_forget_answers_the_same_batch_by_batch(tiny_model: Model, tmp_path: Path) -> None:
    """Sliding windows: rows cannot join others, and the beginning that prompts share may be longer than the window."""
    folder = tmp_path / "sliding"
    shutil.copytree(tiny_model.path, folder)
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=8)
    (folder / "config.json").write_text(json.dumps(config))
    model = Model(path=str(folder))
    requests = requests_of(7)
    wanted = [plain(model, request) for request in requests]
    assert [answer.text for answer in answers(model, requests, 3)] == wanted
    assert wanted != [plain(tiny_model, request) for request in requests]


def test_nothing_to_ask_loads_nothing(tiny_model: Model) -> None:
    """Where the journal knows every answer, the weights are not needed."""
    generator = InProcess(Generator(), tiny_model)
    assert list(generator.answer([], [])) == []
    assert generator._model is None


def test_equal_requests_have_equal_answers_and_samples_differ(tiny_model: Model) -> None:
    one = requests_of(1)[0]
    other = requests_of(1, sample=1)[0]
    first, again, second = answers(tiny_model, [one, one, other], 3)
    assert first.text == again.text != second.text


def test_sampling_follows_the_probabilities() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]])
    wanted = torch.softmax(logits[0].double() / 0.7, -1).numpy()
    request = Request((), 4000, 0.7, 1.0)
    row = in_process._Row(0, request, [], torch.from_numpy(np.random.default_rng(0).random(4000)))
    counts = np.zeros(4)
    for _ in range(4000):
        token = in_process._sample(logits, [row])[0]
        row.generated.append(token)
        counts[token] += 1
    assert np.abs(counts / 4000 - wanted).max() < 0.025


def test_a_model_without_chat_template_is_refused(tiny_model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_model.path, folder)
    for name in ("chat_template.jinja",):
        (folder / name).unlink()
    with pytest.raises(UserError, match="chat template"):
        InProcess(Generator(), Model(path=str(folder)))

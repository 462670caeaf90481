"""A server that computes true log-probabilities of a tiny model gives what the model in this process gives."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from tests.evaluation.conftest import make_model, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from reprise.errors import UserError
from reprise.evaluation.benchmarks.runner import BenchmarkRunner
from reprise.evaluation.bits_per_byte import Text, measure_bits
from reprise.evaluation.model import EvaluatedModel
from reprise.evaluation.samples import continue_prompts
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.model import Model


class Completions(BaseHTTPRequestHandler):
    """`/models` and `/completions` with prompts of token ids, one after the other on one thread."""

    def do_GET(self):
        self._send({"data": [{"id": name, "max_model_len": 2048} for name in self.server.models]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        if self.server.fails:
            self.send_error(500)
            return
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        with self.server.lock, torch.no_grad():
            answer = [self._complete(body, ids) | {"index": place} for place, ids in enumerate(prompts)]
        self._send({"choices": answer})

    def _complete(self, body, ids):
        model, tokenizer = self.server.models[body["model"]]
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        if body.get("echo"):
            ids = [*ids, int(logs[-1].argmax())]
            values = [None, *(float(logs[place, token]) for place, token in enumerate(ids[1:]))]
            best = [None, *({"best": float(row.max())} for row in logs)]
            return {"text": "", "logprobs": {"token_logprobs": values, "top_logprobs": best}}
        said = list(ids)
        for _ in range(body["max_tokens"]):
            token = int(model(torch.tensor([said])).logits[0, -1].argmax())
            text = tokenizer.decode([*said[len(ids) :], token])
            stops = [text.index(stop) for stop in body["stop"] if stop in text]
            if stops or token == tokenizer.eos_token_id:
                return {"text": text[: min(stops)] if stops else tokenizer.decode(said[len(ids) :])}
            said.append(token)
        return {"text": tokenizer.decode(said[len(ids) :])}

    def _send(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Silent."""


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("other"), make_tokenizer(), seed=4)


@pytest.fixture
def server(tiny_model, other_model):
    found = ThreadingHTTPServer(("127.0.0.1", 0), Completions)
    found.models = {
        name: (AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder))
        for name, folder in ((str(tiny_model), tiny_model), ("trained", other_model))
    }
    found.asked, found.fails, found.lock = [], False, threading.Lock()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def settings(server=None, data=None, **more):
    backend = {} if server is None else {"kind": "openai", "base_url": f"http://127.0.0.1:{server.server_port}/v1"}
    base = {"max_length": 64, "stride": 32, "dtype": "float32", "limit": 6}
    names = {"served_names": more.pop("served_names", {})} if server else {}
    return Evaluation(**base, data=None if data is None else str(data), backend=backend | names, **more)


def write_sciq(folder):
    (folder / "sciq").mkdir(parents=True)
    lines = [
        {
            "question": f"What is {n} stones?",
            "choices": [f"{n} {word}" for word in ("a", "bb", "c", "dd")],
            "answer": "B",
        }
        for n in range(12)
    ]
    (folder / "sciq" / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_mawps(folder):
    (folder / "mawps").mkdir(parents=True)
    lines = [{"question": f"How many are {n} and {n}?", "answer": str(2 * n)} for n in range(2)]
    (folder / "mawps" / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def run(model, evaluation, cache, seed=3):
    return BenchmarkRunner(EvaluatedModel(Model(path=str(model)), evaluation), evaluation, cache=cache, seed=seed).run()


def test_scores_are_those_of_the_model_in_this_process(server, tiny_model, other_model, tmp_path):
    data = write_sciq(tmp_path / "data")
    for model, names in ((tiny_model, {}), (other_model, {str(other_model): "trained"})):
        ours = settings(server, data, benchmarks=["sciq", "icl-probe"], served_names=names)
        plain = settings(None, data, benchmarks=["sciq", "icl-probe"])
        found, expected = run(model, ours, tmp_path / "cache"), run(model, plain, tmp_path / "cache")
        assert [one.scores for one in found] == [one.scores for one in expected]
    assert {body["model"] for body in server.asked} == {str(tiny_model), "trained"}
    asked = len(server.asked)
    run(other_model, ours, tmp_path / "cache")
    assert len(server.asked) == asked, "what the server answered is kept"


def test_log_likelihoods_and_generations_are_equal(server, tmp_path):
    from reprise.benchmark_files import read_set
    from reprise.evaluation.benchmarks import harness
    from reprise.evaluation.benchmarks.catalogue import BENCHMARKS

    folder = make_model(tmp_path / "long", make_tokenizer(), context=4096)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    server.models = {str(folder): (model, tokenizer)}
    lms = [
        EvaluatedModel(Model(path=str(folder)), settings(server)).remote,
        harness.BatchedLM(model, tokenizer, batch_tokens=1024),
    ]
    data = write_mawps(write_sciq(tmp_path / "data"))
    for name in ("sciq", "mawps"):
        items = read_set(data, name)
        logs = []
        for lm in lms:
            tasks = harness.local_tasks(BENCHMARKS[name], items)
            for task in tasks.values():
                if name == "mawps":  # two prompts, eight tokens: the server has no cache of keys and values
                    task.set_config(key="generation_kwargs", value={"max_gen_toks": 8, "until": ["Q:"]}, update=True)
                    task.set_config(key="num_fewshot", value=2)
            logs.append(harness.run_tasks(lm, tasks, {task: [0, 1] for task in tasks}))
        for task, log in logs[0].items():
            for one, two in zip(log, logs[1][task], strict=True):
                assert one["arguments"] == two["arguments"] and one["acc"] == two["acc"]
                for (ours,), (theirs,) in zip(one["resps"], two["resps"], strict=True):
                    if isinstance(ours, str):
                        assert ours == theirs
                    else:
                        assert ours[0] == pytest.approx(theirs[0], rel=1e-4) and ours[1] == theirs[1]


def test_bits_and_samples_are_equal(server, tiny_model, tmp_path):
    texts = [
        Text("The river runs to the sea. " * 9, "en", "web"),
        Text("河水流向大海。", "zh", "web"),
        Text("a", "en", "b"),
    ]
    models = [EvaluatedModel(Model(path=str(tiny_model)), evaluation) for evaluation in (settings(server), settings())]
    keep = {"cache": tmp_path, "what": "test"}
    bits = [measure_bits(model, texts, settings(), **keep) for model in models]
    np.testing.assert_allclose(*bits, rtol=1e-5)
    assert server.asked, "the server was not asked"
    said = [
        continue_prompts(model, [("en", "The river")], settings(sample_tokens=6), cache=tmp_path) for model in models
    ]
    assert said[0] == said[1] != [""]


def test_what_is_wrong_with_a_server_is_the_users_to_mend(server, tiny_model, tmp_path):
    data = write_sciq(tmp_path / "data")
    unknown = settings(server, data, benchmarks=["sciq"], served_names={str(tiny_model): "third"})
    with pytest.raises(UserError, match=r"does not serve 'third' but .*trained"):
        run(tiny_model, unknown, tmp_path / "cache")
    nobody = settings(server, data, benchmarks=["sciq"])
    server.server_close()
    server.shutdown()
    with pytest.raises(UserError, match="no OpenAI-compatible server answers"):
        run(tiny_model, nobody, tmp_path / "cache")


def test_server_without_log_probabilities_is_named(server, tiny_model, tmp_path, monkeypatch):
    data = write_sciq(tmp_path / "data")
    monkeypatch.setattr(Completions, "_complete", lambda *_: {"text": "no logprobs"})
    with pytest.raises(UserError, match="echo and logprobs"):
        run(tiny_model, settings(server, data, benchmarks=["sciq"]), tmp_path / "cache")


def test_settings_of_a_backend():
    with pytest.raises(ValueError, match="go together"):
        Evaluation(backend={"kind": "openai"})
    with pytest.raises(ValueError, match="go together"):
        Evaluation(backend={"base_url": "http://127.0.0.1:1/v1"})
    with pytest.raises(ValueError, match="carries no key"):
        Evaluation(backend={"kind": "openai", "base_url": "http://user:secret@127.0.0.1/v1"})
    with pytest.raises(ValueError, match="merge_factors, chat_merge and curve_benchmarks need"):
        settings_ = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1"}
        Evaluation(backend=settings_, merge_factors=[0.5])


def test_vllm_that_is_missing_is_named(tiny_model, tmp_path):
    try:
        import vllm  # noqa: F401
    except ImportError:
        evaluation = settings(None, write_sciq(tmp_path / "d"), benchmarks=["sciq"])
        evaluation = evaluation.model_copy(update={"backend": evaluation.backend.model_copy(update={"kind": "vllm"})})
        with pytest.raises(UserError, match="vLLM is not installed"):
            run(tiny_model, evaluation, tmp_path)

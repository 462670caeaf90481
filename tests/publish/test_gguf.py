"""GGUF files of tiny models of every handled family: read back by transformers, equal to their quantized weights."""

import shutil
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from tests.models import write_tiny_model
from tests.publish.models import CHATML, TEXTS, set_in_json, write_family
from transformers import AutoTokenizer

from reprise.errors import UserError
from reprise.publish import gguf_file
from reprise.publish.export import Source, export_gguf
from reprise.publish.gguf_check import check_gguf_file
from reprise.publish.gguf_file import write_gguf
from reprise.publish.ollama import find_chat_format, write_modelfile
from reprise.recipe.model import Model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", TEXTS, 300)


@pytest.mark.parametrize(
    "family,quantization",
    [("llama", "q8_0"), ("mistral", "f16"), ("qwen2", "bf16"), ("qwen3", "q4_0"), ("llama-untied", "q5_1")],
)
def test_a_file_of_each_family_computes_its_quantized_weights(tmp_path, family, quantization):
    model = Model(path=str(write_family(family, tmp_path / "model")))
    file = tmp_path / "model.gguf"
    write_gguf(model, file, quantization, name=family)
    result = check_gguf_file(model, file, quantization, TEXTS)
    assert result.difference < 1e-5
    assert (result.divergence_nats > 0) and result.tokens == sum(
        len(AutoTokenizer.from_pretrained(model.path)(text)["input_ids"]) for text in TEXTS
    )


def rows_exchanged(monkeypatch):
    monkeypatch.setattr(gguf_file, "permuted", lambda own, value, config: value)


def other_base(monkeypatch):
    import gguf

    monkeypatch.setattr(gguf.GGUFWriter, "add_rope_freq_base", lambda self, value: self.add_float32(
        f"{self.arch}.rope.freq_base", value * 50))  # fmt: skip


def other_names(monkeypatch):
    right = gguf_file.gguf_names

    def swapped(stored, architecture, layers):
        names = right(stored, architecture, layers)
        gate, up = (f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up"))
        names[gate], names[up] = names[up], names[gate]
        return names

    monkeypatch.setattr(gguf_file, "gguf_names", swapped)


@pytest.mark.parametrize("fault", [rows_exchanged, other_base, other_names])
def test_a_fault_of_the_writer_is_more_than_quantization_and_is_refused(tmp_path, monkeypatch, fault):
    model, file = Model(path=str(write_family("llama", tmp_path / "model"))), tmp_path / "model.gguf"
    fault(monkeypatch)
    write_gguf(model, file, "q8_0", name="tiny")
    monkeypatch.undo()
    with pytest.raises(UserError, match="does not compute what its quantized weights do"):
        check_gguf_file(model, file, "q8_0", TEXTS * 4)


def test_a_file_that_fails_its_check_is_not_left(tiny, tmp_path, monkeypatch):
    rows_exchanged(monkeypatch)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(TEXTS * 8))
    with pytest.raises(UserError, match="does not compute what its quantized weights do"):
        export_gguf(Source.open(tiny), tmp_path / "out", "f16", check=True, text=text)
    assert not list(tmp_path.glob("out*"))


def family(name):
    return lambda folder: set_in_json(folder / "config.json", model_type=name, architectures=[f"{name}ForCausalLM"])


def scaled(folder):
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    set_in_json(folder / "config.json", rope_parameters=rope)


def odd_split(folder):
    set_in_json(folder / "tokenizer.json", pre_tokenizer={"type": "Whitespace"})


def byte_fallback(folder):
    set_in_json(folder / "tokenizer.json", ("model", "byte_fallback"), value=True)


@pytest.mark.parametrize(
    "change,quantization,message",
    [
        (None, "q4_k_m", r"no quantization 'q4_k_m'.*\n.*llama-quantize"),
        (family("gpt_neox"), "f16", "family gpt_neox"),
        (scaled, "f16", r"scaled \(linear\)"),
        (odd_split, "f16", "text is split by Whitespace"),
        (byte_fallback, "f16", "BPE with byte fallback"),
    ],
)
def test_what_is_not_handled_is_refused_by_name(tiny, tmp_path, change, quantization, message):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    if change:
        change(folder)
    with pytest.raises(UserError, match=message):
        write_gguf(Model(path=str(folder)), tmp_path / "model.gguf", quantization, name="tiny")


def test_biases_that_no_reader_gives_back_are_refused(tmp_path):
    model = Model(path=str(write_family("llama-biased", tmp_path / "model")))
    with pytest.raises(UserError, match="biases"):
        write_gguf(model, tmp_path / "model.gguf", "f16", name="tiny")


DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}" + CHATML
)
LLAMA_3 = (
    "<bos>{% for m in messages %}<|h|>{{ m.role }}<|/h|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|h|>assistant<|/h|>\n\n{% endif %}"
)
LOUD = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
LAST_ONLY = "{{ messages[-1].content }}{% if add_generation_prompt %}A:{% endif %}"


@pytest.mark.parametrize("template", [CHATML, DEFAULT_SYSTEM, LLAMA_3])
def test_the_modelfile_says_what_the_chat_template_says(tiny, template):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = template
    chat, problem = find_chat_format(tokenizer)
    assert chat is not None, problem
    messages = [{"role": "system", "content": "x y"}, {"role": "user", "content": "q"}]
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat.render(messages) == expected
    assert go(chat.as_go_template(), system="x y", user="q") == expected


def go(template, *, system, user):
    """What Go makes of the few constructs that we write, for one user message."""
    first, rest = template.split("{{ if .System }}")[0], template.split("{{ if .System }}")[1]
    with_system, rest = rest.split("{{ else }}", 1)
    rest = rest.split("{{ end }}", 1)[1].removeprefix("{{ range .Messages }}")
    turn, answer = rest.split("{{ end }}{{ end }}")
    turn = turn.split('{{ else if eq .Role "assistant" }}')[0].removeprefix('{{ if eq .Role "user" }}')
    return first + with_system.replace("{{ .System }}", system) + turn.replace("{{ .Content }}", user) + answer


@pytest.mark.parametrize("template", [LOUD, LAST_ONLY, "{{ raise_exception('no') }}", "{{ '{{ x }}' }}" + CHATML])
def test_a_template_that_cannot_be_said_is_not_guessed(tiny, tmp_path, template):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "chat_template.jinja").write_text(template)
    text, said = write_modelfile(Model(path=str(folder)), "x.gguf", adds_bos=False)
    assert "TEMPLATE" not in text and said.startswith("warning")


@pytest.mark.parametrize("is_token", [True, False])
@pytest.mark.parametrize("template", [CHATML, LOUD.replace("}}", "}}<|im_end|>")])
def test_what_ends_an_answer_in_the_template_stops_generation(tiny, tmp_path, template, is_token):
    """EOS is another token: without this, llama.cpp and Ollama would not stop after an answer."""
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    if is_token:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im", "<|im_end|>"]})
    tokenizer.save_pretrained(folder)
    model = Model(path=str(folder))
    text, _ = write_modelfile(model, "x.gguf", adds_bos=False)
    expected = ["<eos>", "<|im_end|>"] if is_token or template == CHATML else ["<eos>"]
    assert [line for line in text.splitlines() if "stop" in line] == [f'PARAMETER stop "{one}"' for one in expected]
    written = write_gguf(model, tmp_path / "x.gguf", "f16", name="tiny")
    assert written.eot_id == (tokenizer.convert_tokens_to_ids("<|im_end|>") if is_token else None)
    assert check_gguf_file(model, tmp_path / "x.gguf", "f16", TEXTS).difference < 1e-5
    field = GGUFReader(tmp_path / "x.gguf").fields.get("tokenizer.ggml.eot_token_id")
    assert (None if field is None else int(field.contents())) == written.eot_id


def test_without_a_chat_template_text_is_continued(tiny):
    text, _ = write_modelfile(Model(path=str(tiny)), "x.gguf", adds_bos=False)
    assert text == 'FROM ./x.gguf\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER stop "<eos>"\n'


def test_a_model_without_a_run_needs_text_for_the_check(tiny, tmp_path):
    with pytest.raises(UserError, match="--text"):
        export_gguf(Source.open(tiny), tmp_path / "out", "f16", check=True, text=None)
    result = export_gguf(Source.open(tiny), tmp_path / "out", "f16", check=False, text=None)
    assert "warning: not checked" in result.sentences[-1]
    assert sorted(path.name for path in Path(tmp_path / "out").iterdir()) == ["Modelfile", "model-f16.gguf"]
    assert torch.get_default_dtype() == torch.float32

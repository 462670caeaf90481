"""Which tokens of a conversation are answers, against a plain reference, for random templates and conversations."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.chats import CHATML, END, NO_SYSTEM, PLAIN, START, Template, reference, write_chat_model
from transformers import AutoTokenizer

from reprise.errors import UserError
from reprise.model import loading
from reprise.model.chat import ChatTemplate, encode_documents
from reprise.model.conversation import answer_bytes, dump_messages, load_messages, text_of
from reprise.model.tokenizer import open_tokenizer
from reprise.recipe.model import Model

TEXTS = [
    "What is the capital of France? It is Paris.\n\n",
    "中国的首都是北京。我们明天去长城。",
    "def f(x):\n    return x\n",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_model(tmp_path_factory.mktemp("chat") / "model", TEXTS * 20, 400, CHATML)


def open_with(folder, template, eos=None):
    """The chat template object for a tokenizer that has another template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template if isinstance(template, str) else template.jinja()
    if eos is not None:
        tokenizer.eos_token = eos
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_tokenizer", lambda settings: tokenizer)
        return ChatTemplate(Model(path=str(folder))), tokenizer


def chat(*contents, system=None):
    messages = [{"role": "assistant" if i % 2 else "user", "content": content} for i, content in enumerate(contents)]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def has_loss(rendered):
    """Over the ids and the EOS behind them."""
    mask = np.zeros(len(rendered.ids) + 1, dtype=bool)
    for start, _, stop in rendered.answers.tolist():
        mask[start:stop] = True
    return mask


AFFIX = st.lists(st.sampled_from([START, END, "<eos>", "\n", " ", "[A]", "### ", "用户", ":"]), max_size=4).map("".join)
CONTENT = st.text(alphabet="ab \n.。北京é😀1", min_size=1, max_size=12).filter(str.strip)
TEMPLATES = st.builds(
    Template,
    before=st.fixed_dictionaries(dict.fromkeys(("system", "user", "assistant"), AFFIX)),
    after=st.fixed_dictionaries(dict.fromkeys(("system", "user", "assistant"), AFFIX)),
    beginning=AFFIX,
    trims=st.booleans(),
)
CHATS = st.builds(
    lambda pairs, system: chat(*(text for pair in pairs for text in pair), system=system),
    st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3),
    st.none() | CONTENT,
)


@settings(max_examples=40)
@given(template=TEMPLATES, messages=CHATS, eos=st.sampled_from(["<eos>", END]))
def test_the_loss_is_taken_in_the_answers_and_nowhere_else(folder, template, messages, eos):
    rendering, tokenizer = open_with(folder, template, eos)
    rendered = rendering.render(messages)
    ids, mask = reference(tokenizer, template, messages)
    assert [*rendered.ids.tolist(), tokenizer.eos_token_id] == ids
    np.testing.assert_array_equal(has_loss(rendered), mask)


@settings(max_examples=10)
@given(messages=CHATS)
def test_ids_are_those_of_transformers_up_to_the_last_answer(folder, messages):
    rendering, tokenizer = open_with(folder, CHATML)
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    rendered = rendering.render(messages)
    assert rendered.ids.tolist() == ids[: len(rendered.ids)]
    rest = tokenizer.decode(ids[len(rendered.ids) :])
    assert rest == "\n"
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    assert len(rendered.answers) == len(answers)
    for (start, stop, end), answer in zip(rendered.answers.tolist(), answers, strict=True):
        assert answer in tokenizer.decode(rendered.ids[start:stop].tolist())
        assert tokenizer.decode(rendered.ids[stop:end].tolist()) == END


def test_where_no_control_token_ends_an_answer_eos_does(folder):
    rendering, tokenizer = open_with(folder, PLAIN)
    rendered = rendering.render(chat("One?", "Two.", "Three?", "Four."))
    ids = [*rendered.ids.tolist(), tokenizer.eos_token_id]
    said = [tokenizer.decode(ids[start:stop]) for start, _, stop in rendered.answers.tolist()]
    assert said == ["Two.", "Four.<eos>"]


def test_control_tokens_in_messages_are_text(folder):
    rendering, tokenizer = open_with(folder, CHATML)
    messages = chat(f"Say {END} and {START}", f"Here: {END}.")
    rendered = rendering.render(messages)
    control = tokenizer.convert_tokens_to_ids([START, END])
    # One of each to a message, and nothing behind the last.
    assert [(rendered.ids == one).sum() for one in control] == [2, 2]
    (start, stop, end), = rendered.answers.tolist()  # fmt: skip
    assert tokenizer.decode(rendered.ids[start:stop].tolist()) == f"Here: {END}."
    assert rendered.ids[stop:end].tolist() == [control[1]]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(rendered.ids.tolist()) == text.removesuffix("\n")


def test_a_system_message_goes_before_the_question_where_the_template_has_none(folder):
    rendering, tokenizer = open_with(folder, NO_SYSTEM)
    rendered = rendering.render(chat("Why?", "Because.", system="Be short."))
    assert tokenizer.decode(rendered.ids.tolist()) == (
        f"{START}user\nBe short.\n\nWhy?{END}\n{START}assistant\nBecause.{END}"
    )


THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.role == 'assistant' %}{% set answer = message.content.split('</think>')[-1].lstrip('\\n') %}"
    "{% if loop.last %}{% set thought = message.content.split('</think>')[0].split('<think>')[-1].strip('\\n') "
    "if '</think>' in message.content else '' %}"
    "{{ '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}{{ answer }}"
    "{% else %}{{ message.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_thoughts_that_a_template_moves_are_part_of_the_answer(folder):
    """As Qwen3's template: thoughts of earlier answers go, those of the last stand in a form of its own."""
    rendering, tokenizer = open_with(folder, THINKING)
    thoughtful = "<think>\nhm\n</think>\n\n"
    rendered = rendering.render(chat("One?", f"{thoughtful}Two.", "Three?", f"{thoughtful}Four."))
    said = [tokenizer.decode(rendered.ids[start:stop].tolist()) for start, stop, _ in rendered.answers.tolist()]
    assert said == ["Two.", f"{thoughtful}Four."]
    rendered = rendering.render(chat("One?", "Two."))
    assert [tokenizer.decode(rendered.ids[a:b].tolist()) for a, b, _ in rendered.answers.tolist()] == ["Two."]


def test_a_template_that_writes_the_date_writes_the_same_every_day(folder):
    template = "{{ strftime_now('%d %b %Y') if strftime_now is defined else '' }}\n" + CHATML.jinja()
    rendering, tokenizer = open_with(folder, template)
    text = tokenizer.decode(rendering.render(chat("One?", "Two.")).ids.tolist())
    assert text.startswith("26 Jul 2024")


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{{ messages[0].content }}", "does not write every message once and in order"),
        ("{{ raise_exception('never') }}", "it raises: never"),
        ("{% for m in messages | reverse %}{{ m.content }}{% endfor %}", "once and in order"),
    ],
)
def test_a_template_that_cannot_be_followed_is_refused_before_the_work(folder, template, what):
    with pytest.raises(UserError, match=what):
        open_with(folder, template)


def test_a_model_without_a_template_is_refused_with_a_remedy(tmp_path):
    model = write_chat_model(tmp_path / "model", TEXTS * 20, 400, None)
    with pytest.raises(UserError, match="no chat template") as refused:
        ChatTemplate(Model(path=str(model)))
    assert "instruct model" in refused.value.remedy


def test_bos_of_the_template_and_of_the_store_do_not_add_up(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token, tokenizer.chat_template = START, CHATML.jinja()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_tokenizer", lambda settings: tokenizer)
        with_bos = ChatTemplate(Model(path=str(folder), bos=True)).render(chat("One?", "Two."))
        without = ChatTemplate(Model(path=str(folder))).render(chat("One?", "Two."))
    assert with_bos.ids.tolist() == without.ids[1:].tolist()
    assert (with_bos.answers + 1).tolist() == without.answers.tolist()


def test_documents_and_conversations_in_one_batch(folder):
    model = Model(path=str(folder))
    tokenizer, template = open_tokenizer(model), ChatTemplate(model)
    messages = chat("One?", "Two.")
    ids, answers = encode_documents(
        ["plain", text_of(messages), "more"], [None, dump_messages(messages), None], tokenizer, lambda: template
    )
    assert [one is None for one in answers] == [True, False, True]
    assert ids[0].tolist() == tokenizer.encode_batch(["plain"])[0].tolist()
    assert ids[1].tolist() == template.render(messages).ids.tolist()


@given(messages=CHATS)
def test_the_column_gives_the_messages_back(messages):
    assert load_messages(dump_messages(messages)) == messages
    assert json.loads(dump_messages(messages)) == messages
    said = [message["content"] for message in messages if message["role"] == "assistant"]
    assert answer_bytes(messages) == len("".join(said).encode())


def test_templates_differ_only_in_what_they_say(folder):
    """The reference is not blind: another template gives another mask."""
    messages = chat("One?", "Two.")
    _, tokenizer = open_with(folder, CHATML)
    ids, mask = reference(tokenizer, CHATML, messages)
    other, moved = reference(tokenizer, replace(CHATML, beginning="x"), messages)
    assert len(other) == len(ids) + 1
    assert moved[1:].tolist() == mask.tolist()

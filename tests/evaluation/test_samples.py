import torch

from reprise.evaluation.heldout import Text, encode
from reprise.evaluation.samples import PROMPT_BYTES, choose_prompts, compare_samples, write_samples
from reprise.model.loading import load_model, load_tokenizer
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.model import Model

ENGLISH = [
    Text(f"Document number {i} tells of rivers, of bridges and of the people there. " * 6, "en", "web")
    for i in range(9)
]
CHINESE = [Text(f"第{i}篇文章讲的是河流和桥梁，也讲住在那里的人们。" * 9, "zh", "web") for i in range(9)]


def test_prompts_are_beginnings_of_the_same_documents_whatever_their_order() -> None:
    settings = Evaluation(samples_per_language=3)
    chosen = choose_prompts([*ENGLISH, *CHINESE], settings)
    assert chosen == choose_prompts([*reversed(CHINESE), *reversed(ENGLISH), *ENGLISH], settings)
    assert [language for language, _ in chosen] == ["en"] * 3 + ["zh"] * 3
    for language, prompt in chosen:
        (source,) = [t.text for t in [*ENGLISH, *CHINESE] if t.text.startswith(prompt)]
        assert 60 < len(prompt.encode()) <= PROMPT_BYTES
        assert language == "zh" or source[len(prompt)] == " "  # cut at the end of a word


def test_a_short_document_keeps_half_of_itself_unsaid() -> None:
    ((_, prompt),) = choose_prompts([Text("abcdefghij", "en", "web")], Evaluation())
    assert prompt == "abcde"


def test_the_users_prompts_come_in_the_place_of_documents() -> None:
    settings = Evaluation(samples_per_language=1, sample_prompts={"zh": ["从前", "今天"]})
    assert [language for language, _ in choose_prompts([*ENGLISH, *CHINESE], settings)] == ["zh", "zh", "en"]


def test_a_batch_writes_what_each_prompt_writes_alone(tiny_model, tmp_path) -> None:
    model = Model(path=str(tiny_model))
    settings = Evaluation(sample_tokens=12, dtype="float32")
    prompts = ["a", "The river", "桥梁和人们", "One two three four five six"]
    written = write_samples(model, prompts, settings, fingerprint="f", cache=tmp_path, what="samples")
    network, tokenizer = load_model(model), load_tokenizer(model)
    for prompt, text in zip(prompts, written, strict=True):
        ids = torch.from_numpy(encode(tokenizer, [prompt])[0])[None]
        start = ids.shape[1]
        for _ in range(12):
            best = network(input_ids=ids).logits[0, -1].argmax()
            ids = torch.cat([ids, best[None, None]], dim=1)
            if best == tokenizer.eos_token_id:
                break
        assert text == tokenizer.decode(ids[0, start:], skip_special_tokens=True)


def test_an_answer_is_taken_from_the_cache(tiny_model, tmp_path) -> None:
    model, settings = Model(path=str(tiny_model)), Evaluation(sample_tokens=4)
    first = write_samples(model, ["a"], settings, fingerprint="f", cache=tmp_path, what="samples")
    gone = Model(path=str(tmp_path / "gone"))
    assert write_samples(gone, ["a"], settings, fingerprint="f", cache=tmp_path, what="samples") == first


def test_no_tokens_no_model(tmp_path) -> None:
    gone, settings = Model(path=str(tmp_path / "gone")), Evaluation(sample_tokens=0)
    assert write_samples(gone, ["a"], settings, fingerprint="f", cache=tmp_path, what="samples") == [""]


def test_samples_are_side_by_side() -> None:
    found = compare_samples([("zh", "从前")], ["old"], ["new"])
    assert found == [{"language": "zh", "prompt": "从前", "before": "old", "after": "new"}]

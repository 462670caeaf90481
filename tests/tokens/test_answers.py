"""Where the loss is taken in conversations: through the store, the rows and the labels; and stores without any."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokens.stores import EOS, build_store, document, number_tokenizer, random_documents

from reprise.errors import UserError
from reprise.mixture.batch import NO_LOSS
from reprise.mixture.sampler import Sampler
from reprise.model.chat import Rendered
from reprise.model.conversation import answer_bytes, dump_messages
from reprise.recipe.mixture import Stage
from reprise.recipe.tokens import Rows
from reprise.storage import digest
from reprise.tokens import builder
from reprise.tokens.builder import StoreBuilder
from reprise.tokens.store import TokenStore


class NumberTemplate:
    """A question is its numbers, an answer is 9, its numbers and 8, which ends it; the last 8 is left to the EOS where
    `ends_by_eos`."""

    def __init__(self, ends_by_eos=False):
        self.ends_by_eos = ends_by_eos

    def render(self, messages):
        ids, answers = [], []
        for message in messages:
            numbers = [int(word) for word in message["content"].split()]
            if message["role"] == "user":
                ids += numbers
                continue
            ids.append(9)
            answers.append([len(ids), len(ids) + len(numbers), len(ids) + len(numbers) + 1])
            ids += [*numbers, 8]
        return Rendered(np.array(ids[:-1] if self.ends_by_eos else ids, dtype=np.uint32), np.array(answers, np.int32))


def conversation(id, contents, **more):
    messages = [
        {"role": "assistant" if i % 2 else "user", "content": " ".join(map(str, numbers))}
        for i, numbers in enumerate(contents)
    ]
    return {**document(id, [n for numbers in contents for n in numbers], **more), "messages": dump_messages(messages)}


def loss_of(contents, ends_by_eos):
    """Ids and whether each has a loss, written out."""
    ids, mask = [], []
    for index, numbers in enumerate(contents):
        if index % 2:
            ids += [9, *numbers, 8]
            mask += [False, *[True] * len(numbers), True]
        else:
            ids += numbers
            mask += [False] * len(numbers)
    if ends_by_eos:
        return [*ids[:-1], EOS], mask
    return [*ids, EOS], [*mask, False]


NUMBERS = st.lists(st.integers(10, 500), min_size=1, max_size=6)
CONTENTS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=3).map(
    lambda pairs: [x for p in pairs for x in p]
)
DOCUMENTS = st.lists(CONTENTS | NUMBERS.map(lambda numbers: [numbers]), min_size=1, max_size=12)


def make_store(root, contents, *, bos_id=None, ends_by_eos=False, **more):
    made = StoreBuilder(root, number_tokenizer(bos_id=bos_id), (), NumberTemplate(ends_by_eos))
    for number, one in enumerate(contents):
        name = f"d{(number * 7) % 100:03d}"
        made.add([conversation(name, one, **more) if len(one) > 1 else document(name, one[0], **more)])
    return made.finish()


@settings(max_examples=60)
@given(contents=DOCUMENTS, bos_id=st.none() | st.just(0), ends_by_eos=st.booleans(), held=st.sampled_from([1, 10**6]))
def test_the_store_keeps_the_answers_of_each_document(tmp_path_factory, contents, bos_id, ends_by_eos, held):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "HELD_BYTES", held)  # many runs, and many ranges of a merge
        store = make_store(tmp_path_factory.mktemp("store"), contents, bos_id=bos_id, ends_by_eos=ends_by_eos)
    bucket = store.train[next(iter(store.train))]
    by_id = {f"d{(number * 7) % 100:03d}": one for number, one in enumerate(contents)}
    for index, name in enumerate(bucket.doc_ids):
        ids = bucket.tokens[bucket.offsets[index] : bucket.offsets[index + 1]].tolist()
        answers, one = bucket.answers(index), by_id[name]
        if len(one) == 1:
            assert not len(answers)
            continue
        expected, mask = loss_of(one, ends_by_eos)
        if bos_id is not None:
            expected, mask = [bos_id, *expected], [False, *mask]
        assert ids == expected
        own = np.zeros(len(ids), dtype=bool)
        for start, text_stop, stop in answers.tolist():
            own[start:stop] = True
            assert stop - text_stop == 1
        assert own.tolist() == mask
        said = [" ".join(map(str, numbers)) for numbers in one[1::2]]
        assert bucket.num_bytes[index] == sum(map(len, said))
    chats = [one for one in contents if len(one) > 1]
    assert bucket.num_conversations == len(chats)
    assert bucket.answer_tokens == sum(sum(loss_of(one, ends_by_eos)[1]) for one in chats)
    store.verify()


STAGE = {"name": "one", "tokens": 64, "schedule": {"peak_lr": 1e-3}, "max_epochs": 64.0}


@settings(max_examples=60)
@given(
    contents=DOCUMENTS,
    packing=st.sampled_from(["concat", "best_fit"]),
    document_mask=st.booleans(),
    loss=st.sampled_from(["answers", "all"]),
    seq_len=st.sampled_from([8, 13]),
)
def test_labels_are_the_answers_in_rows_of_any_kind(tmp_path_factory, contents, packing, document_mask, loss, seq_len):
    store = make_store(tmp_path_factory.mktemp("store"), contents, source="chat")
    stage = Stage(**STAGE, mixture={"en": {"share": 1.0, "sources": {"chat": 1.0}}})
    rows = Rows(seq_len=seq_len, packing=packing, document_mask=document_mask, conversation_loss=loss)
    sampler = Sampler(store, stage, rows, 0)
    bucket = store.train[next(iter(store.train))]
    by_id = {f"d{(number * 7) % 100:03d}": one for number, one in enumerate(contents)}
    masks = []
    for name in bucket.doc_ids:
        one = by_id[name]
        masks.append(loss_of(one, False)[1] if len(one) > 1 and loss == "answers" else None)
    for _ in range(3):
        batch = sampler.next_batch(2)
        for row, pieces in enumerate(batch.pieces):
            expected = np.full(seq_len, NO_LOSS)
            at = 0
            for piece in pieces:
                for offset in range(piece.length):
                    mask = masks[piece.document]
                    counts = mask is None or mask[piece.start + offset]
                    if counts and not (document_mask and offset == 0):
                        expected[at + offset] = batch.ids[row, at + offset]
                at += piece.length
            if document_mask:
                expected[0] = NO_LOSS
            assert batch.labels[row].tolist() == expected.tolist()


BUCKETS_WITHOUT_CONVERSATIONS = "a4c02a21cadd1b1b39dc72c6a801b7f8"
"""Digest of the buckets, with the checksums of all files, as the version before conversations wrote them."""


def test_a_store_without_conversations_is_the_same_but_for_its_version(tmp_path):
    documents = [
        *random_documents(1, 40, 30, "a"),
        *random_documents(2, 30, 12, "b", lang="zh", topic="Law", split="valid"),
    ]
    store = build_store(tmp_path, documents)
    description = json.loads((tmp_path / "store.json").read_text(encoding="utf-8"))
    assert digest(description["buckets"]) == BUCKETS_WITHOUT_CONVERSATIONS
    assert set(description) == {
        "version", "fingerprint", "dtype", "vocab_size", "highest_id", "tokenizer", "eos_id", "bos_id", "buckets",
    }  # fmt: skip
    stage = Stage(**STAGE, mixture={"en": {"share": 1.0, "sources": {"web": 1.0}}})
    batch = Sampler(store, stage, Rows(seq_len=16), 0).next_batch(4)
    assert batch.no_loss is None
    assert (batch.labels == batch.ids).all()


def test_damaged_answers_are_noticed(tmp_path):
    make_store(tmp_path, [[[11, 12], [13, 14]]])
    file = next(tmp_path.rglob("answers.npy"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(UserError, match="was changed"):
        TokenStore.open(tmp_path).verify()
    file.write_bytes(bytes(data[:-4]))
    with pytest.raises(UserError, match="was cut or changed"):
        TokenStore.open(tmp_path)


def test_bytes_of_answers():
    assert answer_bytes([{"role": "user", "content": "äää"}, {"role": "assistant", "content": "ä"}]) == 2

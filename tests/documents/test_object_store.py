"""Reading from object stores and the Hub, played by a server on this machine."""

import datetime

import pytest
from tests.buckets import open_bucket
from tests.documents.test_read import run

from reprise import object_store
from reprise.errors import UserError
from reprise.recipe.documents import Input


@pytest.fixture(scope="module")
def store():
    """One for all tests: Daft keeps its client, and with it the address."""
    with open_bucket() as bucket, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", bucket.endpoint)
        patch.setenv("HF_ENDPOINT", bucket.endpoint)
        yield


@pytest.mark.parametrize("inside", ["corpus", "corpus/zh/*", "corpus/zh/a.jsonl", "corpus/**/*.jsonl*"])
@pytest.mark.parametrize("root", ["s3://bucket", "gs://bucket", "hf://datasets/user/data"])
def test_folders_globs_and_files(store, make_work, root, inside):
    given = Input(path=f"{root}/{inside}", constants={"source": "web", "lang": "en"})
    rows, rejects = run(make_work("read"), given)
    count = 5 if inside.endswith("a.jsonl") else 9
    assert [row["text"] for row in rows] == [f"Document number {number}." for number in range(count)]
    assert rows[0]["origin"] == f"{root}/corpus/zh/a.jsonl:1"
    assert [reject["line"] for reject in rejects] == ([] if count == 5 else [5])


@pytest.mark.parametrize("root", ["s3://bucket", "gs://bucket", "hf://datasets/user/data"])
def test_parquet(store, make_work, root):
    rows, _ = run(make_work("read"), Input(path=f"{root}/tables/a.parquet", constants={"source": "web", "lang": "en"}))
    assert [row["text"] for row in rows] == [f"Row number {number}." for number in range(3)]


MISSING = """
    s3://bucket/nothing/*.jsonl s3://other/corpus gs://bucket/nothing gs://bucket/nothing/a.jsonl gs://other/corpus
    hf://datasets/user/data/nothing hf://datasets/user/data/nothing/a.jsonl hf://datasets/user/data/nothing/*.jsonl
    hf://datasets/user/other
"""


@pytest.mark.parametrize("url", MISSING.split())
def test_what_is_not_there_is_explained(store, make_work, url):
    with pytest.raises(UserError, match=r"no file matches|cannot be listed|no readable file") as error:
        run(make_work("read"), Input(path=url, constants={"source": "web"}))
    assert url in error.value.where


@pytest.mark.parametrize("inside", ["corpus", "corpus/*.jsonl", "corpus/a.jsonl"])
def test_a_store_that_cannot_be_reached_is_not_an_empty_one(store, make_work, monkeypatch, inside):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:9")
    monkeypatch.setattr(object_store, "RETRY", datetime.timedelta(seconds=1))
    with pytest.raises(UserError, match="cannot be listed"):
        run(make_work("read"), Input(path=f"gs://bucket/{inside}", constants={"source": "web"}))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize("root", ["s3://bucket", "gs://bucket", "hf://datasets/user/data"])
def test_what_may_not_be_read_is_explained(store, make_work, root, name):
    with pytest.raises(UserError, match=r"cannot be (listed|opened|read)") as error:
        run(make_work("read"), Input(path=f"{root}/secret/{name}", constants={"source": "web"}))
    assert f"{root}/secret/{name}" in error.value.where

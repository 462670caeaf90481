"""Passwords and signatures in addresses are refused, and not repeated."""

import pytest

from reprise.errors import UserError
from reprise.recipe.documents import Input
from reprise.recipe.fields import holds_credentials
from reprise.recipe.loading import check

SECRET = "hunter2"


@pytest.mark.parametrize(
    "address",
    [
        f"https://user:{SECRET}@host/a.jsonl",
        f"https://{SECRET}@host/a.jsonl",
        f"s3://AKIA:{SECRET}@bucket/a.jsonl",
        f"https://bucket.s3.amazonaws.com/a.jsonl?X-Amz-Algorithm=x&X-Amz-Signature={SECRET}",
        f"https://account.blob.core.windows.net/c/a.jsonl?sv=2023&sig={SECRET}",
        f"https://storage.googleapis.com/b/a.jsonl?GoogleAccessId=x&Expires=1&Signature={SECRET}",
        f"https://host/a.jsonl?token={SECRET}",
        f"https://host/a.jsonl?api_key={SECRET}&x=1",
        f"https://host/a.jsonl?access_token={SECRET}",
        f"https://[half/{SECRET}",
    ],
)
def test_an_address_with_credentials_is_refused_without_repeating_it(address):
    with pytest.raises(UserError) as caught:
        check(Input, {"path": address}, "my.yaml")
    assert SECRET not in str(caught.value) and "path" in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "data/*.jsonl",
        "a@b/c?.jsonl",
        "hf://datasets/u/n@main/*.parquet",
        "s3://bucket/a.jsonl",
        "https://host/a?page=2",
    ],
)
def test_other_addresses_are_taken(path):
    assert check(Input, {"path": path}, "my.yaml").path == path


def test_a_revision_of_the_hub_is_no_password():
    assert not holds_credentials("hf://datasets/user/name@revision/file.jsonl")

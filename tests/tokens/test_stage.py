"""Stage `tokenize`."""

from pathlib import Path

import numpy as np
import pytest
from tests.model.test_tokenizer import TEXT, save_model

from reprise.documents.table import write_part
from reprise.model.tokenizer import open_tokenizer
from reprise.recipe.model import Model
from reprise.recipe.tokens import Tokens
from reprise.tokens.stage import run
from reprise.tokens.store import BucketKey, TokenStore
from reprise.workspace import Work


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return save_model(tmp_path_factory.mktemp("model"), eos_token="<|end|>", bos_token="<|begin|>")


def test_stage_reads_both_inputs_and_counts(model: Model, tmp_path: Path) -> None:
    def row(id: str, text: str, **fields: object) -> dict[str, object]:
        return {"id": id, "text": text, "lang": "en", "source": "web", "split": "train", "origin": "f:1", **fields}

    scored = [row(str(i), TEXT[i % 3], topic="Law", ppl=float(i)) for i in range(10)]
    write_part(tmp_path / "score" / "documents" / "part-00000.parquet", scored)
    made = [row("q", TEXT[0], source="synthetic")]
    write_part(tmp_path / "synthesize" / "documents" / "part-00000.parquet", made)
    output = tmp_path / "out"
    output.mkdir()
    inputs = {name: tmp_path / name for name in ("score", "synthesize")}
    work = Work(output=output, inputs=inputs, cache=tmp_path / "cache")
    run(work, model=model.model_copy(update={"bos": True}), tokens=Tokens(), split_sources=["web"])
    store = TokenStore.open(output)
    assert set(store.train) == {BucketKey("en", "web", "Law"), BucketKey("en", "synthetic", None)}
    assert work.counts["documents"] == 11
    synthetic = store.train[BucketKey("en", "synthetic", None)]
    reference = open_tokenizer(model, "tokenizers").encode_batch([TEXT[0]])[0]
    assert synthetic.tokens.tolist() == [store.bos_id, *reference, store.eos_id]
    assert np.isnan(synthetic.ppl).all()
    assert not list(output.glob("spool*"))

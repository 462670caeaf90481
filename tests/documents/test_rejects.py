from reprise.documents.clean import stage as clean
from reprise.documents.read import stage as read
from reprise.documents.rejects import read_rejects
from reprise.recipe.documents import Clean, Input


def test_what_was_not_kept_can_be_read_back(make_work, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "short"}\nbroken\n{"text": "' + "long enough " * 20 + '"}\n', encoding="utf-8")
    work = make_work("read")
    entry = Input(path=str(path), constants={"lang": "en", "source": "book"})
    read.run(work, inputs=[entry], engine="native", valid_share=0.0, max_reject_share=1.0)
    clean.run(make_work("clean", read=work.output), clean=Clean(), engine="native")
    root = work.output.parent
    entries = list(read_rejects(root))
    assert [(e["stage"], e["reason"], e["origin"], e["text"]) for e in entries] == [
        ("read", "not_json", f"{path}:2", "broken"),
        ("clean", "too_short", f"{path}:1", "short"),
    ]
    assert list(read_rejects(root, stage="clean")) == entries[1:]
    assert list(read_rejects(root, reason="not_json")) == entries[:1]
    assert list(read_rejects(tmp_path / "nowhere")) == []

"""`reprise annotate` on a run: from files to labels that the recipe takes, and the agreement of two people."""

import json

from typer.testing import CliRunner

from reprise.cli import app


def annotate(*arguments, keys=""):
    return CliRunner().invoke(app, ["annotate", *map(str, arguments)], input=keys)


def test_two_people_label_a_run(tmp_path, recipe_data, write_recipe):
    texts = [f"{word} " * 40 + f"number {n}." for n in range(10) for word in ("Gerichtshof", "Krankenhaus", "Garten")]
    lines = [{"text": text, "lang": "de", "source": "web"} for text in texts]
    (tmp_path / "de.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    mixture = {"de": {"share": 1.0, "sources": {"web": 1.0}}}
    stage = {**recipe_data["stages"][0], "mixture": mixture, "curriculum": {}}
    recipe_data |= {"stages": [stage]}
    recipe_data["documents"] |= {
        "inputs": [{"path": str(tmp_path / "de.jsonl")}],
        "valid_share": 0.1,
        "clean": {"heuristics_sources": []},
        "deduplicate": {"enabled": False},
        "decontaminate": {"enabled": False},
    }
    recipe = write_recipe(recipe_data)
    first = tmp_path / "recipe.topics.jsonl"
    recipe_data["documents"]["topics"] = {"labelled": [{"path": str(first)}]}
    write_recipe(recipe_data)  # names the file that is to be made
    done = annotate(recipe, "--documents", 24, keys="5a" * 6 + "q")
    assert done.exit_code == 0, done.output
    assert "Law and Policy" in done.output  # German has no names of its own
    assert f"{first}: 12 labels (12 new)" in done.output
    done = annotate(recipe, "--documents", 24, keys="5" * 24)
    assert f"{first}: 24 labels (12 new)" in done.output
    assert "classifier (not fitted on these documents): 24 documents" in done.output
    second = tmp_path / "second.jsonl"
    done = annotate(recipe, "--file", second, "--against", first, keys="5" * 24)
    assert done.exit_code == 0, done.output
    assert f"in the recipe: `documents: {{topics: {{labelled: [{{path: {second}}}]}}}}`" in done.output
    found = json.loads(annotate(recipe, "--file", second, "--against", first, "--json").stdout)
    ours, theirs = ([json.loads(line) for line in path.read_text().splitlines()] for path in (second, first))
    assert [line["text"] for line in ours] == [line["text"] for line in theirs]
    agreed = found["agreement"]["annotator recipe.topics.jsonl"]
    assert agreed["documents"] == 24
    assert agreed["same"] == sum(a["topic"] == b["topic"] for a, b in zip(ours, theirs, strict=True)) / 24
    assert found["topics"]["de"][4] == "Law and Policy"
    assert found["new"] == 0 and not found["in_recipe"]


def test_what_cannot_be_labelled_is_said(recipe_data, write_recipe):
    recipe = write_recipe(recipe_data)
    for arguments, message in [
        (["stages.0.topics.sources=[]", "stages.1.topics.sources=[]"], "no document needs one"),
        (["--against", "nowhere.jsonl"], "cannot be read"),
        (["--language", "klingonisch"], "no language code"),
    ]:
        done = annotate(recipe, *arguments)
        assert done.exit_code != 0 and message in str(done.exception), arguments

"""What each stage of a run depends on."""

import json
import subprocess
import sys

import pytest

from reprise.recipe.loading import load_recipe
from reprise.stage_names import DROPPING_STAGES, REPORT, SYNTHESIZE, stage_names
from reprise.stages import stages
from reprise.storage import file_checksum


@pytest.mark.parametrize("vocabulary", [None, {}])
@pytest.mark.parametrize("synthesis", [False, True])
def test_the_list_of_names_is_that_of_the_stages(recipe_data, write_recipe, synthesis, vocabulary):
    recipe_data |= {"synthesis": {"enabled": synthesis}, "vocabulary": vocabulary}
    recipe = load_recipe(write_recipe(recipe_data))
    names = [stage.name for stage in stages(recipe)]
    assert names == [*stage_names(recipe), REPORT]
    expected = [name for name in DROPPING_STAGES if synthesis or name != SYNTHESIZE]
    assert [name for name in names if name in DROPPING_STAGES] == expected


@pytest.mark.parametrize("checked", [False, True])
def test_the_evaluation_depends_on_its_questions(recipe_data, write_recipe, tmp_path, checked):
    """Also where documents are not checked against them."""
    sciq = tmp_path / "sets" / "sciq"
    sciq.mkdir(parents=True)
    recipe_data["documents"]["decontaminate"] = {"enabled": checked}
    recipe_data["evaluation"] |= {"benchmarks": ["sciq", "arc-easy", "icl-probe"], "data": str(tmp_path / "sets")}
    recipe = load_recipe(write_recipe(recipe_data))

    def prints():
        return {
            stage.name: sorted((name, file_checksum(path)["xxh128"]) for name, path in stage.files().items())
            for stage in stages(recipe)
        }

    def write(name, answer):
        line = {"question": "What?", "choices": ["this", "that"], "answer": answer}
        (sciq / name).write_text(json.dumps(line) + "\n", encoding="utf-8")

    seen = []
    for name, answer in (("test.jsonl", "A"), ("test.jsonl", "B"), ("dev.jsonl", "A"), ("dev.jsonl", "B")):
        write(name, answer)
        seen.append(prints())
    assert len({str(found["evaluate"]) for found in seen}) == 4
    assert len({str(found["decontaminate"]) for found in seen}) == (4 if checked else 1)


def test_a_command_that_has_nothing_to_do_loads_neither_torch_nor_transformers():
    """They take several seconds, and a second run is to end in one."""
    code = "import reprise.cli, reprise.pipeline, sys; print({'torch', 'transformers', 'daft'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"

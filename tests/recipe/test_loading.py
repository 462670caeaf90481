from pathlib import Path

import pytest
import yaml

from reprise.errors import UserError
from reprise.recipe import load_recipe, presets, read_preset
from reprise.recipe.listing import list_settings
from reprise.recipe.loading import parse_recipe

SMALL = """
name: small
workspace: runs/small
model: {path: some/model}
stages:
  - name: one
    tokens: 2M
    mixture:
      zh: {share: 0.25, sources: {web: 1.0}}
      en: {share: 0.75, sources: {web: 0.5, book: 0.5}}
"""


def message(text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_recipe(text, overrides, where="small.yaml")
    return str(caught.value)


@pytest.mark.parametrize("name", presets())
def test_presets_pass_their_checks(name):
    assert parse_recipe(read_preset(name)).stages


def test_unknown_key_names_the_nearest():
    assert "unknown setting `model.pth` -- did you mean `path`?" in message(SMALL, "model.pth=3")
    assert "did you mean `tokens`?" in message(SMALL, "stages.0.token=3")
    assert "did you mean `share`?" in message(SMALL, "stages.0.mixture.zh.shares=0.25")
    assert "did you mean `order`?" in message(SMALL, "stages.0.curriculum.zh.ordr=ascending")


def test_overrides_by_dotted_name():
    recipe = parse_recipe(SMALL, ["stages.0.tokens=3k", "rows.seq_len=128", "training.optimizer.betas=[0.8, 0.9]"])
    assert (recipe.stages[0].tokens, recipe.rows.seq_len, recipe.training.optimizer.betas) == (3000, 128, (0.8, 0.9))


@pytest.mark.parametrize("override", ["rows.seq_len", "=3", "stages.7.tokens=1", "name.x=1", "stages.x=1", "name=["])
def test_bad_override_is_explained(override):
    assert override in message(SMALL, override)


def test_shares_that_do_not_sum_are_named():
    told = message(SMALL, "stages.0.mixture.zh.share=0.5")
    assert "must sum to 1 but sum to 1.25" in told
    assert "zh 0.5, en 0.75" in told
    assert "the shares of the sources must sum to 1" in message(SMALL, "stages.0.mixture.zh.sources.web=0.9")


def test_value_and_name_are_in_the_message():
    told = message(SMALL, "stages.0.tokens=2.5")
    assert "stages.0.tokens" in told
    assert "2.5" in told
    assert "small.yaml" in told
    assert "`training`: batch_rows (3) must be a multiple" in message(
        SMALL, "training.batch_rows=3", "training.micro_batch_rows=2"
    )


def test_file_mistakes(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is a folder"):
        load_recipe(tmp_path)
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(b"name: x\nworkspace: \xff\n")
    with pytest.raises(UserError, match=r"bad.yaml:2: the recipe is not UTF-8"):
        load_recipe(bad)
    bad.write_text("name: x\nworkspace: [\n")
    with pytest.raises(UserError, match=r"bad.yaml:\d+: not valid YAML"):
        load_recipe(bad)
    bad.write_text("- a\n")
    with pytest.raises(UserError, match="list of settings"):
        load_recipe(bad)


def test_resolved_recipe_reads_back_the_same():
    recipe = parse_recipe(read_preset("llama-3-syne"))
    again = parse_recipe(yaml.safe_dump(recipe.model_dump(mode="json"), allow_unicode=True))
    assert again == recipe


def test_every_setting_has_its_doc():
    undocumented = [
        line for line in list_settings().splitlines() if line.startswith("| `") and line.rstrip(" |").endswith("|")
    ]
    assert undocumented == []
    assert "| `seq_len` | `8192` | Tokens per row. |" in list_settings()


def test_only_documents_with_a_curriculum_are_scored():
    recipe = parse_recipe(read_preset("llama-3-syne"))
    assert recipe.curriculum_selects("zh", "web")
    assert not recipe.curriculum_selects("en", "web")
    assert not recipe.curriculum_selects("en", "synthetic")


def test_the_published_list_of_settings_is_current():
    published = Path(__file__).parents[2] / "docs" / "settings.md"
    assert published.read_text(encoding="utf-8").strip() == list_settings().strip(), "run: make docs"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nname: b\n", "`name` is given twice"),
        ("name: a\nmodel: {path: x, path: y}\n", "`path` is given twice"),
        ("name: " + "[" * 20_000, "deep"),
        ("a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [" + ", ".join([f"*{chr(97 + i)}"] * 9) + "]" for i in range(8)), "values"),
    ],
)  # fmt: skip
def test_yaml_that_hides_or_blows_up_settings_is_refused(text, said):
    with pytest.raises(UserError, match=said):
        parse_recipe(text)


@pytest.mark.parametrize(
    ("override", "setting"),
    [
        ("seed=-1", "seed"),
        ("training.optimizer.betas=[2,3]", "training.optimizer.betas"),
        ("training.optimizer.eps=-1", "training.optimizer.eps"),
        ("rows.seq_len=1000000000000", "rows.seq_len"),
        ("documents.deduplicate.permutations=100000000", "documents.deduplicate.permutations"),
        ("stages.0.tokens=1e999999999", "stages.0.tokens"),
        ("stages.0.topics.policy={floor: 0.6, cap: 0.5}", "stages.0.topics.policy"),
    ],
)
def test_a_number_out_of_range_is_refused_by_name(override, setting):
    with pytest.raises(UserError, match=setting.replace(".", r"\.")):
        parse_recipe(read_preset("demo"), [override])

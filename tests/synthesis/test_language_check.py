import json

from reprise.recipe.loading import parse_recipe
from reprise.synthesis.language_check import check_languages


def test_a_new_language_is_told_all_that_it_lacks_at_once(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "nuqneH", "lang": "tlh", "source": "web"}))
    recipe = parse_recipe(
        f"""
        {{name: n, workspace: w, model: {{path: m}}, documents: {{inputs: [{{path: {tmp_path}/a.jsonl}}]}},
         synthesis: {{enabled: true, requests: 5, languages: [tlh], kinds: {{problem: 0.5, question: 0.5}}}},
         stages: [{{name: s, tokens: 10, topics: {{sources: [web]}},
                   mixture: {{tlh: {{share: 1, sources: {{web: 1}}}}}}}}]}}
        """
    )
    findings = {finding.where.partition(" ")[0]: finding for finding in check_languages(recipe)}
    assert set(findings) == {"synthesis.prompts", "documents.topics.labelled", "documents.clean.heuristics.tlh"}
    assert "problem.tlh.yaml, question.tlh.yaml" in findings["synthesis.prompts"].what
    assert findings["synthesis.prompts"].severity == "error"
    assert recipe.synthesis.forms_of("tlh") == ["{question}\n\n{answer}"]


def test_a_known_language_lacks_nothing(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x", "lang": "tr", "source": "web", "topic": "Others"}))
    recipe = parse_recipe(
        f"""
        {{name: n, workspace: w, model: {{path: m}}, documents: {{inputs: [{{path: {tmp_path}/a.jsonl}}]}},
         stages: [{{name: s, tokens: 10, topics: {{sources: [web]}},
                   mixture: {{tur_Latn: {{share: 1, sources: {{web: 1}}}}}}}}]}}
        """
    )
    assert list(check_languages(recipe)) == []

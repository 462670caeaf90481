"""The schema files and docs/formats.md are those of the types."""

from pathlib import Path

import jsonschema
import pydantic
import pytest

from reprise.schemas import FORMATS, formats_page, shipped_schema

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
def test_shipped_schema_is_that_of_the_type_and_every_field_says_what_it_means(one):
    schema = shipped_schema(one.name)
    assert schema == one.schema(), "run `make docs`"
    jsonschema.Draft202012Validator.check_schema(schema)
    for name, part in {one.name: schema, **schema.get("$defs", {})}.items():
        for field, value in part.get("properties", {}).items():
            assert value.get("description"), f"{name}.{field} has no doc"
        assert part.get("additionalProperties") is False or "properties" not in part


def test_formats_page_is_printed_from_the_types():
    assert (ROOT / "docs" / "formats.md").read_text(encoding="utf-8") == formats_page(), "run `make docs`"


def test_unknown_missing_and_mistyped_fields_are_refused():
    (results,) = (one for one in FORMATS if one.name == "results")
    empty = {
        "headline": "",
        "verdicts": [],
        "untested": [],
        "bits_per_byte": [],
        "benchmarks": [],
        "samples": [],
        "settings": {},
        "fingerprints": {"before": "a", "after": "b"},
        "harness": None,
    }
    empty |= {"groups": {}, "absent": {}}
    results.check(empty)
    missing = {name: value for name, value in empty.items() if name != "headline"}
    for bad in (empty | {"extra": 1}, missing, empty | {"headline": 3}):
        with pytest.raises(pydantic.ValidationError):
            results.check(bad)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, shipped_schema("results"))

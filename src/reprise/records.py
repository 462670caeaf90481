"""Records that are stored in files: TypedDicts with a docstring under each field.

`reprise.schemas` turns them into JSON Schema files and into docs/formats.md, so the types, the files that a run writes
and their documentation stay in sync.
"""

from pydantic import ConfigDict, with_config

record = with_config(ConfigDict(use_attribute_docstrings=True, extra="forbid"))
"""Class decorator of a TypedDict (of `typing_extensions`, which pydantic needs before Python 3.12)."""

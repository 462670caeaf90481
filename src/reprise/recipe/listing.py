"""List every setting with its default and its one-line doc, read from the settings' classes."""

import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from reprise.recipe.recipe import Recipe


def list_settings() -> str:
    """The settings as Markdown: one table per section of the recipe."""
    parts: list[str] = []
    _section("", Recipe, parts)
    return "\n".join(parts)


def _section(prefix: str, model: type[BaseModel], parts: list[str]) -> None:
    title = f"`{prefix}`" if prefix else "The recipe"
    doc = (model.__doc__ or "").strip().splitlines()[0]
    parts += [f"## {title}", "", doc, "", "| setting | default | what it is |", "|---|---|---|"]
    inner = []
    for name, field in model.model_fields.items():
        section = _model_of(field.annotation)
        if section is not None:
            inner.append((f"{prefix}.{name}" if prefix else name, section, field))
            continue
        parts.append(f"| `{name}` | {_default(field)} | {_doc(field)} |")
    for path, section, field in inner:
        doc = _doc(field) or (section.__doc__ or "").splitlines()[0]
        parts.append(f"| `{path.rpartition('.')[2]}` | see below | {doc} |")
    parts.append("")
    for path, section, field in inner:
        many = typing.get_origin(field.annotation)
        _section(path + (".N" if many is list else ".NAME" if many is dict else ""), section, parts)


def _model_of(kind: Any) -> type[BaseModel] | None:
    """The section in a field's type, directly or in a list or mapping; None if there is none."""
    if typing.get_origin(kind) in (list, dict, typing.Union, types.UnionType):
        models = [_model_of(argument) for argument in typing.get_args(kind)]
        return next((model for model in models if model is not None), None)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None:
        return "null"
    text = str(value).replace("|", "\\|")
    return f"`{text}`" if len(text) <= 60 else f"`{text[:57]}...`"


def _doc(field: FieldInfo) -> str:
    return " ".join((field.description or "").split()).replace("|", "\\|")

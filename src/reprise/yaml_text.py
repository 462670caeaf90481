"""YAML with the booleans of YAML 1.2: only true and false, so `no` is Norwegian and `off` is a word.

PyYAML reads YAML 1.1, where `no`, `off` and `y` are booleans, `12:30` is 750, `010` is 8, `1e-4` is text and
2024-01-01 a date. Every YAML file is read and written here.
"""

import re
from typing import Any

import yaml

MAX_DEPTH = 50
"""Maximum depth of nested brackets."""

_NUMBER = r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)"
_RESOLVERS: tuple[tuple[str, str, str], ...] = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    ("float", rf"{_NUMBER}(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("merge", r"<<", "<"),
)
"""Tag, pattern, and possible first characters; the first match counts."""


class _Loader(yaml.SafeLoader):
    """YAML without tags; a duplicate key in a mapping is an error, instead of silently using the last."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  PyYAML's own way

    def fetch_flow_collection_start(self, token_class: type[yaml.Token]) -> None:
        super().fetch_flow_collection_start(token_class)
        if self.flow_level > MAX_DEPTH:  # for each bracket the scanner visits all open ones
            raise RecursionError

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    problem = f"the setting `{key.value}` is given twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Writes text so that both the loader above and PyYAML's own read it as text."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {  # noqa: RUF012
        first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


for _tag, _pattern, _first in _RESOLVERS:
    _resolver = (f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"))
    for _character in (*_first, *([""] if _tag == "null" else [])):
        _Loader.yaml_implicit_resolvers.setdefault(_character, []).append(_resolver)
        _Dumper.yaml_implicit_resolvers.setdefault(_character, []).append(_resolver)


_ODD_BREAKS = re.compile("[\\x85\\u2028\\u2029\\ufeff]")
"""Unicode line ends and the byte order mark, which PyYAML writes unescaped but reads as something else."""


def _represent_str(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _ODD_BREAKS.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_str)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node).replace("_", ""))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def read_yaml(text: str | bytes) -> Any:
    """Parse YAML text.

    Raises:
        yaml.YAMLError: it is not YAML, has a tag, or gives a key twice.
        RecursionError: it is nested too deeply.
        ValueError: it has a value that Python does not accept.
    """
    return yaml.load(text, _Loader)


def format_yaml(data: Any) -> str:
    """Format as YAML that is read back unchanged, with keys in order."""
    return yaml.dump(data, Dumper=_Dumper, allow_unicode=True, sort_keys=False)

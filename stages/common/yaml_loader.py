"""YAML as DVC reads it.

DVC follows YAML 1.2 and PyYAML follows YAML 1.1: for PyYAML alone, 2e-05 is text, 017 is 15 and
`on` is true. The loader here resolves numbers, booleans and null as DVC does, and refuses duplicate
keys.
"""

import re
from typing import Any

import yaml

_RESOLVERS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's name for its registry

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for k, key in enumerate(keys):
            if key in keys[:k]:
                mark = node.value[k][0].start_mark
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} occurs twice", problem_mark=mark
                )
        return super().construct_mapping(node, deep=deep)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    digits = str(loader.construct_scalar(node)).replace("_", "")
    prefix = digits.lstrip("+-")[:2]
    return int(digits, {"0b": 2, "0o": 8, "0x": 16}.get(prefix, 10))


for _name, (_pattern, _first_letters) in _RESOLVERS.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})$"), list(_first_letters)
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def load_yaml(text: str) -> Any:  # noqa: ANN401 - YAML may hold anything
    """Parse a YAML document.

    Raises:
        yaml.YAMLError: If it does not parse, or a mapping has a key twice.
    """
    return yaml.load(text, _Loader)

"""YAML whose scalars stay the text that was written, and references in it: what a text means, the type of its field says. Pure.

YAML by itself reads 007 as 7, 1e5 as a number, no as false and 1:30 as 90, before anybody knows which field it is for.
"""

import re
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from launch.errors import ConfigError

_MERGE = "tag:yaml.org,2002:merge"
_PLAIN_DEFAULT = re.compile(r"(\$\{oc\.env:[^,{}'\"\\]+,)\s*([^{}\[\]'\",\\]*?)\s*\}")
"""A reference to the environment whose default is written without quotes, where OmegaConf would read 1e5 as a number."""
_REFERENCE = re.compile(r"(\\*)\$\{")


class _TextLoader(yaml.SafeLoader):
    """Knows mappings, lists, anchors and merges (`<<`), but no numbers, dates, booleans or null, and refuses a key that is given twice."""

    yaml_implicit_resolvers = {"<": [(_MERGE, re.compile("<<"))]}  # noqa: RUF012  as the base class has it

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        return node.value if isinstance(node, yaml.ScalarNode) else super().construct_object(node, deep=deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(source: str | bytes) -> Any:
    """Dicts, lists and texts; "" for nothing. Raises yaml.YAMLError, also for what no recipe needs: tags, and nesting without an end."""
    try:
        tree = yaml.load(source, _TextLoader)
        return "" if tree is None else tree
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error


def resolved(tree: dict[Any, Any]) -> Any:
    """The tree with `${…}` replaced: a key of the recipe, or what OmegaConf's resolvers give. Raises ConfigError."""
    try:
        return OmegaConf.to_container(OmegaConf.create(_with_quoted_defaults(tree)), resolve=True)
    except GrammarParseError as error:
        raise ConfigError(f"{error.full_key}: not a ${{…}} reference: {one_line(error)}; fix it, or write \\${{ for these signs") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {one_line(error)}; fix the ${{…}} reference or set {error.full_key}=VALUE") from error
    except RecursionError as error:
        raise ConfigError("the recipe holds itself, or is nested too deeply; write it out") from error


def dump(tree: Any) -> str:
    """YAML that `parse_yaml` and `resolved` read as the same values."""
    return yaml.safe_dump(_escaped(tree), sort_keys=False, allow_unicode=True, width=1000)


def one_line(error: Exception) -> str:
    """The text of an error without the lines that OmegaConf appends for its own developers."""
    return " ".join(str(error).partition("\n    full_key:")[0].split())


def _with_quoted_defaults(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _with_quoted_defaults(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_with_quoted_defaults(item) for item in tree]
    return _PLAIN_DEFAULT.sub(r"\1'\2'}", tree) if isinstance(tree, str) else tree


def _escaped(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _escaped(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_escaped(item) for item in tree]
    return _REFERENCE.sub(r"\1\1\\${", tree) if isinstance(tree, str) else tree

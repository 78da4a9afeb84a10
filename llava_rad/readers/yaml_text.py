"""YAML as configurations need it: plain values, each key once, nothing that grows while read.

Beside PyYAML's safe loader: a date stays the text that it is, ``1e-4`` is a number as in YAML 1.2,
``12:30`` and ``010`` are texts and not 750 and 8, and tags that build other objects are refused.
"""

import re
from typing import Any

import yaml

from llava_rad.errors import DataError, LlavaRadError, shown
from llava_rad.names import one_line
from llava_rad.readers.text import why

# Far above any configuration; PyYAML reads about a megabyte in ten seconds.
_LONGEST = 1 << 20
# Values when every alias (*name) is written out: a few lines of aliases can stand for millions.
_MOST_VALUES = 100_000
_DEEPEST = 100

_TAGS = tuple(
    f"tag:yaml.org,2002:{name}"
    for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")
)


class _Loader(yaml.SafeLoader):
    """Composes nodes; :func:`_value` makes values of them."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag.rsplit(":", 1)[1] in ("null", "bool", "merge")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, *, where: object, error: type[LlavaRadError] = DataError) -> Any:
    """The value of a YAML text: None, or mappings, lists, texts, numbers and truth values.

    Args:
        text: the text.
        where: the file, for the message; the line is added.
        error: the class of what is raised.

    Raises:
        LlavaRadError: of the class ``error``: the text is not YAML, too long or nested too deep, a
            key comes twice, or a value has a tag that is not allowed or that it does not fit.
    """
    reader = _Reader(one_line(str(where)), error)
    if len(text) > _LONGEST:
        raise reader.refuse(f"it is longer than {_LONGEST:,} characters", None, "Split the file")
    try:
        loader = _Loader(text)
    except yaml.YAMLError as problem:
        raise reader.refuse(why(problem), None) from problem
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        reader.count(node, 0)
        return reader.value(node, loader)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        said = ", ".join(part for part in (problem.context, problem.problem) if part)
        raise reader.refuse(" ".join(said.split()), mark) from problem
    except yaml.YAMLError as problem:
        raise reader.refuse(why(problem), None) from problem
    except RecursionError:
        raise reader.refuse("it is nested too deep", None) from None
    finally:
        loader.dispose()


class _Reader:
    """Makes values of nodes, with errors that name the line."""

    def __init__(self, where: str, error: type[LlavaRadError]) -> None:
        self.where = where
        self.error = error
        self.counted: dict[int, int] = {}
        self.open: set[int] = set()

    def refuse(
        self, what: str, mark: yaml.Mark | None, remedy: str = "Correct the line it names"
    ) -> LlavaRadError:
        place = "" if mark is None else f":{mark.line + 1}"
        return self.error(
            f"not valid YAML ({what})", where=f"{self.where}{place}", remedy=remedy, kind="bad_yaml"
        )

    def count(self, node: yaml.Node, depth: int) -> int:
        """How many values a node stands for with its aliases written out."""
        if id(node) in self.open:
            raise self.refuse("an alias stands for what it is part of", node.start_mark)
        if depth > _DEEPEST:
            raise self.refuse("it is nested too deep", node.start_mark)
        if id(node) not in self.counted:
            parts: list[yaml.Node] = []
            if isinstance(node, yaml.SequenceNode):
                parts = node.value
            elif isinstance(node, yaml.MappingNode):
                parts = [part for pair in node.value for part in pair]
            self.open.add(id(node))
            self.counted[id(node)] = 1 + sum(self.count(part, depth + 1) for part in parts)
            self.open.remove(id(node))
            if self.counted[id(node)] > _MOST_VALUES:
                raise self.refuse(
                    f"with its aliases written out it has more than {_MOST_VALUES:,} values",
                    node.start_mark,
                    "Write it without aliases",
                )
        return self.counted[id(node)]

    def value(self, node: yaml.Node, loader: _Loader) -> Any:
        """What a node stands for."""
        if node.tag not in _TAGS:
            name = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise self.refuse(
                f"the tag {shown(name)} is not allowed", node.start_mark, "Write a plain value"
            )
        if isinstance(node, yaml.SequenceNode):
            if node.tag != "tag:yaml.org,2002:seq":
                raise self.refuse("a list has the tag of another kind", node.start_mark)
            return [self.value(part, loader) for part in node.value]
        if isinstance(node, yaml.MappingNode):
            if node.tag != "tag:yaml.org,2002:map":
                raise self.refuse("a mapping has the tag of another kind", node.start_mark)
            return self.mapping(node, loader)
        try:
            value = loader.construct_object(node)
            if isinstance(value, int) and abs(value) >= 2**63:
                raise ValueError("more than 64 bits")
            return value
        except yaml.YAMLError:
            raise
        except Exception as problem:  # ValueError of int("abc"), KeyError of a bool, ...
            kind = node.tag.rsplit(":", 1)[1]
            what = f"{shown(node.value)} is no {kind}"
            raise self.refuse(what, node.start_mark, "Correct the value") from problem

    def mapping(self, node: yaml.MappingNode, loader: _Loader) -> dict[Any, Any]:
        """A mapping; ``<<`` brings in the keys of others that it does not give itself."""
        own: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.refuse("a key is no plain value", key_node.start_mark)
            value = self.value(value_node, loader)
            if key_node.tag == "tag:yaml.org,2002:merge":
                for part in value if isinstance(value, list) else [value]:
                    if not isinstance(part, dict):
                        raise self.refuse("<< needs a mapping", key_node.start_mark)
                    merged = part | merged
                continue
            key = self.value(key_node, loader)
            if key in own:
                raise self.error(
                    f"key {shown(key)} is given twice",
                    where=f"{self.where}:{key_node.start_mark.line + 1}",
                    remedy="Keep one of them",
                    kind="bad_yaml",
                )
            own[key] = value
        return merged | own

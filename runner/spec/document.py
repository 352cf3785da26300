"""Text → plain values with the place of each. YAML as people mean it: the core of YAML 1.2, one document, no surprises.

PyYAML implements YAML 1.1, where `1e-6` is text, `on` is true, `010` is 8 and a second key of the same name wins. So we
keep its scanner and parser, resolve scalars by the 1.2 core schema and build the values ourselves: that gives the place
of every key and value, and refuses what a job never needs (tags, aliases to containers, more than a few nodes).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import yaml
from yaml.events import AliasEvent, Event
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from runner.spec.errors import Finding, JobError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 64
MAX_NODES = 10_000

DataPath = tuple[str | int, ...]
_TAG = "tag:yaml.org,2002:"
_CORE = {
    "null": r"(?:null|Null|NULL|~|)\Z",
    "bool": r"(?:true|True|TRUE|false|False|FALSE)\Z",
    "int": r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z",
    "float": r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z",
}
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Place(NamedTuple):
    """Where something stands. Line and column from 1."""

    file: str
    line: int
    column: int
    excerpt: str


@dataclass(frozen=True, slots=True)
class Document:
    """Plain values, and for each path the places of its key and of its value."""

    value: Any
    keys: dict[DataPath, Place]
    values: dict[DataPath, Place]
    faults: tuple[tuple[DataPath, Finding], ...]
    """What is wrong with the text itself, though it could be read; with the path it is about."""


class Lines:
    """Finds line and column of a character offset."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self._starts = [0] + [match.end() for match in re.finditer("\n", text)]

    def place(self, offset: int) -> Place:
        line = bisect_right(self._starts, min(offset, len(self.text)))
        start = self._starts[line - 1]
        end = self._starts[line] - 1 if line < len(self._starts) else len(self.text)
        return Place(self.file, line, offset - start + 1, self.text[start:end])


def finding(place: Place, code: str, message: str, hint: str = "", field: str = "") -> Finding:
    return Finding(
        code=code, message=message, hint=hint, field=field,
        file=place.file, line=place.line, column=place.column, excerpt=place.excerpt,
    )  # fmt: skip


def dotted(path: DataPath) -> str:
    return ".".join(str(part) for part in path)


def decode(data: bytes, file: str) -> str:
    """The text of a job file: UTF-8 with or without BOM, `\\n` line ends. Raises JobError."""
    if len(data) > MAX_BYTES:
        message = f"larger than {MAX_BYTES // 1024} KiB"
        raise JobError([finding(Place(file, 1, 1, ""), "too-big", message, "a job is a short text; put data in files")])
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise JobError([finding(Place(file, 1, 1, ""), "encoding", "written as UTF-16", "save the file as UTF-8")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        message = f"byte 0x{data[error.start]:02x} is not UTF-8"
        place = Place(file, line, column, "")
        raise JobError([finding(place, "encoding", message, "save the file as UTF-8")]) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse(text: str, file: str) -> Document:
    """Raises JobError where the text can't be read as one YAML document; JSON is YAML too."""
    lines = Lines(text, file)
    if bad := _UNPRINTABLE.search(text):
        message = f"control character U+{ord(bad[0]):04X}"
        hint = "remove it; in double quotes it can be written as an escape"
        raise JobError([finding(lines.place(bad.start()), "character", message, hint)])
    root = _compose(_without_tabs(text) if file.endswith(".json") else text, lines)
    if root is None:
        raise JobError([finding(Place(file, 1, 1, ""), "empty", "the file is empty", "`runner init` writes a job")])
    return _Build(lines).document(root)


def _without_tabs(text: str) -> str:
    """JSON may be indented with tabs, YAML may not; inside a JSON text a raw tab is no valid character anyway."""
    return text.replace("\t", " ")


class _Refused(Exception):
    def __init__(self, offset: int, code: str, message: str, hint: str) -> None:
        self.offset, self.code, self.message, self.hint = offset, code, message, hint


class _Loader(yaml.SafeLoader):
    """PyYAML's scanner and parser; scalars by the YAML 1.2 core schema; bombs refused before they unfold."""

    depth = nodes = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event: Event = cast(Any, self).peek_event()
        self.nodes += 1
        _refuse(event, self.nodes, self.depth)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return _at_alias(node, event) if isinstance(event, AliasEvent) else node


_Loader.yaml_implicit_resolvers = {None: [(_TAG + name, re.compile(pattern)) for name, pattern in _CORE.items()]}


def _refuse(event: Event, nodes: int, depth: int) -> None:
    offset = event.start_mark.index
    if nodes > MAX_NODES:
        raise _Refused(offset, "too-big", f"more than {MAX_NODES} values", "a job is a short text; put data in files")
    if depth >= MAX_DEPTH:
        raise _Refused(offset, "too-big", f"nested deeper than {MAX_DEPTH} levels", "no field of a job is that deep")
    tag = getattr(event, "tag", None)
    if tag is not None:
        raise _Refused(offset, "yaml", f"the tag {tag} is not used in a job", "remove it; a text may stand in quotes")


def _at_alias(node: Node | None, event: Event) -> Node:
    if not isinstance(node, ScalarNode):
        hint = "write the section out where it is needed"
        raise _Refused(event.start_mark.index, "yaml", "an alias may stand for a single value only", hint)
    return ScalarNode(node.tag, node.value, event.start_mark, event.end_mark, node.style)


def _compose(text: str, lines: Lines) -> Node | None:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    except _Refused as error:
        raise JobError([finding(lines.place(error.offset), error.code, error.message, error.hint)]) from None
    except yaml.MarkedYAMLError as error:
        raise JobError([_syntax(error, lines)]) from None
    except ValueError as error:  # PyYAML: chr() of an escape such as "\UFFFFFFFF"
        offset = int(loader.index)
        raise JobError([finding(lines.place(offset), "yaml", str(error), "no such character")]) from None


_SYNTAX_HINTS = (
    ("single document", "keep one job per file: remove the second `---`"),
    ("mapping values are not allowed", "put a text that contains `: ` in quotes, or check the indentation"),
    ("'\\t'", "indent with spaces; YAML does not take tabs"),
    ("cannot start any token", "put a text that begins with this character in quotes"),
    ("could not find expected ':'", "each line of a section is `name: value`"),
    ("while scanning a quoted scalar", "the closing quote is missing"),
    ("expected <block end>", "indent it like the lines above; quote a text that begins with `{`, `[` or a quote"),
    ("expected ',' or", "a comma or the closing bracket is missing, or a text needs quotes"),
    ("while scanning a directive", "put a text that begins with `%` in quotes"),
    ("undefined alias", "put a text that begins with `*` in quotes"),
    ("while scanning an a", "put a text that begins with `&` or `*` in quotes"),
    ("escape", "in double quotes write `\\\\` for a backslash, or use single quotes"),
)


def _syntax(error: yaml.MarkedYAMLError, lines: Lines) -> Finding:
    problem, context = error.problem or "not YAML", error.context or ""
    at_end = "unexpected end" in problem and error.context_mark is not None
    mark = error.context_mark if at_end else error.problem_mark or error.context_mark
    said = f"{context} {problem}"
    hint = next((hint for words, hint in _SYNTAX_HINTS if words in said), "check quotes, brackets and indentation")
    return finding(lines.place(mark.index if mark else 0), "yaml", said.strip(), hint)


class _Build:
    """Turns nodes into values, keeps their places, and collects what is wrong with them."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._keys: dict[DataPath, Place] = {}
        self._values: dict[DataPath, Place] = {}
        self._faults: list[tuple[DataPath, Finding]] = []

    def document(self, root: Node) -> Document:
        value = self._value(root, ())
        return Document(value, self._keys, self._values, tuple(self._faults))

    def _value(self, node: Node, path: DataPath) -> Any:
        self._values[path] = self._lines.place(node.start_mark.index)
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, SequenceNode):
            return [self._value(item, (*path, i)) for i, item in enumerate(node.value)]
        return self._mapping(node, path) if isinstance(node, MappingNode) else None

    def _mapping(self, node: MappingNode, path: DataPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = self._lines.place(key_node.start_mark.index)
            if not isinstance(key_node, ScalarNode):
                self._fault(path, place, "type", "a name must be text", "put a text that begins with `{` in quotes")
                continue
            key = self._text(key_node, path)
            if key in result:
                first = self._keys[(*path, key)].line
                self._fault((*path, key), place, "duplicate-key", f"given twice, first in line {first}", "keep one")
                continue
            self._keys[(*path, key)] = place
            result[key] = self._value(value_node, (*path, key))
        return result

    def _scalar(self, node: ScalarNode, path: DataPath) -> Any:
        if node.style is not None or node.tag == _TAG + "str":
            return self._text(node, path)
        if node.value == "":
            self._no_value(path)
        try:
            return _PLAIN[node.tag](node.value)
        except OverflowError:
            self._fault(path, self._values[path], "range", "a number of too many digits", "use a smaller one")
            return None

    def _no_value(self, path: DataPath) -> None:
        name = str(path[-1]) if path else "it"
        hint = f"give one, `{name}: {{}}` for a section's defaults, or remove it"
        if ":" in name:
            hint = "put a space after the colon"
        self._fault(path, self._keys.get(path, self._values[path]), "missing-value", "has no value", hint)

    def _text(self, node: ScalarNode, path: DataPath) -> str:
        try:  # JSON writes characters beyond U+FFFF as two escapes
            return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            place = self._lines.place(node.start_mark.index)
            self._fault(path, place, "character", "half a surrogate pair is no character", "remove the escape")
            return ""

    def _fault(self, path: DataPath, place: Place, code: str, message: str, hint: str) -> None:
        self._faults.append((path, finding(place, code, message, hint, dotted(path))))


def _int(text: str) -> int:
    """Raises OverflowError beyond 64 bits: nothing downstream could store it."""
    if len(text) > 24:
        raise OverflowError(text)
    number = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if abs(number) >= 2**63:
        raise OverflowError(text)
    return number


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_PLAIN: dict[str, Callable[[str], Any]] = {
    _TAG + "null": lambda _: None,
    _TAG + "bool": lambda text: text.lower() == "true",
    _TAG + "int": _int,
    _TAG + "float": _float,
}

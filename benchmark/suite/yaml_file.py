"""YAML files that people write: all mistakes are reported at once, with file, line and key."""

import ast
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from benchmark.errors import UserError, unknown_name

Location = tuple[str | int, ...]
"""Keys and list positions on the way to a value."""
MAX_TEXT, MAX_SCALAR, MAX_DEPTH, MAX_VALUES = 1_000_000, 1000, 50, 100_000
"""Characters of a file and of one value in it, lists within lists, and values with the aliases written out."""
NAMED = ("models", "datasets")
"""Sections that are lists of names, each with its settings if it has any."""
MAX_NAME = 80
"""Characters that overrides add to the name of a suite."""


@dataclass(frozen=True)
class Override:
    """Value that replaces the one of `key` in a file: `--set train.epochs=2`. `value` keeps ruamel's types."""

    key: tuple[str, ...]
    value: Any

    @classmethod
    def parsed(cls, text: str) -> "Override":
        """Override from its text. UserError: it is not KEY=VALUE, or its value no YAML within the bounds of files."""
        key, equals, value = text.partition("=")
        words, place = tuple(key.strip().split(".")), f"--set {text[:100]}"
        if not equals or not value.strip() or not all(words) or len(words) > MAX_DEPTH:
            raise UserError(f"{place}: must be KEY=VALUE with the keys on the way, as train.epochs=2")
        return cls(words, _tree(value, place, "rt"))

    def __str__(self) -> str:
        written = json.dumps(plain(self.value), separators=(",", ": "), ensure_ascii=False)
        bare = written.replace('"', "")
        is_same = re.fullmatch(r"[\w.,+\-\[\]]+", bare) and plain(_tree(bare, "", "rt")) == plain(self.value)
        return f"{'.'.join(self.key)}={bare if is_same else written}"


def overrides_of(texts: Iterable[str]) -> tuple[Override, ...]:
    """Overrides in the order of their keys, so that order on the command line changes no name. UserError: a bad one."""
    overrides = sorted(map(Override.parsed, texts), key=lambda one: one.key)
    for one, other in itertools.pairwise(overrides):
        if one.key == other.key:
            raise UserError(f"--set {'.'.join(one.key)}: is given twice")
    return tuple(overrides)


def overridden_name(name: str, overrides: Sequence[Override]) -> str:
    """Name of a suite with `overrides`: they are added, and a digest where a part of them cannot stand in a name."""
    words = "".join(f"+{one}" for one in overrides)
    plainly = re.sub(r"[^\w.=+,-]+", "-", words, flags=re.ASCII)[:MAX_NAME].rstrip("-")
    digest = "" if plainly == words else f"-{hashlib.sha256(words.encode()).hexdigest()[:6]}"
    return f"{name}{plainly}{digest}"


class YamlFile:
    """Mapping in a file with `overrides`, and its mistakes so far.

    UserError: the file cannot be read, holds no mapping, or an override has no place in it.
    """

    def __init__(self, path: Path, is_a: str, overrides: Sequence[Override] = ()) -> None:
        self.path = path
        self.errors: list[tuple[int, str]] = []
        self.tree = _parsed(path, is_a, "rt")
        self.replaced: dict[str, Any] = {}
        """Override as text -> value in the file, or None."""
        self.overridden: dict[Location, str] = {}
        for override in overrides:
            for holder, where in _holders(self.tree, override.key, (), str(override)):
                self.replaced.setdefault(str(override), plain(holder.get(override.key[-1])))
                holder[override.key[-1]] = override.value
                self.overridden[(*where, override.key[-1])] = f"--set {str(override)[:100]}"
            if _exceeds(MAX_VALUES, self.tree):
                raise UserError(f"--set {str(override)[:100]}: makes more than {MAX_VALUES:,} values")

    def error(self, where: Location, message: str) -> None:
        """Add a mistake at `where`, which an override may have made."""
        line, name = self._line(where), ".".join(str(part) for part in where)
        place = f"{self.path}:{line}"
        for at, override in self.overridden.items():
            if where[: len(at)] == at:
                line, place = 0, override
            elif where and at[: len(where)] == where and place != override:
                place = f"{place} with {override}"
        self.errors.append((line, f"{place}: {name + ': ' if name else ''}{message}"))

    def invalid(self, where: Location, error: ValidationError) -> None:
        """Add the first mistake of each key in `error`, about the settings at `where`."""
        problems = {problem["loc"][:1]: problem for problem in reversed(error.errors())}
        for location, problem in problems.items():
            place, value = (*where, *location), problem["input"]
            message = problem["msg"].removeprefix("Value error, ") + (f" (got {value!r})" if location else "")
            if problem["type"] == "literal_error" and isinstance(value, int | float | str):
                valid = ast.literal_eval(f"({problem['ctx']['expected'].replace(' or ', ', ')},)")
                message = unknown_name(str(place[-1]), value, valid)
            self.error(place, message)

    def stop_on_errors(self) -> None:
        """UserError with all mistakes, in the order of the file."""
        if self.errors:
            raise UserError("\n".join(dict.fromkeys(message for _, message in sorted(self.errors))))

    def _line(self, where: Location) -> int:
        """Line of the deepest part of `where` that is in the file."""
        node: Any = self.tree
        line = int(node.lc.line)
        for part in where:
            if not isinstance(node, CommentedMap | CommentedSeq):
                break
            try:
                line = int(node.lc.key(part)[0] if isinstance(node, CommentedMap) else node.lc.item(part)[0])
                node = node[part]
            except (KeyError, IndexError, TypeError):
                break
        return line + 1


def read_plain(path: Path, is_a: str) -> dict[Any, Any]:
    """Mapping in a file that a program wrote, read within the same bounds. UserError: it cannot be read, or is none."""
    return dict(_parsed(path, is_a, "safe"))


def _parsed(path: Path, is_a: str, kind: Literal["rt", "safe"]) -> Any:
    """Mapping in a file: with the lines of its keys (`rt`), or without."""
    if path.exists() and not path.is_file():  # a pipe would wait for ever
        raise UserError(f"{path}: is not a file")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text") from error
    tree = _tree(text, str(path), kind)
    if not isinstance(tree, dict):
        raise UserError(f"{path}:1: {is_a}")
    return tree


def _tree(text: str, place: str, kind: Literal["rt", "safe"]) -> Any:
    """Content of a YAML text. UserError, which names `place`: it is no YAML, or exceeds the bounds."""
    if len(text) > MAX_TEXT:
        raise UserError(f"{place}: has {len(text):,} characters, and at most {MAX_TEXT:,} are read")
    try:
        for line, problem in _refused(YAML(typ=kind).parse(text)):
            raise UserError(f"{place}:{line}: {problem}")
        tree = YAML(typ=kind).load(text)
    except MarkedYAMLError as error:
        raise UserError(f"{place}{_syntax_error(error)}") from error
    except TypeError as error:
        raise UserError(f"{place}: not valid YAML: a key is a mapping, and must be a name") from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{place}: not valid YAML: {' '.join(str(error).split())[:200]}") from error
    if _exceeds(MAX_VALUES, tree):
        raise UserError(f"{place}: has more than {MAX_VALUES:,} values, those of its aliases included")
    return tree


def _holders(
    node: CommentedMap, key: Sequence[str], where: Location, override: str
) -> Iterator[tuple[CommentedMap, Location]]:
    """Mappings of the file that have the last word of `key`, each with its location; they are made where they lack.

    What is on the way is copied, since an alias may share it. UserError: a value on the way has no keys.
    """
    word, *rest = key
    if not rest:
        yield node, where
        return
    child, at = node.get(word), (*where, word)
    if isinstance(child, CommentedSeq) and (where or word in NAMED):
        node[word] = entries = CommentedSeq(child)
        child.copy_attributes(entries)
        names = [next(iter(entry)) if isinstance(entry, CommentedMap) and entry else entry for entry in child]
        if rest[0] not in names:
            raise UserError(f"--set {override[:100]}: {unknown_name(f'entry of {word}', rest[0], names)}")
        for index, (name, entry) in enumerate(zip(names, child, strict=True)):
            if name == rest[0]:
                entries[index] = entry.copy() if isinstance(entry, CommentedMap) else CommentedMap({name: None})
                yield from _holders(entries[index], rest, (*at, index), override)
        return
    if child is None or (child == rest[0] and where):
        child = CommentedMap({} if child is None else {child: None})
    elif isinstance(child, str) and at == ("protocol",):
        child = CommentedMap(name=child)
    if not isinstance(child, CommentedMap):
        written = json.dumps(plain(child), default=str)[:60]
        raise UserError(
            f"--set {override[:100]}: {'.'.join(map(str, at))} is {written} in the file, and has no key {rest[0]!r}"
        )
    node[word] = child.copy()
    yield from _holders(node[word], rest, at, override)


def _refused(events: Iterable[Any]) -> Iterator[tuple[int, str]]:
    """Line and problem of what is valid YAML, and would be read wrongly, never to the end, or dropped."""
    anchors: list[str | None] = []
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, AliasEvent) and event.anchor in anchors:
            yield line, f"*{event.anchor} stands within &{event.anchor}, which it repeats"
        if tag := getattr(event, "tag", None):  # the reader would drop some, as that of `!range [0, 4]`
            yield (
                line,
                f"the tag {str(tag).replace('tag:yaml.org,2002:', '!!')} is not known here; write the values out",
            )
        if isinstance(event, ScalarEvent) and len(event.value) > MAX_SCALAR:
            yield line, f"a value of {len(event.value):,} characters; at most {MAX_SCALAR} are read"
        if isinstance(event, CollectionStartEvent):
            anchors.append(event.anchor)
            if len(anchors) > MAX_DEPTH:
                yield line, f"more than {MAX_DEPTH} lists and mappings within each other"
        elif isinstance(event, CollectionEndEvent):
            anchors.pop()


def _exceeds(limit: int, tree: Any) -> bool:
    """Whether `tree` has more than `limit` values if each alias is written out."""
    waiting, count = [tree], 0
    while waiting and count <= limit:
        node = waiting.pop()
        count += 1
        if isinstance(node, Mapping | list):
            waiting.extend(node.values() if isinstance(node, Mapping) else node)
    return count > limit


def _syntax_error(error: MarkedYAMLError) -> str:
    """Line and problem: of a bracket or quote that is not closed, the line where it opens."""
    context, problem = error.context or "", (error.problem or "cannot be parsed").splitlines()[0]
    opens = "flow" in context or "quoted" in context
    mark = error.context_mark if opens else error.problem_mark or error.context_mark
    line = f":{mark.line + 1}" if mark else ""
    return f"{line}: not valid YAML: {context + ': ' if opens else ''}{problem}"


def plain(value: Any) -> Any:
    """`value` without ruamel's round-trip types, which keep the notation of scalars; -0.0 becomes 0.0."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, float):
        return float(value) + 0.0
    for kind in (bool, int, str):
        if isinstance(value, kind):
            return kind(value)
    return value

"""Expands mappings of YAML into validated settings: a list where a scalar is allowed is an axis of the grid."""

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from benchmark.errors import unknown_name
from benchmark.suite.facts import takes_list
from benchmark.suite.yaml_file import Location, YamlFile, plain

Settings = TypeVar("Settings", bound=BaseModel)
Result = TypeVar("Result")
MAX_CELLS = 100_000
ZIP = "zip"
"""Key of the lists that are one axis together."""
_Plain = bool | int | float | str | list | dict | None


class GridReader:
    """Reads values of `file`, and reports mistakes with the line of the key."""

    def __init__(self, file: YamlFile) -> None:
        self.file = file

    def points(
        self, where: Location, settings: Any, schema: type[Settings], own: Sequence[str] | None = None
    ) -> list[Settings]:
        """Every combination of the lists in `settings` as `schema`; mistakes are reported and left out.

        `own` are the valid keys (default: fields of `schema`).
        """
        fields = {key: takes_list(field.annotation) for key, field in schema.model_fields.items()}
        validate = lambda point: schema.model_validate_json(json.dumps(point))  # noqa: E731
        return self.expanded(where, settings, fields, validate, own)

    def expanded(
        self,
        where: Location,
        settings: Any,
        fields: Mapping[str, bool],
        validate: Callable[[Mapping[str, Any]], Result],
        own: Sequence[str] | None = None,
    ) -> list[Result]:
        """Every combination of the lists in `settings`, validated; mistakes are reported and left out.

        `fields` maps each key to whether its value may be a list, which is then no axis. Lists under the key `zip` are
        one axis: their first values together, then their second ones.
        """
        settings = {} if settings is None else settings
        if not isinstance(settings, Mapping):
            self.file.error(where, "must be a mapping of keys to values")
            return []
        valid = tuple(fields) if own is None else own
        zipped = settings.get(ZIP)
        single = {key: value for key, value in settings.items() if key != ZIP}
        if not self.has_valid_keys(where, {key: None for key in single if key != "name" or own is None}, valid):
            return []
        axes = [
            [
                {key: value}
                for value in self.axis((*where, key), written if _is_axis(written, fields[key]) else [written])
            ]
            for key, written in single.items()
        ]
        if ZIP in settings:
            axes.append(self._together((*where, ZIP), zipped, fields, [key for key in valid if key not in single]))
        if (count := math.prod(map(len, axes))) > MAX_CELLS:
            self.file.error(where, f"its lists make {count:,} combinations; a suite has at most {MAX_CELLS:,} cells")
            return []
        points = (dict(itertools.chain(*(part.items() for part in parts))) for parts in itertools.product(*axes))
        validated = (self.checked(where, partial(validate, point)) for point in points)
        return [point for point in validated if point is not None]

    def _together(
        self, where: Location, written: Any, fields: Mapping[str, bool], valid: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Points of a `zip`, one for each place in its lists; empty after reporting a mistake."""
        if not isinstance(written, Mapping) or len(written) < 2:
            self.file.error(where, "must be a mapping of at least two keys to lists, whose values belong together")
            return []
        if twice := [key for key in written if key in fields and key not in valid]:
            self.file.error((*where, twice[0]), "stands outside of zip, too")
            return []
        if not self.has_valid_keys(where, written, valid):
            return []
        if wrong := [key for key, values in written.items() if not _is_axis(values, fields[key])]:
            self.file.error((*where, wrong[0]), "must be a list of values, one for each of the other lists")
            return []
        if len({len(values) for values in written.values()}) > 1:
            counts = ", ".join(f"{key} has {len(values)}" for key, values in written.items())
            self.file.error(where, f"its lists must have equal lengths ({counts})")
            return []
        columns = [self.axis((*where, key), values, repeats=True) for key, values in written.items()]
        points = [dict(zip(written, values, strict=True)) for values in zip(*columns, strict=True)]
        if repeated := [point for index, point in enumerate(points) if point in points[:index]]:
            self.file.error(where, f"{json.dumps(repeated[0])} stands there twice")
        return points

    def axis(self, where: Location, values: Any, repeats: bool = False) -> list[Any]:
        """Plain values of a list or of one scalar; empty after reporting a value of another type.

        A value may stand there twice only with `repeats`.
        """
        axis = plain(values) if isinstance(values, list) else [plain(values)]
        if any(not isinstance(value, _Plain) for value in axis):
            self.file.error(where, "must be made of numbers, texts, true, false and null")
            return []
        if not axis:
            self.file.error(where, "an empty list leaves nothing to run")
        repeated = [value for index, value in enumerate(axis) if value in axis[:index]]
        if repeated and not repeats:
            self.file.error(where, f"{repeated[0]!r} stands there twice")
        return axis

    def validated(self, where: Location, schema: type[Settings], point: Mapping[str, Any]) -> Settings | None:
        """`point` as `schema`, or None after reporting a mistake. A list may stand for a tuple."""
        return self.checked(where, partial(schema.model_validate_json, json.dumps(point)))

    def checked(self, where: Location, make: Callable[[], Result]) -> Result | None:
        """Result of `make`, or None after reporting its ValidationError."""
        try:
            return make()
        except ValidationError as error:
            self.file.invalid(where, error)
        return None

    def has_valid_keys(self, where: Location, mapping: Mapping[str, Any], valid: Sequence[str]) -> bool:
        """Whether every key of `mapping` is one of `valid`; each other key is reported."""
        wrong = [key for key in mapping if key not in valid]
        for key in wrong:
            self.file.error((*where, key), unknown_name("key", key, valid))
        return not wrong


def _is_axis(written: Any, takes_list: bool) -> bool:
    """Whether a value is a list of alternatives; of a setting that is a list itself, only a list of lists is."""
    return isinstance(written, list) and not (takes_list and not any(isinstance(value, list) for value in written))

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

        `fields` maps each key to whether its value may be a list, which is then no axis.
        """
        settings = {} if settings is None else settings
        if not isinstance(settings, Mapping):
            self.file.error(where, "must be a mapping of keys to values")
            return []
        valid = tuple(fields) if own is None else own
        if not self.has_valid_keys(where, {key: None for key in settings if key != "name" or own is None}, valid):
            return []
        axes = {}
        for key, value in settings.items():
            is_axis = isinstance(value, list) and not (fields[key] and not any(isinstance(v, list) for v in value))
            axes[key] = self.axis((*where, key), value if is_axis else [value])
        if (count := math.prod(map(len, axes.values()))) > MAX_CELLS:
            self.file.error(where, f"its lists make {count:,} combinations; a suite has at most {MAX_CELLS:,} cells")
            return []
        points = (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
        validated = (self.checked(where, partial(validate, point)) for point in points)
        return [point for point in validated if point is not None]

    def axis(self, where: Location, values: Any) -> list[Any]:
        """Plain values of a list or of one scalar; empty after reporting a value of another type."""
        axis = plain(values) if isinstance(values, list) else [plain(values)]
        if any(not isinstance(value, _Plain) for value in axis):
            self.file.error(where, "must be made of numbers, texts, true, false and null")
            return []
        if not axis:
            self.file.error(where, "an empty list leaves nothing to run")
        repeated = [value for index, value in enumerate(axis) if value in axis[:index]]
        if repeated:
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

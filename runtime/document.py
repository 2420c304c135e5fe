"""Typed reading of a JSON object: every value is checked and a message starts with the path of its key."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from .errors import ContractInvalid

T = TypeVar("T")
_WORDS = {bool: "true or false", dict: "an object", float: "a number", int: "a number", list: "a list", str: "a text"}


def parse(text: str) -> Any:
    """JSON values of `text`; NaN and infinities are refused. Raises ContractInvalid."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ContractInvalid(f"the contract is not JSON ({error}); export the artifact again") from error


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON number")


class Section:
    """One JSON object at `where`. Keys that nobody asks for are ignored; every reader raises ContractInvalid."""

    def __init__(self, values: Any, where: str = "") -> None:
        self.where = where
        if not isinstance(values, dict):
            raise self._wrong("", "an object", values)
        self.values: dict[str, Any] = values

    def path(self, key: str) -> str:
        return ".".join(part for part in (self.where, key) if part) or "contract"

    def _wrong(self, key: str, wanted: str, value: Any) -> ContractInvalid:
        shown = "nothing" if value is None else f"{_WORDS.get(type(value), type(value).__name__)} {str(value)[:80]!r}"
        return ContractInvalid(f"{self.path(key)}: must be {wanted}, got {shown}")

    def section(self, key: str) -> Section:
        return Section(self.values.get(key), self.path(key))

    def has(self, key: str) -> bool:
        """Whether `key` is there and not null."""
        return self.values.get(key) is not None

    def optional(self, key: str, read: Callable[[str], T]) -> T | None:
        """read(key), or None where the key is absent or null."""
        return read(key) if self.has(key) else None

    def text(self, key: str, choices: Collection[str] = ()) -> str:
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a text", value)
        if choices and value not in choices:
            raise self._wrong(key, f"one of {', '.join(choices)}", value)
        return value

    def digest(self, key: str) -> str:
        """64 lower-case hexadecimal digits."""
        value = self.text(key)
        if len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise self._wrong(key, "64 hexadecimal digits (a sha256)", value)
        return value

    def boolean(self, key: str) -> bool:
        value = self.values.get(key)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def integer(self, key: str) -> int:
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, "a whole number", value)
        return value

    def number(self, key: str) -> float:
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong(key, "a finite number", value)
        return float(value)

    def items(self, key: str) -> list[Any]:
        value = self.values.get(key)
        if not isinstance(value, list):
            raise self._wrong(key, "a list", value)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        for index, value in enumerate(self.items(key)):
            if not isinstance(value, str):
                raise self._wrong(f"{key}[{index}]", "a text", value)
        return tuple(self.items(key))

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        values = self.items(key)
        if len(values) != count:
            raise self._wrong(key, f"a list of {count} numbers", values)
        parts = Section({f"{key}[{index}]": value for index, value in enumerate(values)}, self.where)
        return tuple(parts.number(part) for part in parts.values)

    def text_map(self, key: str) -> dict[str, str]:
        section = self.section(key)
        return {name: section.text(name) for name in section.values}

    def build(self, make: Callable[..., T], **fields: Any) -> T:
        """make(**fields); its ValueErrors, which start with a field's name, become ContractInvalid at this path."""
        try:
            return make(**fields)
        except ValueError as error:
            raise ContractInvalid(f"{self.path('')}.{error}") from error

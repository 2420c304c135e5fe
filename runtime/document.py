"""Typed reading of a JSON object: every value is checked and a message starts with the path of its key."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from .errors import ContractInvalid

T = TypeVar("T")
_BITS = 63  # of whole numbers, without the sign
_WORDS = {bool: "true or false", dict: "an object", float: "a number", int: "a number", list: "a list", str: "a text"}


def parse(text: str) -> Any:
    """JSON values of `text`; NaN and infinities are refused. Raises ContractInvalid."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ContractInvalid(f"the contract is not JSON ({error}); export the artifact again") from error


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON number")


def is_utf8(text: str) -> bool:
    """False for lone surrogates: JSON can escape them, no file can hold them."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


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
        if isinstance(value, int) and value.bit_length() > _BITS:
            shown = f"a number of {value.bit_length()} bits"
        else:
            word = _WORDS.get(type(value), type(value).__name__)
            shown = "nothing" if value is None else f"{word} {str(value)[:80]!r}"
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
        if not is_utf8(value):
            raise self._wrong(key, "a text without lone surrogates", value)
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
        if isinstance(value, bool) or not isinstance(value, int) or value.bit_length() > _BITS:
            raise self._wrong(key, "a whole number", value)
        return value

    def number(self, key: str) -> float:
        value = self.values.get(key)
        try:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise self._wrong(key, "a finite number", value)
            return float(value)
        except OverflowError as error:  # a whole number that no float reaches
            raise self._wrong(key, "a finite number", value) from error

    def kept(self, key: str) -> dict[str, Any]:
        """An object that is kept as it is: any JSON values that can be written again."""
        values = self.section(key).values
        try:
            json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ContractInvalid(f"{self.path(key)}: must hold JSON values with texts in UTF-8 ({error})") from error
        return values

    def items(self, key: str) -> list[Any]:
        value = self.values.get(key)
        if not isinstance(value, list):
            raise self._wrong(key, "a list", value)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        parts = self._parts(key)
        return tuple(parts.text(part) for part in parts.values)

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        if len(self.items(key)) != count:
            raise self._wrong(key, f"a list of {count} numbers", self.items(key))
        parts = self._parts(key)
        return tuple(parts.number(part) for part in parts.values)

    def text_map(self, key: str) -> dict[str, str]:
        section = self.section(key)
        for name in section.values:
            if not isinstance(name, str) or not is_utf8(name):
                raise self._wrong(key, "an object whose keys are texts without lone surrogates", name)
        return {name: section.text(name) for name in section.values}

    def _parts(self, key: str) -> Section:
        """The items of a list under the names `key[0]`, `key[1]`, ..."""
        return Section({f"{key}[{index}]": value for index, value in enumerate(self.items(key))}, self.where)

    def build(self, make: Callable[..., T], **fields: Any) -> T:
        """make(**fields); its ValueErrors, which start with a field's name, become ContractInvalid at this path."""
        try:
            return make(**fields)
        except ValueError as error:
            raise ContractInvalid(f"{self.path('')}.{error}") from error

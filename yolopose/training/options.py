"""Command-line options of yolopose-train: flags derived from the settings, and parsed arguments as settings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints, overload

from yolopose.runtime.console import ArgumentParser, UsageError, parser, usage_errors

from ..data.augment import AugmentSettings
from .settings import (
    AUGMENT_FLAGS,
    GROUPS,
    SESSION,
    Flag,
    LossSettings,
    RunOptions,
    SessionOptions,
    TrainSettings,
)

PROG = "yolopose-train"
CLASSES = (RunOptions, SessionOptions, TrainSettings, LossSettings, AugmentSettings)

Settings = TypeVar("Settings")


def train_parser() -> ArgumentParser:
    """The parser of yolopose-train, with one flag for each field that has a Flag."""
    made = parser(PROG, "Train a pose network; torchrun starts it on several GPUs or machines.")
    groups = {name: made.add_argument_group(name) for name in GROUPS}
    for cls in CLASSES:
        hints, defaults = get_type_hints(cls), {field.name: field.default for field in fields(cls)}
        for name, flag in _flags(cls).items():
            default = defaults[name] if flag.default is MISSING else flag.default
            groups[flag.group].add_argument(
                "--" + _destination(name, flag).replace("_", "-"),
                help=flag.help,
                **_value(hints[name]),
                **_given(default=None if default is MISSING else default, choices=flag.choices, metavar=flag.metavar),
            )
    return made


def _flags(cls: type) -> Mapping[str, Flag]:
    """Flags of a settings class by field."""
    if cls is AugmentSettings:
        return AUGMENT_FLAGS
    return {field.name: field.metadata["flag"] for field in fields(cls) if "flag" in field.metadata}


def _destination(name: str, flag: Flag) -> str:
    return flag.name or name


def _value(hint: Any) -> dict[str, Any]:
    """What argparse needs to know about a field's type."""
    if isinstance(hint, UnionType):  # "X | None"
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    if hint is bool:
        return {"action": "store_true"}
    if get_origin(hint) is tuple:
        return {"type": get_args(hint)[0], "nargs": len(get_args(hint))}
    if get_origin(hint) is list:
        return {"type": get_args(hint)[0], "nargs": "+"}
    return {"type": hint}


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def check_resume(words: Sequence[str]) -> None:
    """UsageError for flags that a resumed run would ignore, even if they have their default value."""
    bare = train_parser()
    for action in bare._actions:  # argparse has no other way to leave out flags that were not given
        action.default = argparse.SUPPRESS
    given = vars(bare.parse_args(words)).keys()
    per_session = {"json", *(name for name, flag in _flags(SessionOptions).items() if flag.group == SESSION)}
    if "resume" in given and (ignored := [name for name in given if name not in per_session]):
        flags = ", ".join("--" + name.replace("_", "-") for name in ignored)
        raise UsageError(f"--resume continues with the data and settings of the run; leave {flags} out")


def read_session_options(arguments: argparse.Namespace) -> SessionOptions:
    """Raises UsageError for a sample image that is neither JPEG nor PNG."""
    options = _read(SessionOptions, arguments)
    if options.show_samples and options.show_samples.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise UsageError(f"--show-samples must be a .jpg or .png file, got {options.show_samples}")
    return options


def read_run_options(arguments: argparse.Namespace) -> RunOptions:
    """Paths become absolute, because a run may be resumed from another directory. UsageError without --data."""
    if not arguments.data:
        raise UsageError("no data: give --data, or --resume a run")
    return _read(
        RunOptions,
        arguments,
        data=[_absolute(spec) for spec in arguments.data],
        images=_absolute(arguments.images),
        val=_absolute(arguments.val),
        val_images=_absolute(arguments.val_images),
        skeleton=_absolute(arguments.skeleton),
    )


def read_settings(arguments: argparse.Namespace, size: int, pad: int, default_precision: str) -> TrainSettings:
    """size: input of the network, px; pad: its padding value; default_precision: for ``--precision auto``.

    Raises UsageError for values out of range.
    """
    precision = default_precision if arguments.precision == "auto" else arguments.precision
    with usage_errors():
        augment = _read(AugmentSettings, arguments, size=size, pad=pad)
        loss = _read(LossSettings, arguments)
        return _read(TrainSettings, arguments, precision=precision, augment=augment, loss=loss)


def _read(cls: type[Settings], arguments: argparse.Namespace, **fixed: Any) -> Settings:
    """An instance of a settings class from parsed arguments; ``fixed``: fields with other values."""
    values = {name: getattr(arguments, _destination(name, flag)) for name, flag in _flags(cls).items()}
    hints = get_type_hints(cls)
    values = {name: tuple(v) if get_origin(hints[name]) is tuple else v for name, v in values.items()}
    return cls(**{**values, **fixed})


@overload
def _absolute(spec: str) -> str: ...
@overload
def _absolute(spec: None) -> None: ...
def _absolute(spec: str | None) -> str | None:
    if spec is None or spec.startswith("synthetic:"):
        return spec
    labels, json, folder = spec.partition(".json:")
    return f"{os.path.abspath(labels)}.json:{os.path.abspath(folder)}" if json else os.path.abspath(spec)

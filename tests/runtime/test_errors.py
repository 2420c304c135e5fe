"""The tree in the docstring of errors.py is the tree of classes."""

from __future__ import annotations

import inspect

from yolopose.runtime import errors


def test_documented_tree_is_the_class_tree() -> None:
    drawn: dict[str, str] = {}
    line_of_ancestors: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if not line or not line.lstrip("│├└─ ").startswith(tuple(vars(errors))):
            continue
        name = line.lstrip("│├└─ ").split()[0]
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4
        line_of_ancestors[depth:] = [name]
        if depth:
            drawn[name] = line_of_ancestors[depth - 1]
    classes = {
        name: cls.__bases__[0].__name__
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and cls not in (errors.YoloposeError, errors.UsageError)
    }
    assert drawn == classes
    assert errors.YoloposeError.__bases__ == (Exception,)
    assert errors.UsageError.__bases__ == (ValueError,)

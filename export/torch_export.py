"""A PyTorch module as ONNX, without what the exporter leaves of this machine."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import torch
from torch import nn

from .shapes import OPSET


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints progress, advice about torchvision, deprecations of its own calls: none is for our user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def export_module(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_shapes: tuple[dict[int, Any], ...] | None,
) -> onnx.ModelProto:
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            optimize=True,
            verify=False,
        )
    assert program is not None
    return clean(program.model_proto)


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what the exporter leaves of this machine: stack traces, source paths, notes, stale shape formulas.

    Effect: no ``metadata_props`` and no ``doc_string`` anywhere, no ``value_info``. The graph computes the same.
    """
    graph = model.graph
    for holder in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *model.functions):
        holder.ClearField("doc_string")
        holder.ClearField("metadata_props")
    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    graph.ClearField("value_info")
    return model


def name_dimensions(model: onnx.ModelProto, names: dict[str, dict[int, str]]) -> None:
    """Give dynamic dimensions their names of the contract; the exporter calls them by formulas."""
    for value in (*model.graph.input, *model.graph.output):
        shape = value.type.tensor_type.shape
        for axis, name in names.get(value.name, {}).items():
            if not shape.dim[axis].HasField("dim_value"):
                shape.dim[axis].dim_param = name

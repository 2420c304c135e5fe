"""Run an ONNX graph in PyTorch, so that gradients of its outputs are known at every tensor.

ONNX Runtime computes no gradients, and the checkpoint of a third-party ONNX file is not at hand; so the graph itself is
differentiated, whatever it came from. Operators are those of pose networks and of our decode and NMS. Definitions:
https://onnx.ai/onnx/operators, opset 18.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import reduce
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional

Attributes = Mapping[str, Any]
Inputs = list[Any]  # Tensor, or None for an optional input that is absent
Operator = Callable[[Inputs, Attributes], Any]


class NotDifferentiable(Exception):
    """The graph has an operator or a mode that is not implemented here; the message names it."""


class DifferentiableGraph:
    """``model`` in PyTorch, in float32 on the CPU. Raises NotDifferentiable for unknown operators."""

    def __init__(self, model: onnx.ModelProto) -> None:
        unknown = sorted({node.op_type for node in model.graph.node} - OPERATORS.keys())
        if unknown:
            raise NotDifferentiable(f"operator {', '.join(unknown)}")
        self._constants = {tensor.name: _tensor(tensor) for tensor in model.graph.initializer}
        self._nodes = [
            (node, {each.name: helper.get_attribute_value(each) for each in node.attribute})
            for node in model.graph.node
        ]
        self._outputs = [value.name for value in model.graph.output]

    def run(
        self, feeds: Mapping[str, np.ndarray], keep: Collection[str] = ()
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The outputs of the graph and the tensors ``keep``, whose gradients are kept, by name."""
        values: dict[str, Any] = {**self._constants, "": None}
        values |= {name: torch.from_numpy(np.array(value)) for name, value in feeds.items()}
        for node, attributes in self._nodes:
            results = OPERATORS[node.op_type]([values[name] for name in node.input], attributes)
            if not isinstance(results, list | tuple):
                results = (results,)
            for name, result in zip(node.output, results, strict=False):
                if node.op_type == "Cast" and node.input[0] in feeds and result.is_floating_point():
                    result = result.requires_grad_()  # everything that depends on the image has a gradient
                values[name] = result
        kept = {name: values[name] for name in keep if values[name].requires_grad}
        return {name: values[name] for name in self._outputs}, kept


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(np.array(numpy_helper.to_array(tensor)))


def _ints(value: Tensor | None) -> list[int]:
    return [] if value is None else [int(each) for each in value.reshape(-1).tolist()]


def _conv(x: Inputs, attributes: Attributes) -> Tensor:
    data, weight, bias = x[0], x[1], x[2] if len(x) > 2 else None
    pads = attributes.get("pads", [0] * 4)
    if weight.dim() != 4 or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise NotDifferentiable("Conv that is not in two dimensions with given padding")
    if pads[:2] != pads[2:]:
        data, pads = functional.pad(data, (pads[1], pads[3], pads[0], pads[2])), [0, 0]
    return functional.conv2d(
        data, weight, bias, attributes.get("strides", 1), tuple(pads[:2]), attributes.get("dilations", 1),
        attributes.get("group", 1),
    )  # fmt: skip


def _max_pool(x: Inputs, attributes: Attributes) -> Tensor:
    pads = attributes.get("pads", [0] * 4)
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or attributes.get("ceil_mode"):
        raise NotDifferentiable("MaxPool with automatic padding")
    padded = functional.pad(x[0], (pads[1], pads[3], pads[0], pads[2]), value=-torch.inf)
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", 1)
    return functional.max_pool2d(padded, attributes["kernel_shape"], strides, dilation=dilations)


def _resize(x: Inputs, attributes: Attributes) -> Tensor:
    scales = x[2].tolist() if len(x) > 2 and x[2] is not None and x[2].numel() else []
    sizes = _ints(x[3]) if len(x) > 3 else [round(n * s) for n, s in zip(x[0].shape, scales, strict=True)]
    height, width = (size // n for size, n in zip(sizes[2:], x[0].shape[2:], strict=True))
    whole = list(sizes) == [*x[0].shape[:2], x[0].shape[2] * height, x[0].shape[3] * width]
    if attributes.get("mode", b"nearest") != b"nearest" or not whole:
        raise NotDifferentiable("Resize that does not repeat pixels")
    return x[0].repeat_interleave(height, 2).repeat_interleave(width, 3)


def _slice(x: Inputs, _: Attributes) -> Tensor:
    data, starts, ends = x[0], _ints(x[1]), _ints(x[2])
    axes = _ints(x[3]) if len(x) > 3 and x[3] is not None else list(range(len(starts)))
    steps = _ints(x[4]) if len(x) > 4 and x[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        positions = range(*slice(start, end if end > -(2**62) else None, step).indices(data.shape[axis]))
        data = data.index_select(axis, torch.tensor(positions, dtype=torch.int64))
    return data


def _split(x: Inputs, attributes: Attributes) -> Any:
    axis = attributes.get("axis", 0)
    if len(x) > 1 and x[1] is not None:
        return torch.split(x[0], _ints(x[1]), axis)
    return torch.split(x[0], -(-x[0].shape[axis] // attributes["num_outputs"]), axis)


def _reshape(x: Inputs, _: Attributes) -> Tensor:
    shape = [x[0].shape[i] if n == 0 and i < x[0].dim() else n for i, n in enumerate(_ints(x[1]))]
    return torch.reshape(x[0], shape)


def _gather(x: Inputs, attributes: Attributes) -> Tensor:
    axis = attributes.get("axis", 0) % x[0].dim()
    indices = torch.where(x[1] < 0, x[1] + x[0].shape[axis], x[1])
    shape = (*x[0].shape[:axis], *indices.shape, *x[0].shape[axis + 1 :])
    return x[0].index_select(axis, indices.reshape(-1)).reshape(shape)


def _unsqueeze(x: Inputs, _: Attributes) -> Tensor:
    data, axes = x[0], _ints(x[1])
    count = data.dim() + len(axes)
    for axis in sorted(each % count for each in axes):
        data = data.unsqueeze(axis)
    return data


def _squeeze(x: Inputs, _: Attributes) -> Tensor:
    return x[0].squeeze(tuple(_ints(x[1]))) if len(x) > 1 else x[0].squeeze()


def _reduce(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Operator:
    def run(x: Inputs, attributes: Attributes) -> Tensor:
        axes = tuple(_ints(x[1])) if len(x) > 1 else tuple(attributes.get("axes", ()))
        if not axes and attributes.get("noop_with_empty_axes"):
            return x[0]
        return function(x[0], axes or tuple(range(x[0].dim())), bool(attributes.get("keepdims", 1)))

    return run


def _clip(x: Inputs, _: Attributes) -> Tensor:
    low, high = (x[i] if len(x) > i else None for i in (1, 2))
    return torch.clamp(x[0], low, high)


def _expand(x: Inputs, _: Attributes) -> Tensor:
    return x[0].expand(torch.broadcast_shapes(x[0].shape, tuple(_ints(x[1]))))


def _constant_of_shape(x: Inputs, attributes: Attributes) -> Tensor:
    value = _tensor(attributes["value"]) if "value" in attributes else torch.zeros(1)
    return value.reshape(()).expand(_ints(x[0])).clone()


def _trilu(x: Inputs, attributes: Attributes) -> Tensor:
    diagonal = _ints(x[1])[0] if len(x) > 1 else 0
    return torch.triu(x[0], diagonal) if attributes.get("upper", 1) else torch.tril(x[0], diagonal)


def _divide(x: Inputs, _: Attributes) -> Tensor:
    whole = not x[0].is_floating_point()
    return torch.div(x[0], x[1], rounding_mode="trunc" if whole else None)


def _cast(x: Inputs, attributes: Attributes) -> Tensor:
    dtype = torch.from_numpy(np.zeros(0, helper.tensor_dtype_to_np_dtype(attributes["to"]))).dtype
    return x[0].to(dtype)


def _shape(x: Inputs, attributes: Attributes) -> Tensor:
    shape = list(x[0].shape)[attributes.get("start", 0) : attributes.get("end")]
    return torch.tensor(shape, dtype=torch.int64)


OPERATORS: dict[str, Operator] = {
    "Abs": lambda x, _: x[0].abs(),
    "Add": lambda x, _: x[0] + x[1],
    "And": lambda x, _: x[0] & x[1],
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda x, a: torch.cat(x, a["axis"]),
    "Constant": lambda x, a: _tensor(a["value"]),
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "Div": _divide,
    "Equal": lambda x, _: x[0] == x[1],
    "Exp": lambda x, _: x[0].exp(),
    "Expand": _expand,
    "Flatten": lambda x, a: x[0].reshape(int(np.prod(x[0].shape[: a.get("axis", 1)])), -1),
    "Gather": _gather,
    "GatherElements": lambda x, a: torch.gather(x[0], a.get("axis", 0), x[1]),
    "Greater": lambda x, _: x[0] > x[1],
    "GreaterOrEqual": lambda x, _: x[0] >= x[1],
    "Identity": lambda x, _: x[0],
    "LeakyRelu": lambda x, a: functional.leaky_relu(x[0], a.get("alpha", 0.01)),
    "Less": lambda x, _: x[0] < x[1],
    "LessOrEqual": lambda x, _: x[0] <= x[1],
    "Log": lambda x, _: x[0].log(),
    "MatMul": lambda x, _: x[0] @ x[1],
    "Max": lambda x, _: reduce(torch.maximum, x),
    "MaxPool": _max_pool,
    "Min": lambda x, _: reduce(torch.minimum, x),
    "Mul": lambda x, _: x[0] * x[1],
    "Neg": lambda x, _: -x[0],
    "Not": lambda x, _: ~x[0],
    "Or": lambda x, _: x[0] | x[1],
    "Pow": lambda x, _: x[0] ** x[1],
    "Range": lambda x, _: torch.arange(x[0].item(), x[1].item(), x[2].item(), dtype=x[0].dtype),
    "ReduceMax": _reduce(lambda t, axes, keep: torch.amax(t, axes, keep)),
    "ReduceMean": _reduce(lambda t, axes, keep: t.mean(axes, keep)),
    "ReduceMin": _reduce(lambda t, axes, keep: torch.amin(t, axes, keep)),
    "ReduceSum": _reduce(lambda t, axes, keep: t.sum(axes, keep)),
    "Relu": lambda x, _: x[0].relu(),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": lambda x, _: x[0].sigmoid(),
    "Slice": _slice,
    "Softmax": lambda x, a: x[0].softmax(a.get("axis", -1)),
    "Softplus": lambda x, _: functional.softplus(x[0]),
    "Split": _split,
    "Sqrt": lambda x, _: x[0].sqrt(),
    "Squeeze": _squeeze,
    "Sub": lambda x, _: x[0] - x[1],
    "Tanh": lambda x, _: x[0].tanh(),
    "Tile": lambda x, _: x[0].repeat(_ints(x[1])),
    "TopK": lambda x, a: torch.topk(x[0], _ints(x[1])[0], a.get("axis", -1), bool(a.get("largest", 1))),
    "Transpose": lambda x, a: x[0].permute(a["perm"]),
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    "Where": lambda x, _: torch.where(x[0], x[1], x[2]),
}

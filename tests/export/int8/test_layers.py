"""Which convolutions are layers, and which graphs cannot become int8."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from yolopose.export.int8.layers import find_body
from yolopose.export.int8.quantize import quantize
from yolopose.runtime.errors import UsageError

from .graphs import chain, small_graph, small_plan


def test_finds_layers_and_prediction_convolutions() -> None:
    body = find_body(small_graph())
    assert [layer.name for layer in body.layers] == ["stem", "inner", "depthwise", "last"]
    assert [layer.name for layer in body.predictions] == ["predict_boxes", "predict_points"]
    assert [(layer.has_silu, layer.has_relu) for layer in body.layers] == [(True, False)] * 3 + [(False, True)]


def test_reads_the_slope_of_leaky_relu() -> None:
    slopes = [layer.negative_slope for layer in find_body(chain("LeakyRelu")).layers]
    assert slopes == [pytest.approx(0.01)] * 2


def test_numbers_layers_that_share_weights() -> None:
    assert [layer.name for layer in find_body(chain("Relu", shared=True)).layers] == ["w0", "w0 (2)"]


def test_rejects_a_quantized_graph() -> None:
    model = small_graph()
    quantized = quantize(model, small_plan("cpu", model))
    with pytest.raises(UsageError, match="quantized already"):
        find_body(quantized)


def test_rejects_weights_that_are_not_finite() -> None:
    broken = small_graph()
    weight = next(tensor for tensor in broken.graph.initializer if tensor.name == "inner.weight")
    weight.CopyFrom(numpy_helper.from_array(np.full((8, 8, 3, 3), np.nan, np.float32), "inner.weight"))
    with pytest.raises(UsageError, match=r"inner\.weight.*not finite"):
        find_body(broken)


def test_rejects_a_float16_graph() -> None:
    half = small_graph()
    half.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float16), "half"))
    with pytest.raises(UsageError, match="float16 already"):
        find_body(half)

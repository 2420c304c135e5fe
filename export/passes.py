"""What happens to an exported graph besides precision: simplification, and the contract that goes inside."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnxruntime

from yolopose.runtime.contract import METADATA_KEY, Contract


def graph_sha256(model: onnx.ModelProto) -> str:
    """Hex digest of the serialised GraphProto, which metadata does not change."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def embed_contract(model: onnx.ModelProto, contract: Contract) -> bytes:
    """The file: ``model`` with ``contract`` as its only metadata. Requires that the contract names this very graph."""
    digest = graph_sha256(model)
    if contract.provenance.graph_sha256 != digest:
        raise ValueError(
            f"the contract is for graph {contract.provenance.graph_sha256[:12]}, this one is {digest[:12]}"
        )
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=contract.to_json())
    return model.SerializeToString(deterministic=True)


def simplify(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """onnxsim's simplification where it changes neither interface nor results; elsewhere the model as it was.

    Returns the model and one sentence on what was done, for the user to read. Never fatal: simplification is a nicety.
    """
    before = len(model.graph.node)
    try:
        import onnxsim

        simplified, checked = onnxsim.simplify(model)
    except Exception as error:  # a third-party optimiser: whatever goes wrong in it, the unsimplified graph is right
        return model, f"not simplified: onnxsim failed ({type(error).__name__}: {error})"
    if not checked:
        return model, "not simplified: onnxsim's own check failed"
    if _interface(simplified) != _interface(model):
        return model, "not simplified: onnxsim changed inputs or outputs"
    difference = _largest_difference(model, simplified)
    if not difference <= 1e-3:
        return model, f"not simplified: onnxsim changed the results by {difference:g}"
    simplified.graph.ClearField("value_info")
    return simplified, f"simplified from {before} to {len(simplified.graph.node)} nodes"


def _interface(model: onnx.ModelProto) -> list[tuple[str, bytes]]:
    return [(value.name, value.type.SerializeToString()) for value in (*model.graph.input, *model.graph.output)]


def _largest_difference(one: onnx.ModelProto, other: onnx.ModelProto) -> float:
    """Largest absolute difference of any output on random images; thresholds low enough that rows come out."""
    rng = np.random.default_rng(0)
    shape = [dim.dim_value or fallback for dim, fallback in zip(_image_dims(one), (3, 128, 192, 3), strict=True)]
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    low = np.zeros((shape[0], 1), np.float32)
    feeds = {"images": images, "score_threshold": low, "iou_threshold": low + np.float32(0.65)}
    outputs = []
    for model in (one, other):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, feeds))
    pairs = zip(*outputs, strict=True)
    return max(float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)), initial=0.0)) for a, b in pairs)


def _image_dims(model: onnx.ModelProto) -> list[onnx.TensorShapeProto.Dimension]:
    images = next(value for value in model.graph.input if value.name == "images")
    return list(images.type.tensor_type.shape.dim)

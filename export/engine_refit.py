"""Weights into a plan that was built without them (``--strip``), or other weights of the same network into it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from yolopose.runtime.backends.cuda import Cuda
from yolopose.runtime.backends.tensorrt_plan import (
    check_gpu,
    create,
    engine_section,
    make_logger,
    read_plan,
    same_release,
)
from yolopose.runtime.contract import Contract, read_contract
from yolopose.runtime.errors import BackendError, EngineMismatch

from .engine import UNVERIFIED, parser_errors, read_artifact, write_plan


def refit_engine(stripped: Path, artifact: Path, plan: Path, trt: Any, cuda: Cuda) -> None:
    """Write ``plan``: what ``stripped`` computes, with the weights of ``artifact``. Minutes of building are not needed.

    trt: the module of the version that built it. Raises ArtifactError and its kin (not this GPU, not whole),
    BackendError (TensorRT refuses: another network), OutputError.
    """
    source, contract = read_contract(stripped), read_contract(artifact)
    _check_same_network(stripped, source, artifact, contract)
    built = engine_section(stripped, source)
    content = read_plan(stripped, built, with_weights=False)
    check_gpu(stripped, built, cuda.gpu)
    if not same_release(trt.__version__, built.text("tensorrt")):
        raise EngineMismatch(f"{stripped} was built by TensorRT {built.text('tensorrt')}, here is {trt.__version__}")
    weights = read_artifact(artifact)
    with cuda.current():
        serialized = _refitted(stripped, content, artifact, weights, trt)
    fingerprint = {**built.values, "strip": False, "onnx_sha256": hashlib.sha256(weights).hexdigest()}
    write_plan(plan, serialized, replace(contract, input=source.input, parity=UNVERIFIED), fingerprint)


def _check_same_network(stripped: Path, source: Contract, artifact: Path, contract: Contract) -> None:
    """All but the weights must be equal: what a plan computes cannot be changed by filling it."""
    placed = replace(contract.precision, placement=source.precision.placement)
    pairs = {
        "network": (source.model, contract.model),
        "keypoints": (source.skeleton.num_keypoints, contract.skeleton.num_keypoints),
        "suppression": (source.nms, contract.nms),
        "precision": (source.precision, placed),
    }
    for name, (old, new) in pairs.items():
        if old != new:
            raise EngineMismatch(f"{artifact} does not fit {stripped}: its {name} is {new}, the plan's is {old}")


def _refitted(stripped: Path, content: bytes, artifact: Path, weights: bytes, trt: Any) -> bytes:
    log = make_logger(trt)
    runtime = create(trt.Runtime, log, log)
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise BackendError(f"TensorRT {trt.__version__} cannot load {stripped}: {log.told()}")
    refitter = create(trt.Refitter, log, engine, log)
    parser = trt.OnnxParserRefitter(refitter, log)
    if not parser.refit_from_bytes(weights):
        raise BackendError(f"{artifact} does not fit {stripped}:\n" + "\n".join(parser_errors(parser)))
    if not refitter.refit_cuda_engine():
        missing = ", ".join(refitter.get_missing_weights()) or log.told()
        raise BackendError(f"{artifact} does not fill {stripped}: {missing}")
    options = engine.create_serialization_config()
    options.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    serialized = engine.serialize_with_config(options)
    if serialized is None:
        raise BackendError(f"TensorRT cannot write the plan: {log.told()}")
    return bytes(serialized)

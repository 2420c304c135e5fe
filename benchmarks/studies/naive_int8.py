"""``python -m yolopose.benchmarks.studies.naive_int8``: int8 without an accuracy search, for comparison.

It writes three files as ``onnxruntime.quantization.quantize_static`` makes them:

naive             its defaults, on every operator
ceiling           all operators, as ONNX Runtime computes them fastest on x86 (U8S8, one scale per channel)
ceiling-openvino  all convolutions, which OpenVINO computes faster than all operators

They get the contract of the float32 artifact, so that yolopose-bench can run them too; it says that nothing about them
was verified.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from yolopose.runtime.console import Console, parser, run
from yolopose.runtime.contract import ParityInfo, PrecisionInfo, read_contract
from yolopose.runtime.output import atomic_write

KINDS = ("naive", "ceiling", "ceiling-openvino")


def quantize_naively(artifact: Path, images: Path, limit: int, kind: str, output: Path) -> None:
    """Write the ``kind`` of int8 file; min-max calibration on at most ``limit`` photographs in ``images``."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from yolopose.data.image_set import open_image_set
    from yolopose.export.graph import embed_contract, feed, graph_sha256, letterboxed

    contract = read_contract(artifact)

    class Frames(CalibrationDataReader):
        def __init__(self) -> None:
            self.frames = iter(letterboxed(open_image_set(None, images, contract.skeleton, limit), contract.input))

        def get_next(self) -> dict[str, np.ndarray] | None:
            frame = next(self.frames, None)
            return None if frame is None else feed([frame[0]], rows=contract.input.batch.min)

    options: dict[str, Any] = {}
    if kind != "naive":
        options = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    if kind == "ceiling-openvino":
        options["op_types_to_quantize"] = ["Conv"]
    logging.getLogger().setLevel(logging.ERROR)  # it recommends pre-processing, which simplification has done
    with TemporaryDirectory() as folder:
        made = Path(folder) / "made.onnx"
        quantize_static(str(artifact), str(made), Frames(), quant_format=QuantFormat.QDQ, **options)
        model = onnx.load(made)
    standard = [opset for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(standard)
    contract = replace(
        contract,
        precision=PrecisionInfo("int8", "int8", "openvino" if kind == "ceiling-openvino" else "cpu"),
        provenance=replace(contract.provenance, graph_sha256=graph_sha256(model)),
        parity=ParityInfo("unverified", 0),
    )
    atomic_write(output, embed_contract(model, contract))


def copy_for_onnxruntime(artifact: Path) -> Path:
    """A copy that ONNX Runtime accepts, whatever the target of the artifact: the same graph, so the same accuracy."""
    import onnx

    from yolopose.export.graph import embed_contract

    contract = read_contract(artifact)
    precision = replace(contract.precision, target="any", placement=None)
    output = artifact.with_name(f"{artifact.stem}-any.onnx")
    return atomic_write(output, embed_contract(onnx.load(artifact), replace(contract, precision=precision)))


def _main(arguments: argparse.Namespace, console: Console) -> None:
    written = []
    for kind in KINDS:
        output = arguments.artifact.with_name(f"{arguments.artifact.stem}-int8-{kind}.onnx")
        quantize_naively(arguments.artifact, arguments.images, arguments.limit, kind, output)
        written.append(str(output))
    written += [str(copy_for_onnxruntime(file)) for file in arguments.for_onnxruntime]
    console.result({"written": written}, "\n".join(written))


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "python -m yolopose.benchmarks.studies.naive_int8", "int8 files without an accuracy search, for comparison."
    )
    made.add_argument("artifact", type=Path, help="float32 artifact")
    made.add_argument("--images", type=Path, required=True, metavar="DIR", help="photographs for calibration")
    made.add_argument(
        "--for-onnxruntime", type=Path, nargs="*", default=[], metavar="FILE",
        help="int8 artifacts to copy for ONNX Runtime, to measure the accuracy of files for TensorRT",
    )  # fmt: skip
    made.add_argument("--limit", type=int, default=64, help="number of photographs, evenly spread")
    return run(_main, made, argv)


if __name__ == "__main__":
    raise SystemExit(main())

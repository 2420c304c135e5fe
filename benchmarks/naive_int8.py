"""``python -m yolopose.benchmarks.naive_int8``: int8 without care, to hold ours against.

Two files that anybody gets from onnxruntime.quantization.quantize_static: `naive`, its defaults on every operator; and
`ceiling`, all operators as ONNX Runtime computes them fastest on x86 (U8S8, a scale a channel), whose speed nothing
quantized beats and whose accuracy is whatever it is. They get the contract of the float32 artifact, so that
yolopose-bench runs them beside it, and say in it that nothing about them was verified.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from yolopose.runtime.console import Console, parser, run
from yolopose.runtime.contract import Contract, ParityInfo, PrecisionInfo, read_contract
from yolopose.runtime.images import evenly, list_images, read_image
from yolopose.runtime.letterbox import as_bgr_image, letterbox
from yolopose.runtime.output import atomic_write

KINDS = ("naive", "ceiling")


def quantize_without_care(artifact: Path, images: Sequence[Path], kind: str, output: Path) -> None:
    """Write the ``kind`` of int8 that quantize_static makes of ``artifact``, min-max over ``images``."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from yolopose.export.graph_run import feed
    from yolopose.export.passes import embed_contract, graph_sha256

    contract = read_contract(artifact)

    class Frames(CalibrationDataReader):
        def __init__(self) -> None:
            self.frames = _frames(images, contract)

        def get_next(self) -> dict[str, np.ndarray] | None:
            frame = next(self.frames, None)
            return None if frame is None else feed(frame, rows=contract.input.batch.min)

    options: dict[str, Any] = {}
    if kind == "ceiling":
        options = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    logging.getLogger().setLevel(logging.ERROR)  # it advises pre-processing, which simplification has done
    with TemporaryDirectory() as folder:
        made = Path(folder) / "made.onnx"
        quantize_static(str(artifact), str(made), Frames(), quant_format=QuantFormat.QDQ, **options)
        model = onnx.load(made)
    standard = [opset for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(standard)
    contract = replace(
        contract,
        precision=PrecisionInfo("int8", "int8", "cpu"),
        provenance=replace(contract.provenance, graph_sha256=graph_sha256(model)),
        parity=ParityInfo("unverified", 0),
    )
    atomic_write(output, embed_contract(model, contract))


def _frames(images: Sequence[Path], contract: Contract) -> Iterator[np.ndarray]:
    given = contract.input
    shape_hw = given.height.opt, given.width.opt
    for path in images:
        image = as_bgr_image(read_image(path))
        yield letterbox(image, shape_hw, pad_value=given.pad_value, pad_side=given.pad_side)[0]


def _main(arguments: argparse.Namespace, console: Console) -> None:
    files = list_images(arguments.images)
    chosen = [files[i] for i in evenly(len(files), arguments.limit)]
    written = []
    for kind in KINDS:
        output = arguments.artifact.with_name(f"{arguments.artifact.stem}-int8-{kind}.onnx")
        quantize_without_care(arguments.artifact, chosen, kind, output)
        written.append(str(output))
    console.result({"written": written}, "\n".join(written))


def main(argv: Sequence[str] | None = None) -> int:
    made = parser("python -m yolopose.benchmarks.naive_int8", "int8 without care, to hold ours against.")
    made.add_argument("artifact", type=Path, help="float32 artifact")
    made.add_argument("--images", type=Path, required=True, metavar="DIR", help="photographs to calibrate on")
    made.add_argument("--limit", type=int, default=64, help="of them, evenly spread")
    return run(_main, made, argv)


if __name__ == "__main__":
    raise SystemExit(main())

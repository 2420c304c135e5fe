"""People that Ultralytics' own predict finds in photographs, and its time. Needs nothing of yolopose: it is run by the
Python of an environment that has Ultralytics.

    python ultralytics_predict.py export NETWORK.pt FOLDER --imgsz 640
    python ultralytics_predict.py people NETWORK.onnx FOLDER --imgsz 640
    python ultralytics_predict.py time NETWORK.onnx FOLDER --imgsz 640 --iterations 40

FOLDER/photographs.txt lists the images, one per line. ``export`` writes FOLDER/exported.onnx, fixed to one image of
that size. ``people`` writes FOLDER/people.npz: ``frames`` (n, size, size, 3) uint8 BGR from Ultralytics' letterbox;
``frame``: rows of x1 y1 x2 y2 score class and keypoints in pixels of the frame; ``image``: the same in pixels of the
image, clipped to it; ``counts``: people per image. ``time`` prints samples in ms of predict (array to people) and of
the session inside it on ready tensors, in turn: {"whole": [...], "bare": [...]}.

Ultralytics is AGPL-3.0 and not part of this project.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SCORE, IOU, MAX_PEOPLE = 0.25, 0.65, 100
WARM_UP = 10


def photographs(folder: Path) -> list[np.ndarray]:
    cv2 = importlib.import_module("cv2")
    return [cv2.imread(name) for name in (folder / "photographs.txt").read_text(encoding="utf-8").splitlines()]


def rows_of(boxes: Any, keypoints: Any, values: int) -> np.ndarray:
    """(n, 6 + values) float32. Without people Ultralytics returns no keypoint array of the right shape."""
    found = np.asarray(boxes, np.float32).reshape(-1, 6)
    points = np.asarray(keypoints, np.float32) if len(found) else np.zeros(0, np.float32)
    return np.concatenate((found, points.reshape(len(found), values)), axis=1)


def people(model: Any, options: dict[str, Any], folder: Path) -> None:
    """Saves what predict returns, the frames that enter the network and the rows that leave NMS."""
    nms = importlib.import_module("ultralytics.utils.nms")
    torch = importlib.import_module("torch")
    frames, in_frame, in_image = [], [], []
    for image in photographs(folder):
        (result,) = model.predict(image, **options)
        pixels = model.predictor.preprocess([image])
        raw = model.predictor.inference(pixels)
        (found,) = nms.non_max_suppression(raw, SCORE, IOU, nc=len(model.names), max_det=MAX_PEOPLE)
        values = found.shape[1] - 6
        in_frame.append(rows_of(found[:, :6], found[:, 6:], values))
        in_image.append(rows_of(result.boxes.data, result.keypoints.data, values))
        rgb = (pixels[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        frames.append(np.ascontiguousarray(rgb[..., ::-1]))
    counts = np.array([len(rows) for rows in in_image])
    assert counts.tolist() == [len(rows) for rows in in_frame]
    np.savez_compressed(
        folder / "people.npz", frames=np.stack(frames), counts=counts, frame=np.concatenate(in_frame),
        image=np.concatenate(in_image),
    )  # fmt: skip


def timed(model: Any, options: dict[str, Any], folder: Path, iterations: int) -> dict[str, list[float]]:
    images = photographs(folder)
    model.predict(images[0], **options)
    session = _session(model.predictor.model)
    ready = [model.predictor.preprocess([image]).numpy() for image in images]
    (name,) = (given.name for given in session.get_inputs())
    samples: dict[str, list[float]] = {"whole": [], "bare": []}

    def whole(i: int) -> None:
        model.predict(images[i % len(images)], **options)

    def bare(i: int) -> None:
        session.run(None, {name: ready[i % len(ready)]})

    for i in range(WARM_UP + iterations):
        turns = [("whole", whole), ("bare", bare)]
        for kind, turn in turns if i % 2 else reversed(turns):
            started = time.perf_counter_ns()
            turn(i)
            if i >= WARM_UP:
                samples[kind].append((time.perf_counter_ns() - started) / 1e6)
    return samples


def _session(backend: Any) -> Any:
    """The ONNX Runtime session, searched for in the attributes of ``backend``."""
    kind = importlib.import_module("onnxruntime").InferenceSession
    pending, seen = [backend], set()
    while pending:
        value = pending.pop()
        if isinstance(value, kind):
            return value
        if id(value) not in seen and hasattr(value, "__dict__"):
            seen.add(id(value))
            pending.extend(vars(value).values())
    raise SystemExit("predict does not run an ONNX Runtime session")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("export", "people", "time"))
    parser.add_argument("network")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--imgsz", type=int, required=True)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--shim", type=Path, help="folder of a module that makes torchvision load with this torch")
    arguments = parser.parse_args()
    if arguments.shim is not None:
        sys.path.insert(0, str(arguments.shim))
        importlib.import_module("torchvision_cpu_shim")
    ultralytics = importlib.import_module("ultralytics")
    model = ultralytics.YOLO(arguments.network, task="pose")
    if arguments.task == "export":
        if getattr(model.model, "end2end", False) or "one2one_cv2" in model.model.model[-1]._modules:
            raise SystemExit("this head needs no NMS; ultralytics_parity compares such networks")
        made = model.export(format="onnx", imgsz=arguments.imgsz, opset=18, simplify=True, device="cpu")
        shutil.move(made, arguments.folder / "exported.onnx")
        return 0
    options = {
        "imgsz": arguments.imgsz, "rect": False, "conf": SCORE, "iou": IOU, "max_det": MAX_PEOPLE, "verbose": False,
        "device": "cpu",
    }  # fmt: skip
    if arguments.task == "people":
        people(model, options, arguments.folder)
        return 0
    samples = timed(model, options, arguments.folder, arguments.iterations)
    versions = {name: importlib.import_module(name).__version__ for name in ("ultralytics", "onnxruntime")}
    print(json.dumps({"samples": samples, "versions": versions}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

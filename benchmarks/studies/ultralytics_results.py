"""People that Ultralytics itself finds in letterboxed frames. Needs nothing of yolopose: it is run by the Python of an
environment that has Ultralytics.

    python ultralytics_results.py FOLDER NAME... [--width 0.0625] [--round]

FOLDER/frames.npz holds ``frames`` (n, h, w, 3) uint8 BGR. For each NAME (yolov8n-pose, yolo11n-pose, yolo26n-pose, ...)
a network with random weights is built from Ultralytics' YAML and its scores are raised until it finds people. It is
written as NAME.pt, NAME-dynamic.onnx, NAME-fixed.onnx (batch 1, this size) and NAME-people.onnx (with Ultralytics' NMS,
or with the head that needs none). NAME.npz: ``raw``, the output of the .pt for the first frame; the people of the .pt
after Ultralytics' post-processing, ``rows`` of x1 y1 x2 y2 score class and keypoints, ``counts`` per frame.
--width: width factor of the layers, for small files. --round: weights with few bits of mantissa, which compress well;
then NAME-onnx.npz has the people of the ONNX, whose weights are rounded once more.

For comparison only; Ultralytics is AGPL-3.0 and not part of this project.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

CANDIDATES = 24  # about so many anchors of a frame exceed the threshold
SCORE, IOU, MAX_PEOPLE = 0.25, 0.65, 100


def build(name: str, folder: Path, width: float | None, pixels: Any, few_bits: bool) -> Any:
    """A YOLO with random weights whose scores are high enough to find "people"."""
    torch, yaml = importlib.import_module("torch"), importlib.import_module("yaml")
    ultralytics = importlib.import_module("ultralytics")
    scale = name.removesuffix("-pose")[-1]
    family = name.removesuffix("-pose")[:-1]
    root = Path(str(ultralytics.__file__)).parent / "cfg" / "models"
    (source,) = root.rglob(f"{family}-pose.yaml")
    config = yaml.safe_load(source.read_text())
    config["nc"] = 1
    if width is not None:
        config["scales"] = {scale: [0.33, width, 128]}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    torch.manual_seed(7)
    yolo = ultralytics.YOLO(str(path), task="pose")
    net = yolo.model.float().train()
    for module in net.modules():
        if isinstance(module, torch.nn.Linear) and few_bits:
            module.weight.data = torch.from_numpy(_rounded(module.weight.detach().numpy(), 2))
        if isinstance(module, torch.nn.Conv2d) and module.weight.requires_grad:  # fixed convolutions stay
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if few_bits:
                module.weight.data = torch.from_numpy(_rounded(module.weight.detach().numpy(), 2))
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.3
    with torch.no_grad():
        for _ in range(8):  # batch norm statistics of the photographs, so that activations neither vanish nor explode
            net(pixels)
        net.eval()
        head = net.model[-1]
        branches = [branch for kind in ("cv3", "one2one_cv3") if (branch := getattr(head, kind, None)) is not None]
        for branch, end2end in zip(branches, (False, True), strict=False):
            _raise_scores(torch, net, pixels, branch, end2end)
    return yolo


def _raise_scores(torch: Any, net: Any, pixels: Any, branch: Any, end2end: bool) -> None:
    """Shifts the biases so that about equally many anchors of each level exceed the threshold."""
    logits: list[Any] = []
    hooks = [level[-1].register_forward_hook(lambda module, given, out: logits.append(out)) for level in branch]
    head = net.model[-1]
    if end2end:
        head.end2end = True
    net(pixels)
    if end2end:
        head.end2end = False
    for hook in hooks:
        hook.remove()
    for level, found in zip(branch, logits, strict=True):
        best = found.flatten(1).topk(CANDIDATES // len(branch), dim=1).values[:, -1].median()
        level[-1].bias += torch.logit(torch.tensor(SCORE)) - best


def exported(yolo: Any, folder: Path, name: str, shape_hw: tuple[int, int], **options: Any) -> Path:
    made = Path(yolo.export(format="onnx", imgsz=list(shape_hw), opset=18, simplify=True, **options))
    target = folder / name
    shutil.move(made, target)
    return target


def rounded(path: Path) -> None:
    onnx = importlib.import_module("onnx")
    model = onnx.load(path)
    weights = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}  # neither anchors nor biases
    for tensor in model.graph.initializer:
        if tensor.name in weights and len(tensor.raw_data) > 1024:
            values = _rounded(onnx.numpy_helper.to_array(tensor), 4)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)


def _rounded(values: np.ndarray, bits: int) -> np.ndarray:
    """Rounded to ``bits`` bits of mantissa, including the first, which is always set."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent).astype(np.float32)


def people_of(raw: Any) -> list[np.ndarray]:
    """By Ultralytics' own post-processing: NMS, or only a threshold where the head needs no NMS."""
    torch, nms = importlib.import_module("torch"), importlib.import_module("ultralytics.utils.nms")
    raw = torch.as_tensor(np.asarray(raw))
    if raw.shape[-1] == 57:
        return [rows[rows[:, 4] > SCORE].numpy() for rows in raw]
    found = nms.non_max_suppression(raw, SCORE, IOU, nc=1, max_det=MAX_PEOPLE)
    return [rows.numpy() for rows in found]


def _save(path: Path, raws: list[Any], **more: Any) -> list[int]:
    """Returns the number of people of each frame."""
    people = [rows for raw in raws for rows in people_of(raw)]
    counts = [len(rows) for rows in people]
    np.savez_compressed(path, rows=np.concatenate(people), counts=np.array(counts), **more)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--width", type=float)
    parser.add_argument("--round", action="store_true")
    parser.add_argument("--shim", type=Path, help="folder of a module that makes torchvision load with this torch")
    arguments = parser.parse_args()
    if arguments.shim is not None:
        sys.path.insert(0, str(arguments.shim))
        importlib.import_module("torchvision_cpu_shim")
    torch = importlib.import_module("torch")
    folder = arguments.folder.resolve()
    frames = np.load(folder / "frames.npz")["frames"]
    pixels = torch.from_numpy(np.ascontiguousarray(frames[..., ::-1].transpose(0, 3, 1, 2))).float() / 255
    shape_hw = frames.shape[1:3]
    for name in arguments.names:
        yolo = build(name, folder, arguments.width, pixels[:8], arguments.round)
        with_nms = {"nms": True, "conf": SCORE, "iou": IOU, "max_det": MAX_PEOPLE}
        post_processing = {"nms": False} if "26" in name else with_nms
        yolo.save(folder / f"{name}.pt")
        again = importlib.import_module("ultralytics").YOLO
        files = [
            exported(again(folder / f"{name}.pt"), folder, f"{name}-dynamic.onnx", shape_hw, dynamic=True),
            exported(again(folder / f"{name}.pt"), folder, f"{name}-fixed.onnx", shape_hw),
            exported(again(folder / f"{name}.pt"), folder, f"{name}-people.onnx", shape_hw, **post_processing),
        ]
        net = again(folder / f"{name}.pt").model.float().eval()
        if "26" in name:
            net.model[-1].end2end = True
        with torch.no_grad():
            outputs = [net(one[None]) for one in pixels]
        raws = [(out[0] if isinstance(out, list | tuple) else out).numpy() for out in outputs]
        counts = _save(folder / f"{name}.npz", raws, raw=raws[0][0])
        if arguments.round:
            for file in files:
                rounded(file)
            sessions = importlib.import_module("onnxruntime").InferenceSession
            session = sessions(str(files[2] if "26" in name else files[0]))
            raws = [session.run(None, {"images": one[None].numpy()})[0] for one in pixels]
            _save(folder / f"{name}-onnx.npz", raws)
        print(name, "people per frame:", counts, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

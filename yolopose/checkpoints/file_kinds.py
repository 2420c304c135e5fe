"""Names the format of a file that is not a PyTorch checkpoint, so that ``load`` can say what was given.

Content decides. The name of the file is used only where the content has no signature. Every description is a noun
phrase and what to do, such as "a TensorFlow Lite file (schema version 3); give the checkpoint or ONNX it came from".
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

HEAD_BYTES = 4096  # of the beginning of a file, enough for every signature below

_CONVERTED = "give the checkpoint or ONNX it came from"
_ONNX = "yolopose-export and yolopose-run read those, yolopose.load reads checkpoints"
_KERAS = f"an HDF5 file, as Keras writes them; {_CONVERTED}"
_PLAN = f"a TensorRT plan; {_CONVERTED}"
_NCNN = f"an ncnn network (text format 7767517); {_CONVERTED}"

_SIGNATURES = (  # position, bytes, description
    (4, b"TFL3", f"a TensorFlow Lite file (schema version 3); {_CONVERTED}"),
    (4, b"ET12", f"an ExecuTorch program (ET12); {_CONVERTED}"),
    (0, b"7767517", _NCNN),
    (0, (7767517).to_bytes(4, "little"), f"an ncnn network (binary format 7767517); {_CONVERTED}"),
    (0, (0x01306B47).to_bytes(4, "little"), f"the float16 weights of an ncnn network; {_CONVERTED}"),
    (0, b"ftrt", _PLAN),  # TensorRT 8 and later
    (0, b"ptrt", _PLAN),  # before
    (0, b"\x89HDF", _KERAS),
    (0, b"\x93NUMPY", "a NumPy array; give a PyTorch checkpoint"),
    (0, b"\x89PNG", "a PNG image; give a PyTorch checkpoint"),
    (0, b"\xff\xd8\xff", "a JPEG image; give a PyTorch checkpoint"),
    (0, b"\x1f\x8b", "a gzip archive; unpack it first"),
    (0, b"version https://git-lfs", "a Git LFS pointer; run `git lfs pull` to get the weights"),
)
_NAMES: Mapping[str, str] = {  # by suffix
    ".tflite": f"a TensorFlow Lite file; {_CONVERTED}",
    ".mlmodel": f"a Core ML model; {_CONVERTED}",
    ".param": f"an ncnn network; {_CONVERTED}",
    ".engine": _PLAN,
    ".plan": _PLAN,
    ".trt": _PLAN,
    ".onnx": f"an ONNX file; {_ONNX}",
    ".h5": _KERAS,
    ".keras": f"a Keras model; {_CONVERTED}",
    ".safetensors": f"a safetensors file; {_CONVERTED}",
    ".torchscript": f"a TorchScript program; {_CONVERTED}",
    ".pte": f"an ExecuTorch program; {_CONVERTED}",
}
_NEIGHBORS = (  # a .bin has no signature, but the other half of the network lies beside it
    (".param", f"the weights of an ncnn network; {_CONVERTED}"),
    (".xml", f"the weights of an OpenVINO network; {_CONVERTED}"),
)


def by_content(head: bytes) -> str | None:
    """The format of a file that begins with ``head`` (HEAD_BYTES of it); None for a checkpoint or an unknown file."""
    for position, signature, description in _SIGNATURES:
        if head[position:].startswith(signature):
            return description
    # A safetensors file begins with a length, which may look like the first byte of any other format.
    return _safetensors(head) or _xml(head) or _protobuf(head) or _json(head)


def by_name(path: Path) -> str | None:
    """The format that the name of the file suggests; for a file whose content is unknown."""
    if path.suffix == ".bin":
        return next((text for suffix, text in _NEIGHBORS if path.with_suffix(suffix).is_file()), None)
    return _NAMES.get(path.suffix.lower())


def of_folder(path: Path) -> str | None:
    """The format of a network that is a folder; None for any other folder. Raises OSError."""
    names = {entry.name for entry in path.iterdir()}
    suffixes = {Path(name).suffix for name in names}
    model = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    if model.is_file():
        with model.open("rb") as file:
            version = _specification_version(file.read(HEAD_BYTES))
        return f"a Core ML package{'' if version is None else f' (specification version {version})'}; {_CONVERTED}"
    if path.suffix == ".mlpackage":
        return f"a Core ML package; {_CONVERTED}"
    if path.suffix == ".mlmodelc" or "coremldata.bin" in names:
        return f"a compiled Core ML model; {_CONVERTED}"
    if "saved_model.pb" in names:
        return f"a TensorFlow SavedModel; {_CONVERTED}"
    if {".param", ".bin"} <= suffixes:
        return f"a folder with an ncnn network; {_CONVERTED}"
    if {".xml", ".bin"} <= suffixes:
        return f"a folder with an OpenVINO network; {_CONVERTED}"
    return None


def of_archive(archive: zipfile.ZipFile) -> str | None:
    """The format of a zip archive; None where ``torch.save`` may have written it, and for an unknown archive."""
    names = set(archive.namelist())
    program = next((name for name in names if re.fullmatch(r"([^/]+/)?(constants\.pkl|code/.+)", name)), None)
    if program is not None:
        version = _archive_version(archive, re.sub(r"(constants\.pkl|code/.+)$", "", program))
        return f"a TorchScript program{version and f' (format version {version})'}; {_CONVERTED}"
    if any(re.fullmatch(r"([^/]+/)?(archive_format|serialized_exported_program\.json)", name) for name in names):
        return f"a program of torch.export; {_CONVERTED}"
    if {"config.json", "model.weights.h5"} <= names:
        return f"a Keras model (version 3); {_CONVERTED}"
    if any(name.endswith("com.apple.CoreML/model.mlmodel") for name in names):
        return f"an archive with a Core ML package; {_CONVERTED}"
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays; give a PyTorch checkpoint"
    return None


def _archive_version(archive: zipfile.ZipFile, root: str) -> str:
    """The number in the entry ``version``, "" where there is none."""
    name = f"{root}version"
    if name not in archive.namelist() or archive.getinfo(name).file_size > 16:
        return ""
    text = archive.read(name).strip()
    return text.decode() if text.isdigit() else ""


def _xml(head: bytes) -> str | None:
    """OpenVINO's network is XML; a refused download is often a web page."""
    if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return None
    net = re.search(rb"<net\b[^>]*>", head)
    if net is None:
        return "a web page; was the download refused?"
    version = re.search(rb'\sversion="(\d+)"', net[0])
    return f"an OpenVINO network{f' (IR version {version[1].decode()})' if version else ''}; {_CONVERTED}"


def _protobuf(head: bytes) -> str | None:
    """ONNX and Core ML both begin with field 1, the version as a number.

    Field 2 is the name of the producer in ONNX, and in Core ML the description of the model: a message, whose first
    field (tag 0x0a) is the first input.
    """
    if len(head) < 3 or head[0] != 0x08:
        return None
    version = _specification_version(head)
    if version is not None:
        return f"a Core ML model (specification version {version}); {_CONVERTED}"
    if head[1] < 0x80 and head[2] in (0x12, 0x1A, 0x22, 0x2A, 0x32, 0x3A, 0x42, 0x72):  # tags of ModelProto
        return f"an ONNX file (IR version {head[1]}); {_ONNX}"
    return None


def _specification_version(head: bytes) -> int | None:
    """The version of a Core ML model; None for anything else."""
    found = re.match(rb"\x08([\x01-\x7f])\x12[\x80-\xff]*[\x00-\x7f]\x0a", head, re.DOTALL)
    return found[1][0] if found else None


def _safetensors(head: bytes) -> str | None:
    """Eight bytes of length, then JSON."""
    if len(head) > 9 and head[8:10] in (b'{"', b"{ ", b"{}") and head[4:8] == bytes(4):
        return f"a safetensors file; {_CONVERTED}"
    return None


def _json(head: bytes) -> str | None:
    return "JSON text; give a PyTorch checkpoint" if head.startswith(b"{") else None

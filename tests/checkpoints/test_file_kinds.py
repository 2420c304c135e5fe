"""Files that are no checkpoints are named, by content first."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest
import torch

import yolopose
from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint

CONVERTED = "give the checkpoint or ONNX it came from"
OPENVINO = b'<?xml version="1.0"?>\n<net name="model" version="11">\n\t<layers>'
# Field 1: the version. Field 2: in ONNX the producer, in Core ML a message that begins with the first input.
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x032.9"
ONNX_WITHOUT_PRODUCER = b"\x08\x0a:\x10\x0a\x05graph"
CORE_ML = b"\x08\x07\x12\x90\x01\x0a\x0a\x0a\x05image"
SAFETENSORS = struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}      ' + bytes(4)


@pytest.mark.parametrize(
    ("content", "description"),
    [
        (b"\x1c\0\0\0TFL3" + bytes(20), f"a TensorFlow Lite file (schema version 3); {CONVERTED}"),
        (b"\x80\0\0\0TFL3" + bytes(20), f"a TensorFlow Lite file (schema version 3); {CONVERTED}"),
        (b"\x30\0\0\0ET12" + bytes(20), f"an ExecuTorch program (ET12); {CONVERTED}"),
        (b"7767517\n75 83\nInput data 0 1 data\n", f"an ncnn network (text format 7767517); {CONVERTED}"),
        (struct.pack("<3i", 7767517, 75, 83), f"an ncnn network (binary format 7767517); {CONVERTED}"),
        (struct.pack("<I", 0x01306B47) + bytes(8), f"the float16 weights of an ncnn network; {CONVERTED}"),
        (CORE_ML, f"a Core ML model (specification version 7); {CONVERTED}"),
        (OPENVINO, f"an OpenVINO network (IR version 11); {CONVERTED}"),
        (b"\xef\xbb\xbf<net name='model'>", f"an OpenVINO network; {CONVERTED}"),
        (SAFETENSORS, f"a safetensors file; {CONVERTED}"),
        (b"\x89HDF\r\n\x1a\n", f"an HDF5 file, as Keras writes them; {CONVERTED}"),
        (b"ftrt\0\0\0\0", f"a TensorRT plan; {CONVERTED}"),
        (b"ptrt\0\0\0\0", f"a TensorRT plan; {CONVERTED}"),
        (
            ONNX,
            "an ONNX file (IR version 8); yolopose-export and yolopose-run read those, yolopose.load reads checkpoints",
        ),
        (ONNX_WITHOUT_PRODUCER, "an ONNX file (IR version 10); yolopose-export and yolopose-run read those"),
        (b"\xff\xd8\xff\xe0 rest of an image", "a JPEG image; give a PyTorch checkpoint"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image; give a PyTorch checkpoint"),
        (b"\x93NUMPY\x01\0", "a NumPy array; give a PyTorch checkpoint"),
        (b"\x1f\x8b\x08\0", "a gzip archive; unpack it first"),
        (b'{"a": 1}', "JSON text; give a PyTorch checkpoint"),
        (b"<!DOCTYPE html><p>404", "a web page; was the download refused?"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "a Git LFS pointer; run `git lfs pull` to get the weights",
        ),
    ],
)
def test_names_files_by_content(content: bytes, description: str, tmp_path: Path) -> None:
    """The name says checkpoint, the content decides."""
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(UnknownCheckpoint) as caught:
        yolopose.load(path)
    assert str(caught.value).startswith(f"{path} is {description}")


@pytest.mark.parametrize(
    ("name", "description"),
    [
        ("net.tflite", "a TensorFlow Lite file"),
        ("net.MLMODEL", "a Core ML model"),
        ("net.param", "an ncnn network"),
        ("net.engine", "a TensorRT plan"),
        ("net.plan", "a TensorRT plan"),
        ("net.trt", "a TensorRT plan"),
        ("net.onnx", "an ONNX file"),
        ("net.h5", "an HDF5 file"),
        ("net.keras", "a Keras model"),
        ("net.safetensors", "a safetensors file"),
        ("net.torchscript", "a TorchScript program"),
        ("net.pte", "an ExecuTorch program"),
    ],
)
def test_names_files_without_a_signature_by_name(name: str, description: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"hello, world")
    with pytest.raises(UnknownCheckpoint) as caught:
        yolopose.load(path)
    assert str(caught.value).startswith(f"{path} is not a PyTorch checkpoint: by its name it is {description}")


def test_an_unknown_file_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"hello, world")
    with pytest.raises(UnknownCheckpoint, match=r"is not a PyTorch checkpoint: it begins with b'hello, w'"):
        yolopose.load(path)


@pytest.mark.parametrize(("suffix", "kind"), [(".param", "an ncnn network"), (".xml", "an OpenVINO network")])
def test_weights_without_a_signature_are_named_after_their_network(suffix: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(16))
    with pytest.raises(UnknownCheckpoint, match="it begins with"):
        yolopose.load(path)
    path.with_suffix(suffix).touch()
    with pytest.raises(UnknownCheckpoint, match=f"by its name it is the weights of {kind}; {CONVERTED}"):
        yolopose.load(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_names_torchscript_programs(tmp_path: Path) -> None:
    script = tmp_path / "script.pt"
    torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)).save(script)
    with pytest.raises(UnknownCheckpoint, match=rf"is a TorchScript program \(format version \d+\); {CONVERTED}"):
        yolopose.load(script)
    for entry in ("archive/constants.pkl", "archive/code/__torch__.py"):
        with zipfile.ZipFile(script, "w") as file:
            file.writestr("archive/data.pkl", b"\x80\x02N.")
            file.writestr(entry, b"\x80\x02N.")
        with pytest.raises(UnknownCheckpoint, match=f"is a TorchScript program; {CONVERTED}"):
            yolopose.load(script)


@pytest.mark.parametrize(
    ("entries", "description"),
    [
        (("archive/archive_format", "archive/models/model.json"), f"a program of torch.export; {CONVERTED}"),
        (("serialized_exported_program.json", "version"), f"a program of torch.export; {CONVERTED}"),
        (("metadata.json", "config.json", "model.weights.h5"), rf"a Keras model \(version 3\); {CONVERTED}"),
        (
            ("a.mlpackage/Manifest.json", "a.mlpackage/Data/com.apple.CoreML/model.mlmodel"),
            f"an archive with a Core ML package; {CONVERTED}",
        ),
        (("a.npy", "b.npy"), "an archive of NumPy arrays; give a PyTorch checkpoint"),
        (("beach.txt",), "a zip archive, but not one that torch.save writes"),
    ],
)
def test_names_archives_by_content(entries: tuple[str, ...], description: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as file:
        for entry in entries:
            file.writestr(entry, "1")
    with pytest.raises(UnknownCheckpoint, match=f"net.pt is {description}"):
        yolopose.load(tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("folder", "files", "description"),
    [
        (
            "a",
            {"Manifest.json": b"{}", "Data/com.apple.CoreML/model.mlmodel": CORE_ML},
            r"a Core ML package \(spec.* 7\)",
        ),
        ("a", {"Data/com.apple.CoreML/model.mlmodel": b""}, "a Core ML package"),
        ("a.mlpackage", {"Manifest.json": b"{}"}, "a Core ML package"),
        ("a.mlmodelc", {}, "a compiled Core ML model"),
        ("a", {"coremldata.bin": b""}, "a compiled Core ML model"),
        ("a", {"saved_model.pb": b"", "variables/x": b""}, "a TensorFlow SavedModel"),
        ("a_ncnn_model", {"model.ncnn.param": b"", "model.ncnn.bin": b""}, "a folder with an ncnn network"),
        ("a_openvino_model", {"a.xml": b"", "a.bin": b""}, "a folder with an OpenVINO network"),
    ],
)
def test_names_networks_that_are_folders(
    folder: str, files: dict[str, bytes], description: str, tmp_path: Path
) -> None:
    (tmp_path / folder).mkdir()
    for name, content in files.items():
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(UnknownCheckpoint, match=f"{folder} is {description}; {CONVERTED}"):
        yolopose.load(tmp_path / folder)


def test_other_folders_and_empty_files_keep_their_messages(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").touch()
    with pytest.raises(CheckpointError, match=r"cannot read the weights .*: not a file"):
        yolopose.load(tmp_path)
    (tmp_path / "net.tflite").touch()
    with pytest.raises(CheckpointError, match=r"net\.tflite is empty \(0 bytes\)"):
        yolopose.load(tmp_path / "net.tflite")


def test_checkpoints_with_other_names_are_read(tmp_path: Path) -> None:
    for name in ("weights.bin", "weights.onnx", "weights.tflite"):
        yolopose.save(yolopose.load("demo"), tmp_path / name)
        assert yolopose.load(tmp_path / name).config.name == "yolox-pose-nano"


@pytest.mark.parametrize("opset", [17, 18])
def test_names_files_that_the_onnx_package_writes(opset: int, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "graph", [], [])
    for producer in ("", "pytorch"):
        model = onnx.helper.make_model(
            graph, producer_name=producer, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9
        )
        (tmp_path / "net.pt").write_bytes(model.SerializeToString())
        with pytest.raises(UnknownCheckpoint, match=r"is an ONNX file \(IR version 9\)"):
            yolopose.load(tmp_path / "net.pt")

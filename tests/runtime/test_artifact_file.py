"""The protobuf walk compared with the onnx package, and on damaged files; metadata in front of plans."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolopose.runtime.artifact_file import MAX_HEADER_BYTES, parts_of, plan_metadata, read_onnx
from yolopose.runtime.errors import ArtifactError


def test_metadata_and_graph_hash_equal_what_onnx_reads(artifact: Path) -> None:
    model = onnx.load(artifact)
    parts = read_onnx(artifact)
    assert parts.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert parts.graph_sha256 == hashlib.sha256(model.graph.SerializeToString()).hexdigest()
    assert parts.opsets == (("", 18),)
    assert parts_of(artifact.read_bytes()) == parts


def test_every_truncation_is_detected_or_lacks_only_later_fields(artifact: Path) -> None:
    whole = artifact.read_bytes()
    parts = parts_of(whole)
    for size in range(1, len(whole), 7):
        try:
            found = parts_of(whole[:size])
        except ArtifactError:
            continue
        # cut exactly between two fields: the graph is whole, so only metadata can be missing
        assert found.graph_sha256 == parts.graph_sha256
        assert not found.metadata


@given(st.binary(max_size=400))
def test_random_bytes_raise_artifact_error(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        parts_of(data)


@given(st.data())
def test_changed_bytes_raise_at_most_artifact_error(data: st.DataObject) -> None:
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    onnx.helper.set_model_props(model, {"key": "value"})
    damaged = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ArtifactError):
        assert len(parts_of(bytes(damaged)).graph_sha256) == 64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not an ONNX file"),
        (b"PK\x03\x04" + bytes(100), "not an ONNX file"),
        (b"hello, this is text\n" * 10, "not an ONNX file"),
        (bytes(64), "not an ONNX file"),
        (b"\x08\x09", "it has no graph"),
        (b"\x08\x09\x3a\x00\x3a\x00", "two graphs"),
        (b"\x3a\x00", "it has no version"),
        (b"\x08\x09\x3a\x7f", "is truncated"),
        (b"\x08\x09\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "is truncated"),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "more than ten bytes"),
        (b"\x08\x09\x3a\x00\x72\x04\x0a\x02\xff\xfe", "not an ONNX file"),  # metadata that is not UTF-8
        (b"\x08\x09\x3a\x00" + b"\x72\x03\x0a\x01k" * 2, "'k' occurs twice"),
        (b"\x08\x09\x72\x12" + b"\x18\x00" * 9, "more than 8 fields"),  # in one metadata entry
        (b"\x08\x09\x42\x03\x0a\x01\xff", "not an ONNX file"),  # the domain of an operator set is not UTF-8
    ],
)
def test_messages_distinguish_kinds_of_damage(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "some.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message) as caught:
        read_onnx(path)
    assert "some.onnx" in str(caught.value)


def test_rejects_millions_of_fields_quickly() -> None:
    start = time.monotonic()
    with pytest.raises(ArtifactError, match="more than 100000 fields"):
        parts_of(b"\x08\x09" + b"\x48\x00" * 5_000_000)
    assert time.monotonic() - start < 2


def test_absent_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot read the artifact .*No such file"):
        read_onnx(tmp_path / "nowhere.onnx")
    with pytest.raises(ArtifactError, match=r"cannot read the artifact .*it is a folder, a pipe or a device"):
        read_onnx(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_rejects_a_pipe_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ArtifactError, match=r"pipe\.onnx: it is a folder, a pipe or a device"):
        read_onnx(tmp_path / "pipe.onnx")


def with_header(header: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(4, "little") + header + b"plan"


@pytest.mark.parametrize(
    ("header", "description"),
    [
        (b'{"description": "Ultralytics YOLO11n-pose"}', "(Ultralytics YOLO11n-pose)"),
        (b'{"task": "pose"}', "(pose)"),
        (b"{}", "(no description)"),
    ],
)
def test_metadata_in_front_of_a_plan_is_described(header: bytes, description: str) -> None:
    found = plan_metadata(with_header(header))
    assert found is not None
    assert found.startswith(f"begins with metadata, as Ultralytics writes it {description}")
    assert "export the weights with yolopose-export" in found


@pytest.mark.parametrize(
    "content", [b"", b"ftrt", with_header(b"{not json"), with_header(b"[1]"), with_header(b"{}", MAX_HEADER_BYTES + 1)]
)
def test_pure_plans_have_no_metadata(content: bytes) -> None:
    assert plan_metadata(content) is None

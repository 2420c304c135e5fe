"""``yolopose-export``: the files that it writes, its output, and its answers to bad input."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

import yolopose
from yolopose.data.synthetic import SyntheticScenes
from yolopose.export import gate
from yolopose.export.command import build_parser, export_config, main
from yolopose.export.config import ShapeConfig
from yolopose.export.pipeline import load
from yolopose.export.source import input_info
from yolopose.runtime import PoseEstimator, read_contract

from ..ultralytics_files import unpacked


def arguments(*words: object) -> list[str]:
    return [str(word) for word in words]


FIXED = ("--imgsz", 64, 96, "--batch", 2)  # four times faster to export than a dynamic file


def test_artifact_carries_its_contract(trained_artifact: Path) -> None:
    assert trained_artifact.name == "mmpose_yoloxpose_nano_lspet.onnx"
    contract = read_contract(trained_artifact)
    assert contract.skeleton.num_keypoints == 14
    assert contract.input.pad_side == "center"
    assert contract.input.height.opt == 256
    assert contract.input.height.multiple == 32
    assert contract.precision.weights == "float32"
    assert contract.parity is not None
    assert contract.parity.images == 8
    assert contract.parity.verdict in ("passed", "unverified")
    assert contract.parity.max_px is not None
    assert contract.parity.max_px <= 0.05
    assert contract.provenance.weights_sha256 is not None
    metadata = onnx.load(trained_artifact).metadata_props
    assert [entry.key for entry in metadata] == ["yolopose"]
    assert not list(trained_artifact.parent.glob(".*"))  # no temporary file is left


def test_fp16_is_half_the_size_and_finds_the_same_people(
    trained_artifact: Path, trained_artifact_fp16: Path, photographs: list[Path]
) -> None:
    assert trained_artifact_fp16.name == "mmpose_yoloxpose_nano_lspet-fp16.onnx"
    assert trained_artifact_fp16.stat().st_size < 0.6 * trained_artifact.stat().st_size
    contract = read_contract(trained_artifact_fp16)
    assert contract.precision.weights == contract.precision.activations == "float16"
    assert "prediction convolutions" in contract.precision.kept_higher
    images = [cv2.imread(str(path)) for path in photographs]
    with PoseEstimator(trained_artifact) as full, PoseEstimator(trained_artifact_fp16) as half:
        for a, b in zip(full(images), half(images), strict=True):
            sure = a[np.abs(a.scores - 0.25) > 0.01]
            assert len(sure) <= len(b)
            assert len(b) <= len(a) + int((np.abs(b.scores - 0.25) <= 0.01).sum())


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_batches_give_the_same_as_single_images(trained_artifact: Path, photographs: list[Path], batch: int) -> None:
    """Empty and crowded images mixed, in any order of sizes."""
    images = [cv2.imread(str(path)) for path in photographs]
    images[2] = np.full((480, 640, 3), 114, np.uint8)  # no person
    images[5] = np.concatenate([images[0], images[0]], axis=1)[:150]  # each person twice
    with PoseEstimator(trained_artifact, threads=2) as estimate:
        singly = [estimate(image) for image in images]
        assert len(singly[2]) == 0
        assert sum(len(people) for people in singly) >= 10
        for start in range(0, len(images), batch):
            for one, many in zip(singly[start:], estimate(images[start : start + batch]), strict=False):
                assert len(one) == len(many)
                np.testing.assert_allclose(one.keypoints, many.keypoints, atol=0.05)
                np.testing.assert_allclose(one.scores, many.scores, atol=1e-4)
                assert one.flags == many.flags


def test_json_is_one_document_on_stdout(tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Verified on labels whose images lie beside them."""
    data = SyntheticScenes(2, seed=0).save_coco(tmp_path / "data")
    words = arguments("--weights", tiny_weights, "--output", tmp_path / "here.onnx", "--data", data, "--json", *FIXED)
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["artifact"] == str(tmp_path / "here.onnx")
    assert document["verdict"] == "unverified"  # the network is untrained
    assert "too few for a verdict" in document["reason"]
    assert document["comparison"]["matched"] > 0  # compared at a lower threshold
    assert document["comparison"]["max_px"] <= 0.05
    assert document["comparison"]["images"] == 2
    assert "labeled by person_keypoints.json" in document["verified_on"]
    contract = document["contract"]
    assert contract["parity"]["ap_reference"] is not None
    assert contract["model"]["name"] == "yolox-pose-nano"
    assert (contract["input"]["height"], contract["input"]["width"], contract["input"]["batch"]) == (64, 96, 2)
    assert {"torch", "onnx", "onnxscript", "onnxsim", "yolopose"} <= set(contract["provenance"]["versions"])


def test_contract_describes_the_input_of_the_source(checkpoints: Path, tmp_path: Path) -> None:
    """Sources differ in padding; every artifact takes BGR bytes."""
    wanted = {
        "edgeai_yolox_s_pose_ti_lite_narrow.pth": ("bottom-right", 114, 32),
        "mmpose_yoloxpose_s_narrow.pth": ("center", 114, 32),
        "edgeai_yolov5_s6_pose_narrow.pt": ("center", 114, 64),
    }
    for name, (side, value, multiple) in wanted.items():
        net = yolopose.load(checkpoints / name)
        given = input_info(net.input, None, ShapeConfig())
        assert (given.pad_side, given.pad_value, given.height.multiple) == (side, value, multiple)
        assert given.channel_order == "bgr"
    odd = yolopose.build(replace(yolopose.SIZES["yolox-pose-nano"], input=replace(net.input, pad_value=7)))
    assert input_info(odd.input, None, ShapeConfig()).pad_value == 7


def test_artifact_that_fails_the_gate_is_kept_as_rejected(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "FLOAT32_PX", -1.0)  # every artifact fails
    content = b"an older artifact"
    (tmp_path / "tiny.onnx").write_bytes(content)
    assert main(arguments("--weights", tiny_weights, "--output", tmp_path, "--limit", 2, *FIXED)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.onnx", "tiny.onnx.rejected"]
    assert (tmp_path / "tiny.onnx").read_bytes() == content
    assert "tiny.onnx.rejected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--weights", "{tiny}", "--int8", "--fp16"], 2, "--int8 and --fp16 exclude each other"),
        (["--weights", "{tiny}", "--target", "cpu"], 2, "--target belongs to --int8"),
        (["--weights", "{tiny}", "--int8", "--search-minutes", "nan"], 2, "--search-minutes must be 0 or more"),
        (["--weights", "{tiny}", "--int8", "--images", "{folder}/few"], 2, "at least 16 images for calibration"),
        (["--weights", "{tiny}", "--format", "coreml"], 2, "invalid choice"),
        (["--weights", "{tiny}", "--frobnicate"], 2, "--frobnicate"),
        ([], 2, "--weights"),
        (["--weights", "{tiny}", "--imgsz", "600"], 2, "32"),
        (["--weights", "{tiny}", "--imgsz", "64", "65"], 2, "32"),
        (["--weights", "{tiny}", "--imgsz", "1", "2", "3"], 2, "--imgsz takes one number or two"),
        (["--weights", "{tiny}", "--imgsz", "99968"], 2, "4096"),
        (["--weights", "{tiny}", "--batch", "0"], 2, "--batch"),
        (["--weights", "{tiny}", "--batch", "many"], 2, "--batch"),
        (["--weights", "{tiny}", "--score", "nan"], 2, "score_threshold"),
        (["--weights", "{tiny}", "--iou", "7"], 2, "iou_threshold"),
        (["--weights", "{tiny}", "--candidates", "4000"], 2, "candidates"),
        (["--weights", "{tiny}", "--max-people", "301"], 2, "max_people"),
        (["--weights", "{tiny}", "--max-ap-drop", "nan"], 2, "--max-ap-drop"),
        (["--weights", "{tiny}", "--limit", "-1"], 2, "--limit"),
        (["--weights", "{tiny}", "--output", "{folder}/plan.engine"], 2, ".onnx"),
        (["--weights", "{tiny}", "--data", "{folder}/labels.json"], 1, "labels.json"),
        (["--weights", "{tiny}", "--images", "{folder}/none"], 1, "none"),
        (["--weights", "{tiny}", "--images", "{folder}"], 1, "no images"),
        (["--weights", "{folder}/absent.pt"], 1, "absent.pt"),
        (["--weights", "{folder}/empty.pt"], 1, "empty.pt"),
        (["--weights", "{folder}/text.pt"], 1, "text.pt"),
    ],
)
def test_rejects_bad_input(
    words: list[str], code: int, message: str, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("these are not weights\n")
    (tmp_path / "few").mkdir()
    for i in range(5):
        cv2.imwrite(str(tmp_path / "few" / f"{i}.png"), np.zeros((8, 8, 3), np.uint8))
    filled = [word.format(tiny=tiny_weights, folder=tmp_path) for word in words]
    if "--output" not in filled:
        filled += ["--output", str(tmp_path / "out")]
    before = {path.name for path in tiny_weights.parent.iterdir()}
    assert main(filled) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert {path.name for path in tiny_weights.parent.iterdir()} == before
    assert not list(tmp_path.rglob("*.onnx*"))


@pytest.mark.parametrize("kind", ["beside", "folder", "yaml"])
def test_data_brings_its_images(kind: str, tiny_weights: Path, tmp_path: Path) -> None:
    """COCO JSON with images beside it or in a named folder, and data.yaml with its val split; no --images."""
    data: object = SyntheticScenes(2, seed=0).save_coco(tmp_path)
    if kind == "folder":
        (tmp_path / "images").rename(tmp_path / "elsewhere")
        data = f"{data}:{tmp_path / 'elsewhere'}"
    elif kind == "yaml":
        (tmp_path / "images").rename(tmp_path / "val")
        (tmp_path / "images").mkdir()
        (tmp_path / "val").rename(tmp_path / "images" / "val")
        (tmp_path / "labels" / "val").mkdir(parents=True)
        (tmp_path / "labels" / "val" / "000000.txt").write_text(f"0 0.5 0.5 0.7 0.7 {'0.5 0.5 2 ' * 17}\n")
        data = tmp_path / "data.yaml"
        data.write_text(f"path: {tmp_path}\ntrain: images/val\nval: images/val\nkpt_shape: [17, 3]\nnames: [person]\n")
    words = arguments("--weights", tiny_weights, "--output", tmp_path, "--data", data, *FIXED)
    config = export_config(build_parser().parse_args(words))
    images = load(config, lambda sentence: None, lambda items, *_: items).images
    assert [path.name for path in images.paths] == ["000000.png", "000001.png"]
    assert images.labels is not None
    assert sum(len(people) for people in images.labels.people.values()) >= 1


def test_option_of_another_mode_is_refused_by_its_own_name(
    tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, flag in (
        (["--search-minutes", "10"], "--search-minutes belongs to --int8"),
        (["--workspace", "64"], "--workspace belongs to --format engine"),
    ):
        assert main(["--weights", str(tiny_weights), *words]) == 2
        assert flag in capsys.readouterr().err


def test_layout_is_for_third_party_files(tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--weights", str(tiny_weights), "--layout", "yolov5"]) == 2
    assert "--layout is for third-party .onnx files" in capsys.readouterr().err


def test_does_not_overwrite_a_third_party_onnx_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = unpacked("yolov8n-pose.pt", tmp_path)
    beside = unpacked("yolov8n-pose-fixed.onnx", tmp_path).rename(tmp_path / "yolov8n-pose.onnx")
    before = beside.read_bytes()
    assert main(["--weights", str(weights), "--limit", "1"]) == 2
    assert "exists and was not exported by yolopose: choose another file with --output" in capsys.readouterr().err
    assert beside.read_bytes() == before


def test_explain_describes_an_onnx_file_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = unpacked("yolov8n-pose-fixed.onnx", tmp_path)
    assert main(["--weights", str(source), "--explain", "--fp16"]) == 0
    text, log = capsys.readouterr()
    assert (text + log).count(str(source)) == 1
    assert "images [1, 3, 96, 96] -> output0 [1, 56, 189]: ultralytics layout, recognized by metadata" in log
    lines = (line.split(":", 1) for line in text.splitlines())
    assert {name: value.strip() for name, value in lines} == {
        "weights": f"{source}: ONNX, ultralytics layout",
        "network": "Ultralytics YOLOv8n-pose model (ultralytics); classes: 0",
        "keypoints": "17 (coco-17), each with x, y and a score",
        "takes": "RGB, 0..255 times 0.003922, letterboxed on gray 114, padding center",
        "input": "images uint8 (batch, height, width, 3) BGR, 96x96 only",
        "batch": "1 to 64",  # fixed to 1 in the file, made dynamic
        "NMS": "added: 300 candidates, 12 rounds, 100 people",
        "thresholds": "score 0.25 and IoU 0.65 by default; inputs per image",
        "source": "keypoints are the mean of up to 8 candidates with an IoU above 0.7; also pose_scores",
        "output": "boxes (batch, 100, 4), scores, labels, keypoints (batch, 100, 17, 3), num_people, flags",
        "precision": "float16, verified against the source file",
        "writes": str(tmp_path / "yolov8n-pose-fixed-fp16.onnx"),
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["yolov8n-pose-fixed.onnx"]


def test_explain_as_json_has_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--weights", "demo", "--explain", "--json", "--imgsz", "320", "--batch", "4"]) == 0
    document = json.loads(capsys.readouterr().out)
    side = {"min": 32, "opt": 320, "max": 4096, "multiple": 32}
    assert document["input"] == {"height": side, "width": side, "batch": {"min": 4, "opt": 4, "max": 4, "multiple": 1}}
    assert (document["weights"], document["third_party"], document["reference"]) == ("demo", False, "PyTorch")
    assert (document["keypoints"], document["classes"], document["precision"]) == (14, ["person"], "float32")
    assert document["nms"]["suppression"] == "added"
    assert document["output"] == "demo.onnx"
    assert "explanation" not in document


@pytest.mark.parametrize(
    ("name", "suppression", "line"),
    [
        ("yolov8n-pose-people.onnx", "in the source file", "in the source file; the best 100 people are kept"),
        ("yolo26n-pose-people.onnx", "not needed", "not needed, the head gives each person once"),
    ],
)
def test_explain_tells_nms_inside_from_a_head_without(
    name: str, suppression: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = unpacked(name, tmp_path)
    assert main(["--weights", str(source), "--explain"]) == 0
    assert line in capsys.readouterr().out
    assert main(["--weights", str(source), "--explain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nms"]["suppression"] == suppression


def test_runs_no_code_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pickle

    trace = tmp_path / "it_ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return os.system, (f"touch {trace}",)

    weights = tmp_path / "evil.pt"
    weights.write_bytes(pickle.dumps({"model": Evil()}))
    assert main(arguments("--weights", weights)) == 1
    assert "system" in capsys.readouterr().err
    assert not trace.exists()


def test_unwritable_output_leaves_no_file(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    assert main(arguments("--weights", tiny_weights, "--output", file / "sub" / "a.onnx", "--limit", 1)) == 1
    assert "cannot" in capsys.readouterr().err
    assert file.read_text() == "not a folder"


@pytest.mark.slow
def test_full_disk_leaves_no_partial_file(tiny_weights: Path, tmp_path: Path) -> None:
    """A limit on file size simulates a full disk: the write fails half way."""
    script = (
        "import resource, signal, sys\n"
        "from yolopose.export.command import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"sys.exit(main(['--weights', {str(tiny_weights)!r}, '--output', {str(tmp_path)!r}, '--limit', '1']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "cannot write" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_same_weights_give_the_same_file(trained_checkpoint: Path, trained_artifact: Path, tmp_path: Path) -> None:
    """Byte for byte, from another process."""
    images = trained_checkpoint.parent.parent / "coco-mini" / "images"
    words = arguments(
        "-m",
        "yolopose.export",
        "--weights",
        trained_checkpoint,
        "--output",
        tmp_path,
        "--images",
        images,
        "--limit",
        8,
        "--imgsz",
        256,
    )
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    assert (tmp_path / trained_artifact.name).read_bytes() == trained_artifact.read_bytes()
    assert stat.S_IMODE((tmp_path / trained_artifact.name).stat().st_mode) & stat.S_IRUSR

"""What is checked before a plan is loaded, and what the errors say."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.conftest import dots, small_contract, write_artifact
from tests.simulated_gpu import SimulatedGpu
from tests.simulated_gpu.tensorrt import simulated_tensorrt
from yolopose.export.tensorrt_options import usual_profile
from yolopose.runtime import PoseEstimator
from yolopose.runtime.backends.tensorrt import TensorRtBackend
from yolopose.runtime.contract import read_contract
from yolopose.runtime.errors import ArtifactError, ContractInvalid, ContractMissing, EngineMismatch

from .plans import HW, built


def test_rejects_a_truncated_plan_or_another_contract(
    gpu: SimulatedGpu, artifact: Path, plan: Path, tmp_path: Path
) -> None:
    content = plan.read_bytes()
    plan.write_bytes(content[:1000])
    with pytest.raises(ArtifactError, match=rf"truncated: 1000 of {len(content)} bytes"):
        PoseEstimator(plan)
    other = built(
        artifact, tmp_path / "other.engine", version="10.13.0", profiles=(usual_profile(small_contract().input, 2),)
    )
    plan.write_bytes(other.read_bytes() + content)
    with pytest.raises(ArtifactError, match=r"dots\.engine\.json is the contract of another plan: sha256"):
        PoseEstimator(plan)
    (tmp_path / "dots.engine.json").unlink()
    with pytest.raises(ContractMissing, match=r"dots\.engine\.json is not there; copy both files"):
        PoseEstimator(plan)
    (tmp_path / "dots.engine.json").write_text(read_contract(artifact).to_json(), encoding="utf-8")
    with pytest.raises(ContractInvalid, match=r"no section engine.*contract of an \.onnx.*--format engine"):
        PoseEstimator(plan)


def test_rejects_another_version_or_gpu(gpu: SimulatedGpu, artifact: Path, plan: Path, tmp_path: Path) -> None:
    for version in ("10.13.3.9", "11.4.0.106"):
        path = built(artifact, tmp_path / f"{version}.engine", version=version)
        with pytest.raises(
            EngineMismatch, match=rf"by TensorRT {version}, here is tensorrt 10\.16\.1\.11: build it here"
        ):
            PoseEstimator(path)
    patched = built(artifact, tmp_path / "patched.engine", version="10.16.1.99")
    PoseEstimator(patched).close()  # another build of the same release
    gpu.capability, gpu.name = (8, 9), "Simulated Ada"
    with pytest.raises(
        EngineMismatch, match=r"on Simulated Orin \(compute capability 8\.7\), here is Simulated Ada \(8\.9\)"
    ):
        PoseEstimator(plan)
    gpu.capability = (8, 7)
    contract = read_contract(plan)
    assert contract.engine is not None
    with pytest.raises(EngineMismatch, match="was built on a Z80, this is"):
        TensorRtBackend(plan, replace(contract, engine={**contract.engine, "machine": "a Z80"}), HW)
    wide = built(artifact, tmp_path / "wide.engine", hardware_compatible=True)
    gpu.capability = (12, 0)
    PoseEstimator(wide).close()
    gpu.capability = (7, 5)
    with pytest.raises(EngineMismatch, match="compute capability"):
        PoseEstimator(wide)


def test_version_compatible_plan_runs_on_the_lean_runtime(
    gpu: SimulatedGpu, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = built(artifact, tmp_path / "old.engine", version="10.3.0", version_compatible=True)
    with pytest.raises(EngineMismatch, match=r'here is tensorrt 10\.16.*pip install "tensorrt_lean==10\.3\.0"'):
        PoseEstimator(path)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", simulated_tensorrt("10.3.0"))
    with PoseEstimator(path) as estimate:
        assert estimate.backend.version == "10.3.0"
        assert len(estimate(dots(HW, (0, 30, 30)))) == 1
    plain = built(artifact, tmp_path / "plain.engine", version="10.3.0")
    with pytest.raises(EngineMismatch, match=r"here is tensorrt 10\.16"):  # lean does not run these
        PoseEstimator(plain)


def test_rejects_a_plan_without_weights_or_for_another_backend(
    gpu: SimulatedGpu, artifact: Path, tmp_path: Path
) -> None:
    stripped = built(artifact, tmp_path / "stripped.engine", strip=True)
    with pytest.raises(EngineMismatch, match=r"without weights \(--strip\): fill it with --refit"):
        PoseEstimator(stripped)
    contract = read_contract(stripped)
    for_cpu = replace(contract, precision=replace(contract.precision, weights="int8", activations="int8", target="cpu"))
    with pytest.raises(EngineMismatch, match="quantized for cpu"):
        TensorRtBackend(stripped, for_cpu, HW)


def test_rejects_a_plan_of_ultralytics(gpu: SimulatedGpu, tmp_path: Path) -> None:
    text = b'{"description": "Ultralytics YOLOv8n-pose model", "task": "pose", "stride": 32}'
    third_party = tmp_path / "yolov8n-pose.engine"
    third_party.write_bytes(len(text).to_bytes(4, "little") + text + b"ftrt plan")
    with pytest.raises(
        EngineMismatch, match=r"as Ultralytics writes it \(Ultralytics YOLOv8n-pose model\).*yolopose-export"
    ):
        PoseEstimator(third_party)


def test_rejects_a_plan_with_other_outputs(gpu: SimulatedGpu, tmp_path: Path) -> None:
    contract = small_contract()
    path = built(write_artifact(tmp_path / "five.onnx", contract, keypoints=5), tmp_path / "five.engine")
    with pytest.raises(ArtifactError, match=r"output keypoints should be .*\[3, 17, 3\].* is \(.*5, 3"):
        PoseEstimator(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensorrt": 10}, "engine.tensorrt: must be a string"),
        ({"gpu": {"name": "x", "compute_capability": "new"}}, "engine.gpu.compute_capability: must be like 8.7"),
        ({"plan_sha256": "x"}, "engine.plan_sha256"),
        ({"version_compatible": None}, "engine.version_compatible"),
        ({"machine": 1}, "engine.machine: must be a string"),
    ],
)
def test_rejects_a_damaged_fingerprint(plan: Path, change: dict[str, Any], message: str) -> None:
    contract = read_contract(plan)
    assert contract.engine is not None
    with pytest.raises(ContractInvalid, match=message):
        TensorRtBackend(plan, replace(contract, engine={**contract.engine, **change}), HW)

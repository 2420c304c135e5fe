"""Code in the README and the docs is run as printed; links lead to files and headings."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.simulated_gpu import simulate_gpu
from tests.test_structure import ROOT
from yolopose.export.tensorrt import build_engine, import_tensorrt
from yolopose.export.tensorrt_options import EngineConfig, usual_profile
from yolopose.runtime import PoseEstimator, read_contract
from yolopose.runtime.backends.cuda import find_gpu


def code_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def workplace(tmp_path: Path, trained_artifact: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with best.onnx and photo.jpg, which the documents speak of."""
    shutil.copy(trained_artifact, tmp_path / "best.onnx")
    shutil.copy(photographs[0], tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_three_lines_of_the_readme_print_what_it_shows(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(data_dir / "coco-mini" / "images" / "000000129648.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    (code,) = code_blocks("README.md")
    assert len([line for line in code.splitlines() if line]) == 3
    exec(code, {})
    shown = (ROOT / "README.md").read_text(encoding="utf-8").partition(code)[2].splitlines()
    assert capsys.readouterr().out.strip() == next(line for line in shown if line.startswith("    ")).strip()


def test_embedding_with_and_without_the_runtime(workplace: Path) -> None:
    with_runtime, without_runtime = code_blocks("docs/embed.md")
    assert len([line for line in without_runtime.splitlines() if line.strip()]) <= 16
    first: dict[str, Any] = {}
    exec(with_runtime, first)
    assert (workplace / "people.jpg").stat().st_size > 0
    assert len(first["people"]) > 0
    second: dict[str, Any] = {}
    exec(without_runtime, second)
    np.testing.assert_allclose(second["people"], first["people"].keypoints, atol=1e-2)


def test_a_plan_in_two_slots(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_gpu(monkeypatch)
    config = EngineConfig((usual_profile(read_contract("best.onnx").input),))
    build_engine(Path("best.onnx"), Path("best.engine"), config, import_tensorrt(), find_gpu(), lambda text: None)
    (code,) = code_blocks("docs/tensorrt.md")
    found: dict[str, Any] = {}
    exec(code, found)
    with PoseEstimator("best.onnx") as estimate:
        expected = estimate(cv2.imread("photo.jpg"))
    assert len(found["people"]) == 5
    for people in found["people"]:
        np.testing.assert_allclose(people.keypoints, expected.keypoints, atol=1e-2)


def test_examples_of_style_are_those_of_the_code() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    examples = re.findall(r"from `([\w/.]+)`:\n\n```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 2
    for file, code in examples:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert all(line.strip() in source for line in code.splitlines()), file


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        for target, place in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name} links to {target}"
            assert not place or place in headings(file), f"{page.name} links to {target}#{place}"


def headings(page: Path) -> set[str]:
    """As links name them: small letters, spaces as hyphens, everything else left out."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def test_openvino_reads_and_runs_the_file(trained_artifact: Path, photographs: list[Path]) -> None:
    openvino = pytest.importorskip("openvino")
    with PoseEstimator(trained_artifact, threads=1) as estimate:
        batch, _ = estimate.preprocess([cv2.imread(str(path)) for path in photographs[:3]])
        expected = estimate.infer(batch)
        core = openvino.Core()
        compiled = core.compile_model(str(trained_artifact), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        thresholds = (
            np.full((3, 1), estimate.score_threshold, np.float32),
            np.full((3, 1), estimate.iou_threshold, np.float32),
        )
        outputs = compiled({"images": batch, "score_threshold": thresholds[0], "iou_threshold": thresholds[1]})
    count = outputs["num_people"]
    np.testing.assert_array_equal(count, expected.num_people)
    assert count.sum() > 0
    for row in range(3):
        np.testing.assert_allclose(
            outputs["keypoints"][row, : count[row]], expected.keypoints[row, : count[row]], atol=0.05
        )
        np.testing.assert_allclose(outputs["scores"][row, : count[row]], expected.scores[row, : count[row]], atol=1e-4)

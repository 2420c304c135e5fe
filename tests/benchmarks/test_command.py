"""The command yolopose-bench."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

from yolopose.benchmarks.command import build_parser, main, settings_from
from yolopose.benchmarks.settings import BenchSettings

QUICK = ["--iterations", "4", "--warmup", "1", "--rounds", "1", "--threads", "1"]


def test_prints_tables_and_writes_files(
    artifact: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([str(artifact), "--images", str(photographs), *QUICK, "--output", str(tmp_path / "deep" / "out")])
    printed = capsys.readouterr()
    assert code == 0
    assert "Latency of one image, ms" in printed.out
    assert "people" in printed.out
    assert "measuring: 2/2" in printed.err
    document = json.loads((tmp_path / "deep" / "out" / "benchmark.json").read_text(encoding="utf-8"))
    assert document["artifacts"][0]["latency"]["total"]["n"] == 4
    page = (tmp_path / "deep" / "out" / "benchmark.md").read_text(encoding="utf-8")
    assert page.startswith("# yolopose-bench\n\n`yolopose-bench ")
    assert [path.name for path in sorted((tmp_path / "deep" / "out").iterdir())] == ["benchmark.json", "benchmark.md"]


def test_json_is_one_document_on_stdout(artifact: Path, photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(artifact), "--images", str(photographs), "--limit", "2", *QUICK, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["num_images"] == 2
    assert document["machine"]["cpu"]


def test_labels_add_average_precision(
    artifact: Path, photographs: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(artifact), "--images", str(photographs), "--data", str(labels), *QUICK]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (figures,), (row,) = document["artifacts"], document["summary"]
    assert (row["file"], row["backend"], row["precision"]) == ("dots.onnx", "onnxruntime", "float32")
    assert (row["bytes"], row["ap50"]) == (artifact.stat().st_size, figures["ap"]["ap50"])
    assert row["p50_ms"] == figures["latency"]["total"]["p50_ms"]
    assert row["ap_change"] is None  # against itself
    assert figures["ap"]["ap50"] == pytest.approx(81 / 101)  # precision 1 at the recalls 0, .01 ... .80 of 101
    assert (figures["ap"]["images"], figures["ap"]["people"]) == (5, 5)
    assert (figures["found"]["score"], figures["found_evaluation"]["score"]) == (0.25, 0.01)
    assert main(words) == 0
    assert "COCO keypoint AP" in capsys.readouterr().out


def test_summary_of_one_file_on_two_backends(
    artifact: Path, photographs: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(artifact), f"{artifact}@onnxruntime"]
    assert main([*files, "--images", str(photographs), "--data", str(labels), *QUICK]) == 0
    title, head, _, first, second, legend, *_ = capsys.readouterr().out.splitlines()
    assert title == "Summary"
    assert head.split("  ")[0] == "file"
    assert first.split()[:3] == ["dots.onnx", "onnxruntime", "float32"]
    assert first.split()[-1] == "-"
    assert second.split()[:3] == ["dots.onnx@onnxruntime", "onnxruntime", "float32"]
    assert second.endswith("0.00 [0.00, 0.00]")
    assert "AP difference to dots.onnx with the 95 % interval of a paired bootstrap over images" in legend


def test_labels_of_another_skeleton_fail_before_measuring(
    artifact: Path, photographs: Path, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = labels.read_text(encoding="utf-8").replace('"left_eye"', '"left ear"').replace('"left eye"', '"left ear"')
    (tmp_path / "wrong.json").write_text(wrong, encoding="utf-8")
    assert main([str(artifact), "--images", str(photographs), "--data", str(tmp_path / "wrong.json"), *QUICK]) == 1
    printed = capsys.readouterr()
    assert "keypoint 1 is 'left ear'" in printed.err
    assert "measuring" not in printed.err


def test_synthetic_scenes_are_noted(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(artifact), "--limit", "1", *QUICK]) == 0
    printed = capsys.readouterr()
    assert "synthetic scenes" in printed.err
    assert "note: synthetic scenes" in printed.out


def test_flags_become_settings() -> None:
    sizes = ["--imgsz", "64", "96", "--batch", "2"]
    words = ["a.onnx", "b.onnx", *sizes, "--score", "0.3", "--evaluation-score", "0.05", "--device", "cpu"]
    assert settings_from(build_parser().parse_args(words)) == BenchSettings(
        (Path("a.onnx"), Path("b.onnx")), imgsz=(64, 96), score=0.3, evaluation_score=0.05, batch=2, device="cpu"
    )
    assert settings_from(build_parser().parse_args(["a.onnx"])) == BenchSettings((Path("a.onnx"),))
    assert settings_from(build_parser().parse_args(["a.onnx", "--imgsz", "64"])).imgsz == (64, 64)


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "(default: 120)" in page
    assert "(default: 0.01)" in page


def bad_files(folder: Path, artifact: Path) -> None:
    """Makes the files that the table below names."""
    shutil.copy(artifact, folder / "good.onnx")
    (folder / "photos").mkdir()
    shutil.copytree(artifact.parent, folder / "photos" / "below")
    (folder / "empty").mkdir()
    (folder / "damaged").mkdir()
    (folder / "damaged" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (folder / "cut.onnx").write_bytes(artifact.read_bytes()[:-40])
    (folder / "text.onnx").write_text("not a model", encoding="utf-8")
    graph = helper.make_graph([], "nothing", [], [])
    onnx.save(helper.make_model(graph, ir_version=9), folder / "plain.onnx")
    (folder / "file").write_text("in the way", encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("", 2, "the following arguments are required: FILE"),
        ("good.onnx --fast", 2, "unrecognized arguments: --fast"),
        ("good.onnx --iter 5", 2, "unrecognized arguments: --iter"),
        ("good.onnx --threads many", 2, "argument --threads: invalid int value: 'many'"),
        ("good.onnx --score nan", 2, "--score must lie in 0..1, got nan"),
        ("good.onnx --imgsz 1 2 3", 2, "--imgsz takes one number, or height and width"),
        ("good.onnx --data labels.json", 1, "labels.json: no such file"),
        ("good.onnx --data d.yaml --images photos", 2, "d.yaml names its own images"),
        ("good.onnx --evaluation-images some", 2, "invalid choice: 'some'"),
        ("absent.pt", 1, "cannot read the checkpoint absent.pt"),
        ("good.onnx absent.pth", 1, "cannot read the checkpoint absent.pth"),
        ("demo --reference demo", 2, "put demo among the files instead"),
        ("best.pt --backend openvino", 2, "checkpoints run on the CPU"),
        ("good.onnx --limit 1 --imgsz 33", 2, "height 33 is not legal"),
        ("good.onnx --limit 1 --backend nonsense", 2, "backend must be one of"),
        ("absent.onnx", 1, "absent.onnx: No such file"),
        ("good.onnx cut.onnx", 1, "cut.onnx"),
        ("text.onnx", 1, "text.onnx is not"),
        ("plain.onnx", 1, "plain.onnx"),
        ("good.onnx --images absent", 1, "cannot read the folder absent"),
        ("good.onnx --images file", 1, "cannot read the folder file"),
        ("good.onnx --images empty", 1, "no images in empty"),
        ("good.onnx --images damaged", 1, "a.png"),
        ("good.onnx --reference absent.pt", 1, "cannot read the checkpoint absent.pt"),
        ("good.onnx --output file", 1, "cannot make the folder file"),
        ("good.onnx --limit 1 --device cuda:0", 1, "CUDAExecutionProvider"),
    ],
)
def test_bad_input_has_a_message_and_exit_code(
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    code: int,
    message: str,
) -> None:
    bad_files(tmp_path, artifact)
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert main([*words.split(), "--json"]) == code
    assert message in json.loads(capsys.readouterr().out)["error"]["message"]


def test_unwritable_folder_fails_before_measuring(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("no folder here that even root cannot write to")
    assert main([str(artifact), "--output", "/proc/self"]) == 1
    printed = capsys.readouterr()
    assert "cannot write" in printed.err
    assert "measuring" not in printed.err


def test_full_disk_loses_no_figures_and_no_older_file(
    artifact: Path,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "benchmark.json").write_text("older", encoding="utf-8")

    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert main([str(artifact), "--images", str(photographs), *QUICK, "--output", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "No space left on device" in printed.err
    assert "Latency of one image, ms" in printed.err
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["older"]


BLOCKER = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "onnxscript", "tabulate"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Block())
"""


def test_json_works_without_torch_onnx_and_tabulate(artifact: Path, photographs: Path, tmp_path: Path) -> None:
    # Python imports sitecustomize in the command and in every child process
    (tmp_path / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    blocked = subprocess.run([sys.executable, "-c", "import torch"], env=environment, capture_output=True, text=True)
    assert "torch is blocked" in blocked.stderr
    command = [sys.executable, "-m", "yolopose.benchmarks", str(artifact), "--images", str(photographs)]
    done = subprocess.run([*command, *QUICK, "--json"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["artifacts"][0]["found"]["people"] == 7

"""The real path: a trained checkpoint, its export, PyTorch beside it. Everything else here works without torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from yolopose.benchmarks.command import main

pytest.importorskip("torch")
pytest.importorskip("yolopose.export.onnx_export", exc_type=ImportError)


@pytest.mark.slow
def test_artifact_and_reference_side_by_side(
    trained_artifact: Path,
    trained_artifact_fp16: Path,
    trained_checkpoint: Path,
    data_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [
        *(str(trained_artifact), str(trained_artifact_fp16), "--reference", str(trained_checkpoint)),
        *("--images", str(data_dir / "lspet" / "images"), "--data", str(data_dir / "lspet" / "val.json")),
        *("--limit", "12", "--iterations", "12", "--warmup", "2", "--rounds", "2", "--threads", "1"),
    ]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    full, half = document["artifacts"]
    assert full["parity"]["matched"] == full["parity"]["people"] > 0
    assert (full["parity"]["missing"], full["parity"]["extra"]) == (0, 0)
    assert full["parity"]["max_px"] <= 0.05
    assert full["parity"]["max_score_deviation"] <= 1e-4
    assert half["parity"]["mean_oks"] > 0.99
    # the same people give the same AP; the artifact's C may cut candidates at this threshold, which its flags tell
    assert full["ap"]["images"] == document["reference"]["ap"]["images"] == 12
    if full["found_evaluation"]["candidates_cut"] == full["found_evaluation"]["people_cut"] == 0:
        assert full["ap"]["ap"] == pytest.approx(document["reference"]["ap"]["ap"], abs=1e-3)
    assert full["network"]["tail_share"]["n"] == 12
    assert half["network"]["tail_share"] is None
    assert document["reference"]["latency"]["total"]["n"] == 12
    assert document["reference"]["threads"] == 1
    assert not [note for note in document["notes"] if "other weights" in note]

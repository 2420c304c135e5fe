from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from yolopose.export.tensorrt_options import EngineConfig, profile_from_text, usual_profile
from yolopose.runtime.contract import InputInfo, Range
from yolopose.runtime.errors import UsageError

GIVEN = InputInfo(height=Range(32, 640, 1280, 32), width=Range(32, 640, 1280, 32), batch=Range(1, 1, 64))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8", {"name": "8", "batch": [8, 8, 8], "height": [640, 640, 640], "width": [640, 640, 640]}),
        ("1:4:8@320", {"name": "1:4:8@320", "batch": [1, 4, 8], "height": [320] * 3, "width": [320] * 3}),
        (
            "live=1@320:640:960x1280",
            {"name": "live", "batch": [1, 1, 1], "height": [320, 640, 960], "width": [320, 640, 1280]},
        ),
    ],
)
def test_profile_from_text(text: str, expected: dict[str, Any]) -> None:
    assert profile_from_text(text, GIVEN).to_dict() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1:2", "--profile must be like 8, 1:4:8@640"),
        ("x", "got 'x'"),
        ("8:4:2", "8, 4, 2"),
        ("65", "profile 65: batch 65 is not accepted by the artifact: 1 to 64"),
        ("1@650", "height 650 is not accepted by the artifact: 32 to 1280 in steps of 32"),
        ("0", "need 1 <= min"),
    ],
)
def test_rejects_profiles(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        profile_from_text(text, GIVEN)


@pytest.mark.parametrize("wrong", [{"workspace_mib": 0}, {"level": 6}, {"dla": -1}, {"tactics": 0}])
def test_rejects_options_out_of_range(wrong: dict[str, int]) -> None:
    (value,) = wrong.values()
    with pytest.raises(UsageError, match=f"got {value}$"):
        EngineConfig((usual_profile(GIVEN),), **wrong)


def test_needs_profiles_without_gaps() -> None:
    with pytest.raises(ValueError, match="at least one profile"):
        EngineConfig(())
    with pytest.raises(UsageError, match="no profile takes a batch of 2, between 1 and 4"):
        EngineConfig((usual_profile(GIVEN, 1), replace(usual_profile(GIVEN, 4), batch=Range(4, 4, 8))))

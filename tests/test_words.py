"""Code, docs and messages use the words of docs/glossary.md: none of the words that they replaced is left."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.test_structure import ROOT

# pattern of an old word -> what to write instead
REPLACED = {
    r"\btold\b": "description, errors, said",
    r"witness": "reference_name, fp16_emulation",
    r"\bislands?\b": "float32_nodes",
    r"\bsettle[sd]?\b|\bsettling\b": "resolve, converge",
    r"spare_others": "check_overwrite",
    r"\bof (ours|others)\b|\bothers' \w+": "exported by yolopose, third-party",
    r"\bforeign\b": "third-party",
    r"\b[Jj]ournal\b": "ResumeCache",
    r"\bReaders\b": "Consumers",
    r"\b(one|a|each|this|first|last) sitting\b|training[./]sitting": "training session",
    r"\bEngine\b(?!Mismatch)(?=\()": "TrainStep",
    r"learns? whom|who learns": "label assignment",
    r"goes? flat": "robust (Charbonnier) term",
    r"gone after training": "training only",
    r"\ba text\b": "a string",
    r"is had\b|\bhad, or\b": "raises BackendUnavailable if it is not available",
    r"nobody knows": "undefined after an error",
    r"by heart": "overfits",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bplayed\b": "simulated",
    r"\bthe house\b": "repository layout",
    r"nothing to lose": "the reference AP is too low to measure a drop",
    r"higher builds longer|to time a layer": "optimization level, max tactics",
    r"(?<!def )\bsigned\(": "bootstrap_sample",
    r"\bheed(s|ed)?\b|\bnobody has to remember\b": "plain words",
    r"recognis|normalis|optimis|initialis|quantis|organis|serialis|summaris|generalis|minimis|maximis": "-iz-",
    r"colour|neighbour|behaviour|favour": "-or",
    r"labell": "labeled, labeling",
    r"\bcentre(s|d)?\b": "center",
    r"(?<!weights_)licence(?!_)": "license",
    r"\bgrey\b": "gray",
}
SUFFIXES = {".py", ".md", ".toml", ".yml", ".txt", ""}
UNCHANGED = {"tests/test_words.py", "LICENSE"}  # and published results, which are records


def text_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [
        ROOT / name
        for name in listed.splitlines()
        if Path(name).suffix in SUFFIXES and name not in UNCHANGED and not name.startswith("benchmarks/results/")
    ]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
@pytest.mark.parametrize("pattern", REPLACED)
def test_no_replaced_word_is_left(pattern: str) -> None:
    word = re.compile(pattern)
    found = []
    for path in text_files():
        if path.is_symlink() or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if word.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, f"write {REPLACED[pattern]!r}:\n" + "\n".join(found)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_docs_are_wrapped_at_100_columns() -> None:
    """Tables, commands and lines with a link may be longer."""
    long = []
    for path in [p for p in text_files() if p.suffix == ".md"]:
        code = False
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            code ^= line.startswith("```")
            free = code or line.startswith(("|", "    ", "![")) or "](" in line or "`" in line[90:]
            if len(line) > 100 and not free:
                long.append(f"{path.relative_to(ROOT)}:{number}: {len(line)}")
    assert not long

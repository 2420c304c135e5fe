"""The structure is that of docs/architecture.md: import rules, no circles, what an import loads, order of the steps."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "yolopose": "yolopose",
    "export": "yolopose.export",
    "runtime": "yolopose.runtime",
    "benchmarks": "yolopose.benchmarks",
}
HEAVY = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt", "pycocotools", "matplotlib")

# What each folder may import from the others (docs/architecture.md, "Who may import whom").
EXPORT_MAY = (
    "yolopose.model",
    "yolopose.deploy",
    "yolopose.checkpoints",
    "yolopose.data",
    "yolopose.evaluation",
    "yolopose.bootstrap",
    "yolopose.runtime",
)
BENCHMARKS_MAY = ("yolopose.runtime", "yolopose.evaluation", "yolopose.bootstrap", "yolopose.data")
BENCHMARKS_MAY_LAZILY = (*BENCHMARKS_MAY, "yolopose.export", "yolopose.checkpoints", "yolopose.deploy")
STUDIES = "yolopose.benchmarks.studies"
CORE_MAY_NOT = (
    "yolopose.export",
    "yolopose.benchmarks",
    *(f"yolopose.runtime.{m}" for m in ("estimator", "command", "backends")),
)


def modules() -> list[tuple[str, Path]]:
    """Dotted name and file of every module that we ship."""
    found = []
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT / folder)
            if folder == "yolopose" and relative.parts[0] in FOLDERS:
                continue  # the links
            parts = [package, *relative.with_suffix("").parts]
            found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def imports(name: str, path: Path) -> Iterator[tuple[str, bool, int]]:
    """(absolute module, lazy, level) of each import; lazy: inside a function or under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def visit(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool, int]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, lazy, 0
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, node.module] if node.module else up)
            known = {name for name, _ in MODULES}
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield (whole if whole in known else base), lazy, node.level
        else:
            inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                inside = True
            for child in ast.iter_child_nodes(node):
                yield from visit(child, inside)

    yield from visit(tree, False)


MODULES = modules()
EDGES = [(name, *edge) for name, path in MODULES for edge in imports(name, path)]


def _in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _folder(module: str) -> str:
    for folder in ("export", "runtime", "benchmarks"):
        if _in(module, (f"yolopose.{folder}",)):
            return folder
    return "core"


def test_there_is_something_to_check() -> None:
    assert len(MODULES) > 40
    assert {_folder(name) for name, _ in MODULES} == {"core", "export", "runtime", "benchmarks"}


@pytest.mark.parametrize("name", [name for name, _ in MODULES])
def test_who_imports_whom(name: str) -> None:
    home = _folder(name)
    for source, target, lazy, level in EDGES:
        if source != name or target.split(".")[0] not in ("yolopose", "export", "runtime", "benchmarks", "tests"):
            continue
        where = f"{name} imports {target}"
        assert target.split(".")[0] not in ("export", "runtime", "benchmarks", "tests"), (
            f"{where}: a second copy of the module"
        )
        if target == "yolopose":  # the package itself: its names are lazy
            continue
        there = _folder(target)
        if there == home:
            assert level > 0, f"{where}: inside a folder imports are relative"
            continue
        assert level == 0, f"{where}: across folders imports are absolute"
        assert there != "benchmarks", where
        if home == "runtime":
            raise AssertionError(f"{where}: the runtime is a leaf")
        if home == "core":
            assert not _in(target, CORE_MAY_NOT), where
        if home == "export":
            assert _in(target, EXPORT_MAY), where
        if home == "benchmarks":
            assert _in(name, (STUDIES,)) or _in(target, BENCHMARKS_MAY_LAZILY if lazy else BENCHMARKS_MAY), where


def test_nothing_in_the_wheel_imports_a_study() -> None:
    for source, target, _, _ in EDGES:
        assert _in(source, (STUDIES,)) or not _in(target, (STUDIES,)), f"{source} imports {target}"


def test_no_circles() -> None:
    """Imports inside functions and under TYPE_CHECKING count too: a circle that they hide is still one."""
    graph: dict[str, set[str]] = {name: set() for name, _ in MODULES}
    for source, target, _, _ in EDGES:
        if source != "yolopose" and target in graph and target != source:  # the package's own names are lazy
            graph[source].add(target)
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in sorted(graph[name]):
                walk(target, (*trail, name))
            done.add(name)

    for name in graph:
        walk(name, ())


# A reader finds the steps of each path in one function, in the order in which they happen (docs/architecture.md).
STEPS = {
    ("export/pipeline.py", "export_artifact"): ["load", "build", "reduce_precision", "verify_export", "write"],
    ("yolopose/training/run.py", "train"): [
        "_run_folder",
        "new_net",
        "device_for",
        "TrainStep",
        "Trainer",
        "run",
        "record",
    ],
    ("yolopose/training/trainer.py", "run"): ["_train_epoch", "_validate", "save"],
    ("runtime/estimator.py", "_estimate"): ["preprocess", "infer", "postprocess"],
    ("benchmarks/run.py", "run_benchmark"): ["artifact_entries", "_open_images", "jobs", "run", "_report"],
}


@pytest.mark.parametrize(("file", "function"), STEPS)
def test_steps_stand_in_one_function_in_order(file: str, function: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function]
    calls = sorted(
        (node.end_lineno, node.end_col_offset, node.func.id if isinstance(node.func, ast.Name) else node.func.attr)
        for node in ast.walk(found)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    )
    names = iter([name for _, _, name in calls])
    assert all(step in names for step in STEPS[file, function]), calls  # in this order, others between them
    assert (found.end_lineno or 0) - found.lineno < 70, "a page"


def test_every_folder_is_a_package() -> None:
    """A folder without __init__.py would be left out of the wheel."""
    for _, path in MODULES:
        assert (path.parent / "__init__.py").is_file(), path.parent


def _loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import yolopose", (*HEAVY, "cv2", "numpy")),
        ("import yolopose.runtime", (*HEAVY, "cv2")),
        ("from yolopose.runtime import PoseEstimator, PoseResult, draw_people", HEAVY),
        ("import yolopose.runtime.command", HEAVY),
        ("import yolopose.benchmarks.command", HEAVY),
        ("import yolopose.export.command", HEAVY),
        ("import yolopose.training.command", HEAVY),
        ("import yolopose.evaluation, yolopose.bootstrap", ("torch", "onnx", "onnxruntime")),
        ("import yolopose.data.synthetic", ("torch", "onnx", "onnxruntime")),
    ],
)
def test_what_an_import_loads(code: str, forbidden: tuple[str, ...]) -> None:
    assert not _loaded_by(code) & set(forbidden)

"""The contract: golden bytes, round trips, and a message for every wrong value; files that carry one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolopose.runtime.backends.fake import fake_contract
from yolopose.runtime.contract import (
    METADATA_KEY,
    OUTPUT_NAMES,
    Contract,
    NmsInfo,
    ParityInfo,
    PoseInfo,
    Provenance,
    Range,
    Section,
    read_contract,
    skeleton_from_dict,
    skeleton_from_json,
)
from yolopose.runtime.errors import ArtifactError, ContractInvalid, ContractMissing, ContractTooNew, DataError
from yolopose.runtime.skeleton import COCO_17, LSP_14, Skeleton

GOLDEN = Path(__file__).parent / "golden"

FULL = replace(
    fake_contract(LSP_14, batch=Range(4, 4, 4)),
    pose=PoseInfo("consensus", 0.7, 8, spread=True),
    parity=ParityInfo(
        "passed", 8, 21, 0.01, 0.002, 1e-5, 0.999, 0.5, 0.49, (0.45, 0.53), "b.jpg", {"torch": "2"}, "avx2"
    ),
    engine={"gpu": "Orin", "profiles": [[1, 2]]},
)


def document(path: str = "", value: Any = None, remove: bool = False) -> dict[str, Any]:
    """The full document with the value at a dotted path replaced or removed."""
    made: dict[str, Any] = copy.deepcopy(FULL.to_dict())
    if path:
        *parents, last = path.split(".")
        place = made
        for key in parents:
            place = place[key]
        if remove:
            del place[last]
        else:
            place[last] = value
    return made


def test_bytes_equal_the_golden_documents() -> None:
    """Artifacts in the field hold these bytes: neither the order of the keys nor the form of a value may change."""
    assert FULL.to_json() == (GOLDEN / "contract-full.json").read_text(encoding="utf-8")
    assert fake_contract().to_json(indent=1) == (GOLDEN / "contract-minimal.json").read_text(encoding="utf-8")


def test_documents_of_schema_1_0_are_read() -> None:
    """They have no section "pose": keypoints are those of the best candidate, and there are no pose scores."""
    old = Contract.from_json((GOLDEN / "contract-1.0.json").read_text(encoding="utf-8"))
    assert old == replace(FULL, pose=PoseInfo())
    assert old.pose.outputs == OUTPUT_NAMES


def test_outputs_of_each_form() -> None:
    assert PoseInfo("consensus").outputs == (*OUTPUT_NAMES, "pose_scores")
    assert PoseInfo("consensus", spread=True).outputs == (*OUTPUT_NAMES, "pose_scores", "keypoint_spread")


def test_maps_of_strings_are_written_in_the_order_of_their_keys() -> None:
    provenance = Provenance("0" * 64, versions={"torch": "2", "numpy": "1"})
    contract = replace(FULL, provenance=provenance, engine={"z": 1, "a": 2})
    assert list(contract.to_dict()["provenance"]["versions"]) == ["numpy", "torch"]
    assert list(contract.to_dict()["engine"]) == ["z", "a"]  # kept as it is


@pytest.mark.parametrize("contract", [FULL, fake_contract()])
def test_round_trip(contract: Contract) -> None:
    assert Contract.from_json(contract.to_json()) == contract
    assert Contract.from_json(contract.to_json(indent=2)) == contract
    assert contract.to_json() == Contract.from_json(contract.to_json()).to_json()


def test_fixed_sizes_are_one_number_and_ranges_four() -> None:
    given_input = FULL.to_dict()["input"]
    assert given_input["batch"] == 4
    assert given_input["height"] == [64, 640, 1280, 32]
    assert Range(64, 64, 64, 32) == Range(64, 64, 64)
    assert [size in Range(64, 640, 1280, 32) for size in (32, 64, 65, 1280, 1312)] == [False, True, False, True, False]
    assert str(Range(64, 640, 1280, 32)) == "64 to 1280 in steps of 32"
    assert str(Range(640, 640, 640)) == "640 only"


def test_ignores_unknown_keys_and_newer_minor_versions() -> None:
    made = document("schema", "1.7")
    made["later"] = {"a": 1}
    made["nms"]["later"] = [1]
    assert Contract.from_dict(made) == FULL


@pytest.mark.parametrize("schema", ["2.0", "10.3"])
def test_rejects_newer_major_version(schema: str) -> None:
    with pytest.raises(ContractTooNew, match=f"{schema} is newer than 1.1.*update yolopose"):
        Contract.from_dict({"schema": schema})


@pytest.mark.parametrize("schema", ["", "1", "0.9", "1.0.0", "v1.0", "1.x"])
def test_schema_must_be_a_version(schema: str) -> None:
    with pytest.raises(ContractInvalid, match="schema: must be a version"):
        Contract.from_dict(document("schema", schema))


def _leaves(values: dict[str, Any], where: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found.append(where + key)
        if isinstance(value, dict) and key not in ("versions", "engine"):
            found += _leaves(value, f"{where}{key}.")
    return found


OPTIONAL = {
    "pose",
    "parity",
    "engine",
    "precision.placement",
    "provenance.weights_sha256",
    "provenance.weights_licence",
} | {f"parity.{name}" for name in FULL.to_dict()["parity"] if name not in ("verdict", "images")}


@pytest.mark.parametrize("path", _leaves(FULL.to_dict()))
def test_every_key_is_type_checked_and_named(path: str) -> None:
    with pytest.raises(ContractInvalid) as caught:
        Contract.from_dict(document(path, object()))
    assert str(caught.value).startswith(path)
    if path in OPTIONAL:
        assert isinstance(Contract.from_dict(document(path, remove=True)), Contract)
    else:
        with pytest.raises(ContractInvalid) as caught:
            Contract.from_dict(document(path, remove=True))
        assert str(caught.value).startswith(path)
        assert "got nothing" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("pose.keypoints", "median", "pose.keypoints: must be one of best, consensus, got 'median'"),
        ("pose.keypoints", "best", "pose.spread: needs keypoints consensus"),
        ("pose.support_iou", 1.5, "pose.support_iou: must lie in 0..1"),
        ("pose.supporters", 0, "pose.supporters: must lie in 1..100"),
        ("model.task", "detect", "model.task: must be one of pose"),
        ("model.classes", [], "model.classes: must name"),
        ("model.classes", ["person", 2], r"model.classes\[1\]: must be a string"),
        ("skeleton.flip_pairs", [[0, 99]], "skeleton.flip_pairs"),
        ("skeleton.sigmas", [0.1], "skeleton.sigmas: 1 values for 14"),
        ("input.height", True, "input.height: must be an integer"),
        ("input.height", 640.0, "input.height: must be an integer"),
        ("input.height", 0, "input.height: need 1 <= min"),
        ("input.height", [64, 32, 640, 32], "input.height: need 1 <= min <= opt <= max"),
        ("input.height", [64, 640, 1280, 48], "input.height: multiple 48 must divide"),
        ("input.height", [64, 640, 1280, 0], "input.height: multiple 0"),
        ("input.height", [64, 640, 1280], "input.height: must be .min, opt, max, multiple."),
        ("input.width", [64, 640, "1280", 32], r"input.width\[2\]: must be an integer"),
        ("input.pad_value", 256, "input.pad_value: must lie in 0..255"),
        ("input.pad_side", "left", "input.pad_side: must be one of center, bottom-right"),
        ("input.channel_order", "rgb", "input.channel_order: must be one of bgr"),
        ("input.interpolation", "linear", "input.interpolation: must be one of linear_exact"),
        ("nms.candidates", 3840, "nms.candidates: must lie in 1..3839"),
        ("nms.candidates", 50, r"nms.max_people: must lie in 1..candidates \(50\)"),
        ("nms.max_people", 0, "nms.max_people: must lie in"),
        ("nms.rounds", 0, "nms.rounds: must lie in 1..1000"),
        ("nms.rounds", 1001, "nms.rounds: must lie in 1..1000"),
        ("nms.score_threshold", 10**400, "nms.score_threshold: must be a finite number"),
        ("nms.candidates", 10**400, "nms.candidates: must be an integer, got a number of 1329 bits"),
        pytest.param("nms.candidates", 10**5000, "nms.candidates: must be an integer", id="5000 digits"),
        ("parity.max_px", -(10**400), "parity.max_px: must be a finite number"),
        ("parity.ap_interval", [0.1, 10**400], r"parity.ap_interval\[1\]: must be a finite number"),
        ("parity.matched_people", -1, "parity.matched_people: must not be negative"),
        ("skeleton.sigmas", [10**400] * 14, r"skeleton.sigmas\[0\]: must be a finite number"),
        ("input.height", 65_537, "input.height: must be at most 65536 px, got 65537"),
        ("input.width", [32, 32, 65_568, 32], "input.width: must be at most 65536 px"),
        ("input.batch", [1, 1, 4097, 1], "input.batch: must be at most 4096 images, got 4097"),
        ("model.name", "a\ud800", "model.name: must be a string without lone surrogates"),
        ("model.classes", ["person", "\udfff"], r"model.classes\[1\]: must be a string without lone surrogates"),
        ("skeleton.name", "\udcff", "skeleton.name: must be a string without lone surrogates"),
        ("skeleton.names", ["\udcff"] * 14, r"skeleton.names\[0\]: must be a string without lone surrogates"),
        ("provenance.versions", {"torch": "\udcff"}, "provenance.versions.torch: must be a string without"),
        (
            "provenance.versions",
            {"\udcff": "2"},
            "provenance.versions: must be an object whose keys are strings without",
        ),
        ("engine", {"gpu": ["\udcff"]}, "engine: must hold JSON values with strings in UTF-8"),
        ("engine", {"gpu": float("inf")}, "engine: must hold JSON values"),
        ("nms.class_aware", 1, "nms.class_aware: must be true or false"),
        ("nms.score_threshold", 1.5, "nms.score_threshold: must lie in 0..1"),
        ("nms.iou_threshold", -0.1, "nms.iou_threshold: must lie in 0..1"),
        ("nms.iou_threshold", float("nan"), "nms.iou_threshold: must be a finite number"),
        ("precision.weights", "int4", "precision.weights: must be one of"),
        ("precision.target", "npu", "precision.target: must be one of any, cpu"),
        ("provenance.graph_sha256", "abc", "provenance.graph_sha256: must be 64 hexadecimal"),
        ("provenance.versions", {"torch": 2}, "provenance.versions.torch: must be a string"),
        ("parity.verdict", "maybe", "parity.verdict: must be one of passed"),
        ("parity.images", -1, "parity.images: must not be negative"),
        ("parity.ap_interval", [0.1], "parity.ap_interval: must be a list of 2 numbers"),
        ("parity.ap_interval", [0.1, "x"], r"parity.ap_interval\[1\]: must be a finite number"),
    ],
)
def test_message_names_the_path_of_a_wrong_value(path: str, value: Any, message: str) -> None:
    with pytest.raises(ContractInvalid, match=f"^{message}"):
        Contract.from_dict(document(path, value))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), "\ud800"])
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(_leaves(FULL.to_dict())), json_values)
def test_any_json_value_anywhere_is_accepted_or_raises_a_contract_error(path: str, value: Any) -> None:
    try:
        contract = Contract.from_dict(document(path, value))
    except (ContractInvalid, ContractTooNew):
        return
    assert Contract.from_json(contract.to_json().encode().decode()) == contract


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"schema": NaN}', "[" * 100_000])
def test_rejects_damaged_json(text: str) -> None:
    with pytest.raises(ContractInvalid):
        Contract.from_json(text)


def test_building_with_wrong_values_raises_value_error() -> None:
    with pytest.raises(ValueError, match=r"candidates: must lie in 1\.\.3839, got 4000"):
        NmsInfo(candidates=4000)
    with pytest.raises(ValueError, match="rounds"):
        replace(NmsInfo(), rounds=0)
    with pytest.raises(
        ValueError, match=r"^graph_sha256: must be 64 hexadecimal digits \(a sha256\), got a string 'abc'"
    ):
        Provenance("abc")


def test_section_reads_single_keys() -> None:
    section = Section({"name": "Orin", "bytes": 7, "strip": False, "dla": None, "gpu": {"name": 3}}, "engine")
    assert (section.text("name"), section.integer("bytes"), section.boolean("strip")) == ("Orin", 7, False)
    assert section.optional("dla", section.integer) is None
    assert section.optional("bytes", section.integer) == 7
    for read, message in (
        (lambda: section.integer("name"), "engine.name: must be an integer, got a string 'Orin'"),
        (lambda: section.text("absent"), "engine.absent: must be a string, got nothing"),
        (lambda: section.digest("name"), "engine.name: must be 64 hexadecimal digits"),
        (lambda: section.section("gpu").text("name"), "engine.gpu.name: must be a string, got a number 3"),
        (lambda: section.section("bytes"), "engine.bytes: must be an object, got a number 7"),
    ):
        with pytest.raises(ContractInvalid, match=f"^{message}"):
            read()


def test_reads_the_contract_of_an_artifact(artifact: Path, make_contract: Callable[..., Contract]) -> None:
    contract = read_contract(artifact)
    assert replace(contract, provenance=make_contract().provenance) == make_contract()
    assert read_contract(str(artifact)) == contract


def _with_metadata(source: Path, target: Path, metadata: dict[str, str]) -> Path:
    model = onnx.load(source)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, target)
    return target


def test_rejects_onnx_without_contract(artifact: Path, tmp_path: Path) -> None:
    path = _with_metadata(artifact, tmp_path / "plain.onnx", {"author": "somebody"})
    with pytest.raises(ContractMissing, match=r"plain\.onnx .* make one with yolopose-export"):
        read_contract(path)


def test_rejects_onnx_with_damaged_or_newer_contract(artifact: Path, tmp_path: Path) -> None:
    path = _with_metadata(artifact, tmp_path / "damaged.onnx", {METADATA_KEY: "{"})
    with pytest.raises(ContractInvalid, match=r"damaged\.onnx: the contract is not JSON"):
        read_contract(path)
    path = _with_metadata(artifact, tmp_path / "newer.onnx", {METADATA_KEY: '{"schema": "2.0"}'})
    with pytest.raises(ContractTooNew, match=r"newer\.onnx: schema: version 2\.0"):
        read_contract(path)


def test_rejects_a_changed_graph(artifact: Path, tmp_path: Path) -> None:
    model = onnx.load(artifact)
    model.graph.initializer[0].float_data[:] = []
    model.graph.initializer[0].raw_data = b"\0\0\0\0"
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(ArtifactError, match=r"changed\.onnx was changed after its export"):
        read_contract(tmp_path / "changed.onnx")


@pytest.mark.parametrize(
    ("opsets", "found"),
    [
        ([("", 19)], "ai.onnx 19"),
        ([("", 18), ("com.microsoft", 1)], "ai.onnx 18, com.microsoft 1"),
        ([("com.microsoft", 1)], "com.microsoft 1"),
        ([("", 18), ("", 17)], "ai.onnx 18, ai.onnx 17"),
        ([("", -1)], "ai.onnx 18446744073709551615"),
        ([], "none"),
    ],
)
def test_rejects_other_operator_sets(opsets: list[tuple[str, int]], found: str, artifact: Path, tmp_path: Path) -> None:
    model = onnx.load(artifact)
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(*opset) for opset in opsets)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ArtifactError, match=rf"imports the operators {found}, but .*contract: opset 18 at most"):
        read_contract(tmp_path / "other.onnx")


@pytest.mark.parametrize(("domain", "version"), [("", 17), ("ai.onnx", 18)])
def test_accepts_older_operators_and_the_long_name(domain: str, version: int, artifact: Path, tmp_path: Path) -> None:
    model = onnx.load(artifact)
    model.opset_import[0].CopyFrom(onnx.helper.make_opsetid(domain, version))
    onnx.save(model, tmp_path / "older.onnx")
    assert read_contract(tmp_path / "older.onnx") == read_contract(artifact)


def test_rejects_functions(artifact: Path, tmp_path: Path) -> None:
    """They could redefine an operator of the graph without changing the hash of the graph."""
    model = onnx.load(artifact)
    opsets = [onnx.helper.make_opsetid("", 18)]
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    model.functions.append(onnx.helper.make_function("", "Relu", ["x"], ["y"], [node], opsets))
    onnx.save(model, tmp_path / "functions.onnx")
    with pytest.raises(ArtifactError, match=r"functions\.onnx contains functions, which no artifact has"):
        read_contract(tmp_path / "functions.onnx")


def test_rejects_a_truncated_artifact(artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    path.write_bytes(artifact.read_bytes()[: artifact.stat().st_size // 2])
    with pytest.raises(ArtifactError, match=r"half\.onnx is truncated"):
        read_contract(path)


@pytest.mark.parametrize("suffix", [".engine", ".trt"])
def test_reads_the_contract_beside_a_plan(suffix: str, tmp_path: Path) -> None:
    plan = tmp_path / f"model{suffix}"
    with pytest.raises(ArtifactError, match="no such file"):
        read_contract(plan)
    plan.write_bytes(b"plan")
    sidecar = tmp_path / f"model{suffix}.json"
    with pytest.raises(ContractMissing, match=rf"model{suffix}\.json is not there; copy both files"):
        read_contract(plan)
    sidecar.write_text(FULL.to_json(indent=2), encoding="utf-8")
    assert read_contract(plan) == FULL
    sidecar.write_bytes(b"\xff")
    with pytest.raises(ContractInvalid, match="not UTF-8"):
        read_contract(plan)


def test_rejects_other_suffixes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"best\.pt is not an artifact; give an \.onnx, \.engine or \.trt"):
        read_contract(tmp_path / "best.pt")
    with pytest.raises(ValueError, match="the accuracy gate refused it"):
        read_contract(tmp_path / "best-int8-cpu.onnx.rejected")


THREE = Skeleton("three", ("head", "left_hand", "right_hand"), ((1, 2),), ((0, 1), (0, 2)), (0.1, 0.2, 0.2))


@pytest.mark.parametrize("skeleton", [COCO_17, LSP_14, THREE])
def test_skeleton_round_trip(skeleton: Skeleton, tmp_path: Path) -> None:
    assert skeleton_from_dict(skeleton.to_dict()) == skeleton
    assert replace(FULL, skeleton=skeleton).to_dict()["skeleton"] == skeleton.to_dict()
    path = tmp_path / "skeleton.json"
    path.write_text(json.dumps(skeleton.to_dict() | {"comment": "unknown keys are ignored"}))
    assert skeleton_from_json(path) == skeleton


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": []}, "skeleton.names: a skeleton needs"),
        ({"names": ["a", "a", "b"]}, "skeleton.names: keypoint names must differ"),
        ({"names": ["a", 1, "b"]}, r"skeleton.names\[1\]: must be a string"),
        ({"names": ["a", "", "b"]}, "skeleton.names: must not be empty"),
        ({"names": "abc"}, "skeleton.names: must be a list"),
        ({"name": None}, "skeleton.name: must be a string"),
        ({"name": ""}, "skeleton.name: must not be empty"),
        ({"sigmas": [0.1, 0.1]}, "skeleton.sigmas: 2 values for 3"),
        ({"sigmas": [0.1, 0.1, 0]}, "skeleton.sigmas: must be positive"),
        ({"sigmas": [0.1, 0.1, float("nan")]}, r"skeleton.sigmas\[2\]: must be a finite number"),
        ({"sigmas": [0.1, 0.1, True]}, r"skeleton.sigmas\[2\]: must be a finite number"),
        ({"sigmas": [0.1, 0.1, 10**400]}, r"skeleton.sigmas\[2\]: must be a finite number, got a number of 1329 bits"),
        ({"names": ["a", "\ud800", "b"]}, r"skeleton.names\[1\]: must be a string without lone surrogates"),
        ({"name": "\udcff"}, "skeleton.name: must be a string without lone surrogates"),
        ({"flip_pairs": [[0, 1], [1, 2]]}, "skeleton.flip_pairs: an index is in two pairs"),
        ({"flip_pairs": [[1, 3]]}, "skeleton.flip_pairs: .1, 3. is not two different"),
        ({"flip_pairs": [[1, 1]]}, "skeleton.flip_pairs: .1, 1. is not two different"),
        ({"limbs": [[-1, 1]]}, "skeleton.limbs: .-1, 1. is not two different"),
        ({"limbs": [[0, 1, 2]]}, r"skeleton.limbs\[0\]: must be a list of 2 numbers"),
        ({"limbs": [[0, 1.0]]}, r"skeleton.limbs\[0\]\[1\]: must be an integer, got a number 1.0"),
    ],
)
def test_message_names_the_wrong_key_of_a_skeleton(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        skeleton_from_dict(THREE.to_dict() | changes)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b'{"name": "x"}'])
def test_damaged_skeleton_file_raises_data_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "skeleton.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"skeleton\.json"):
        skeleton_from_json(path)


def test_absent_skeleton_file_raises_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json"):
        skeleton_from_json(tmp_path / "nowhere.json")

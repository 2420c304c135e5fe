"""Validation during training: people and AP of the reference, for any network, diverged ones included."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import yolopose
from yolopose.data.coco import CocoKeypoints, read_coco
from yolopose.data.synthetic import SyntheticScenes
from yolopose.deploy.reference import ReferenceEstimator
from yolopose.evaluation import evaluate
from yolopose.model.config import BGR_BYTES, RGB_UNIT, NetConfig
from yolopose.model.pose_net import PoseNet
from yolopose.model.sizes import COCO_P6_ANCHORS, build
from yolopose.runtime.contract import PoseInfo
from yolopose.runtime.errors import DataError
from yolopose.runtime.images import read_image
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import COCO_17, LSP_14
from yolopose.training.validate import ImageBatch, Validator

pytest.importorskip("pycocotools")

SHAPE = (128, 192)
CONFIGS = {
    "yolox-pose": NetConfig("tiny", "yolox-pose", 0.33, 0.0625, replace(BGR_BYTES, size=128)),
    "yolov5-pose": NetConfig(
        "tiny", "yolov5-pose", 0.33, 0.0625, replace(RGB_UNIT, size=128), head="anchor", anchors=COCO_P6_ANCHORS
    ),
}


def tiny(family: str = "yolox-pose", classes: tuple[str, ...] = ("person",)) -> PoseNet:
    """A network with random weights that predicts many overlapping people of any score."""
    torch.manual_seed(1)
    net = build(CONFIGS[family], classes=classes)
    with torch.no_grad():
        for name, parameter in net.head.named_parameters():
            if "predictions" in name:
                parameter.normal_(0, 1.0 if parameter.ndim == 4 else 0.1)
        for module in net.modules():  # statistics for which folding batch norm changes the weights
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.2, 0.6)
    return net


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> CocoKeypoints:
    folder = tmp_path_factory.mktemp("scenes")
    labels = SyntheticScenes(5, (160, 120), seed=3, people=(0, 3)).save_coco(folder)
    dataset = read_coco(labels, folder / "images", COCO_17)
    assert 0 < len(dataset.ids_with_people) < len(dataset.images)
    return dataset


def assert_same_people(ours: PoseResult, theirs: PoseResult) -> None:
    assert len(ours) == len(theirs)
    assert ours.num_candidates == theirs.num_candidates
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(ours.keypoints, theirs.keypoints, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(ours.keypoint_scores, theirs.keypoint_scores, atol=1e-4)


@pytest.mark.parametrize("candidates", [40, 10_000])
@pytest.mark.parametrize("family", CONFIGS)
def test_people_equal_those_of_the_reference(scenes: CocoKeypoints, family: str, candidates: int) -> None:
    net = tiny(family)
    reference = ReferenceEstimator(net, 0.05, 0.5, 20, SHAPE, candidates)
    expected = {id: reference.one(read_image(image.path)) for id, image in scenes.images.items()}
    assert max(len(people) for people in expected.values()) > 3
    assert max(people.num_candidates for people in expected.values()) > 40
    validate = Validator(
        scenes, COCO_17, net.input, SHAPE, score_threshold=0.05, iou_threshold=0.5, max_people=20,
        max_candidates=candidates, batch=2,
    )  # fmt: skip
    first, second = validate(net), validate(net)
    assert list(first.results) == list(scenes.images)
    for image_id in scenes.images:
        assert_same_people(first.results[image_id], expected[image_id])
        np.testing.assert_array_equal(first.results[image_id].keypoints, second.results[image_id].keypoints)
    assert first.ap == second.ap
    theirs = evaluate(expected, scenes, COCO_17).to_dict()
    assert first.ap.to_dict() == {key: pytest.approx(value, abs=1e-6) for key, value in theirs.items()}
    assert first.note is None


def test_several_classes(scenes: CocoKeypoints) -> None:
    net = tiny(classes=("person", "statue"))
    reference = ReferenceEstimator(net, 0.2, shape_hw=SHAPE)
    two = replace(scenes, categories=(*scenes.categories, replace(scenes.categories[0], id=2, name="statue")))
    ours = Validator(two, COCO_17, net.input, SHAPE, score_threshold=0.2, max_candidates=10_000)(net)
    assert len({int(label) for people in ours.results.values() for label in people.labels}) == 2
    for image_id, image in scenes.images.items():
        assert_same_people(ours.results[image_id], reference.one(read_image(image.path)))


def test_network_is_not_changed(scenes: CocoKeypoints) -> None:
    net = tiny().train()
    net.backbone.eval()  # batch norm frozen in part
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    Validator(scenes, COCO_17, net.input, SHAPE)(net)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_images_are_read_once_if_they_fit(scenes: CocoKeypoints, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []

    def counting(path: Path) -> np.ndarray:
        reads.append(path)
        return read_image(path)

    monkeypatch.setattr("yolopose.training.validate.read_image", counting)
    net = tiny()
    results = []
    for cache_bytes, expected in ((2**30, 5), (1000, 10)):
        reads.clear()
        validate = Validator(scenes, COCO_17, net.input, SHAPE, cache_bytes=cache_bytes, batch=2)
        results += [validate(net).ap, validate(net).ap]
        assert len(reads) == expected
    assert len(set(results)) == 1


def test_conventions_limit_and_invalid_arguments(scenes: CocoKeypoints) -> None:
    net = tiny()
    everyone = Validator(scenes, COCO_17, net.input, SHAPE)(net).ap
    with_people = Validator(scenes, COCO_17, net.input, SHAPE, "with-people")(net).ap
    assert (everyone.images, everyone.convention) == (5, "all")
    assert (with_people.images, with_people.convention) == (len(scenes.ids_with_people), "with-people")
    assert Validator(scenes, COCO_17, net.input, SHAPE, limit=3)(net).ap.images == 3
    with pytest.raises(ValueError, match="some"):
        Validator(scenes, COCO_17, net.input, SHAPE, "some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch"):
        Validator(scenes, COCO_17, net.input, SHAPE, batch=0)
    with pytest.raises(ValueError, match="max_candidates"):
        Validator(scenes, COCO_17, net.input, SHAPE, max_candidates=0)


def test_progress_sees_every_batch(scenes: CocoKeypoints) -> None:
    seen: list[int] = []

    def progress(items: Iterable[ImageBatch], total: int, label: str) -> Iterable[ImageBatch]:
        for item in items:
            seen.append(total)
            yield item

    net = tiny()
    Validator(scenes, COCO_17, net.input, SHAPE, batch=2)(net, progress=progress)
    assert seen == [3, 3, 3]


def test_bfloat16_finds_about_as_many_candidates(scenes: CocoKeypoints) -> None:
    net = tiny()
    validate = Validator(scenes, COCO_17, net.input, SHAPE, score_threshold=0.2)
    full, half = validate(net).results, validate(net, torch.bfloat16).results
    for image_id, people in half.items():
        assert abs(people.num_candidates - full[image_id].num_candidates) <= 0.1 * full[image_id].num_candidates + 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("part", ["box", "keypoint", "objectness", "class"])
def test_diverged_network_has_no_people_and_a_note(scenes: CocoKeypoints, part: str, value: float) -> None:
    """Whichever predictions are not finite: no exception or warning, and a note where results are affected."""
    net = tiny()
    with torch.no_grad():
        for conv in getattr(net.head, f"{part}_predictions"):
            conv.bias.fill_(value)
    outcome = Validator(scenes, COCO_17, net.input, SHAPE)(net)
    assert outcome.ap.ap is not None
    if part in ("box", "keypoint") or np.isnan(value):
        assert outcome.not_finite == 5
        assert outcome.ap.ap == 0
        assert "5 of 5 validation images" in str(outcome.note)
        assert not any(len(people) for people in outcome.results.values())
    else:  # a logit of infinity is a score of 1
        assert outcome.note is None


def test_nan_weights_give_no_finite_predictions(scenes: CocoKeypoints) -> None:
    net = tiny()
    with torch.no_grad():
        next(net.parameters()).fill_(float("nan"))
    assert Validator(scenes, COCO_17, net.input, SHAPE)(net).not_finite == 5


def test_damaged_images_are_named_and_left_out(tmp_path: Path) -> None:
    labels = SyntheticScenes(3, (160, 120), seed=3, people=(1, 2)).save_coco(tmp_path)
    dataset = read_coco(labels, tmp_path / "images", COCO_17)
    paths = [image.path for image in dataset.images.values()]
    paths[1].write_bytes(paths[1].read_bytes()[:500])
    net = tiny()
    validate = Validator(dataset, COCO_17, net.input, SHAPE, batch=1)
    assert validate(net).ap.images == validate(net).ap.images == 2
    assert list(validate.damaged) == [str(paths[1])]
    assert "truncated" in validate.damaged[str(paths[1])]
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"no validation image with people can be read.*0 bytes"):
        Validator(dataset, COCO_17, net.input, SHAPE)(net)


def test_rejects_data_without_defined_ap(scenes: CocoKeypoints, tmp_path: Path) -> None:
    labels = SyntheticScenes(2, (64, 64), people=(0, 0)).save_coco(tmp_path)
    nobody = read_coco(labels, tmp_path / "images", COCO_17)
    with pytest.raises(DataError, match="none of 2 validation images has a person"):
        Validator(nobody, COCO_17, tiny().input, SHAPE)
    with pytest.raises(DataError, match="none of 0"):
        Validator(nobody, COCO_17, tiny().input, SHAPE, "with-people")
    with pytest.raises(DataError, match="skeleton"):
        Validator(scenes, LSP_14, tiny().input, SHAPE)


@pytest.mark.slow
def test_trained_network_on_real_photographs(data_dir: Path, trained_checkpoint: Path) -> None:
    """493 photographs: with best keypoints and box scores the AP of mmpose's code, with consensus more."""
    net = yolopose.load(trained_checkpoint)
    dataset = read_coco(data_dir / "lspet" / "val.json", data_dir / "lspet" / "images", LSP_14)
    ap = Validator(dataset, LSP_14, net.input, (256, 256), score_threshold=0.001)(net).ap
    assert ap.images == ap.people == 493
    assert ap.ap == pytest.approx(0.02503, abs=5e-5)
    assert ap.ap50 == pytest.approx(0.1064, abs=1e-4)
    estimate = ReferenceEstimator(net, 0.001, shape_hw=(256, 256), max_candidates=300, pose=PoseInfo("best"))
    best = {image_id: estimate.one(read_image(image.path)) for image_id, image in dataset.images.items()}
    ap = evaluate(best, dataset, LSP_14, ranking="score")
    assert ap.ap == pytest.approx(0.02405, abs=5e-5)
    assert ap.ap50 == pytest.approx(0.1063, abs=1e-4)

"""The loss of YOLOX-Pose: finite always, blind to order, zero for perfect predictions, additive over processes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from yolopose.data.batch import People
from yolopose.model.heads import HeadOutput
from yolopose.model.heads.anchor_free import AnchorFreeHead
from yolopose.training import anchor_free_loss
from yolopose.training.anchor_free_loss import AnchorFreeLoss, assign
from yolopose.training.label_assignment import Assignment, Guess
from yolopose.training.settings import KEYPOINT_LOSSES, LossSettings

from .people import SIGMAS, chosen, nobody, some_people

SIZE, STRIDES = 64, (8, 16)
TERMS = {"box", "objectness", "classes", "keypoints", "visibility"}
both_variants = pytest.mark.parametrize("variant", ["mmpose", "edgeai"])


def head(variant: str, classes: int = 1) -> AnchorFreeHead:
    torch.manual_seed(0)
    return AnchorFreeHead((8, 8), 8, STRIDES, len(SIGMAS), classes, variant=variant, activation="silu")


def raw_of(head: AnchorFreeHead, batch: int, seed: int = 0) -> HeadOutput:
    """Raw predictions of random features, each part a leaf with a gradient of its own."""
    torch.manual_seed(seed)
    with torch.no_grad():
        raw = head([torch.randn(batch, 8, SIZE // s, SIZE // s) for s in STRIDES])
    return HeadOutput(*(part.requires_grad_(index < 4) for index, part in enumerate(raw)))


def matches_of(head: AnchorFreeHead, raw: HeadOutput, people: People) -> Assignment:
    with torch.no_grad():
        xy = head.decode_keypoints(raw.keypoints, raw.priors)[0].permute(0, 3, 1, 2)
        boxes = head.decode_boxes(raw.boxes, raw.priors).transpose(1, 2)
        scores = head.scores(raw.objectness, raw.classes).transpose(1, 2)
    return assign(Guess(boxes, scores, xy), raw.priors, people, torch.tensor(SIGMAS))


def loss_of(head: AnchorFreeHead, kind: str = "oks") -> AnchorFreeLoss:
    return AnchorFreeLoss(head, SIGMAS, LossSettings(keypoint_loss=kind))


def gradients(raw: HeadOutput, terms: dict[str, Tensor], *names: str) -> list[Tensor]:
    total = torch.stack([terms[name] for name in names or terms]).sum()
    return list(torch.autograd.grad(total, list(raw[:4]), retain_graph=True, materialize_grads=True))


def assert_finite(raw: HeadOutput, terms: dict[str, Tensor]) -> None:
    assert terms.keys() == TERMS
    assert all(math.isfinite(term.item()) and term.item() >= 0 and term.ndim == 0 for term in terms.values())
    assert all(torch.isfinite(gradient).all() for gradient in gradients(raw, terms))


def perfect(variant: str, people: People) -> tuple[AnchorFreeHead, HeadOutput]:
    """Every point predicts the first person of its picture; ten that lie well in its box say so."""
    net = head(variant)
    grid, stride = (priors := raw_of(net, 1).priors)[0, :2].T, priors[0, 2:].T  # (N, 2) and (N, 1)
    boxes, keypoints = people.boxes[:, 0, None], people.keypoints[:, 0, None]  # (B, 1, 4) and (B, 1, K, 2)
    sides = boxes[..., 2:] - boxes[..., :2]
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    logits = torch.where(people.visible[:, 0], 20.0, -20.0)[:, None].expand(-1, len(grid), -1)  # (B, N, K)
    xy = keypoints / stride[:, None] - grid[:, None]
    if variant == "mmpose":
        encoded = torch.cat((xy.flatten(2), logits), dim=2)
    else:
        score = logits / stride  # its logits are multiplied by the stride
        encoded = (torch.cat((xy, score[..., None]), dim=3).flatten(2) + 0.5) / 2
    points = (grid + 0.5) * stride
    inside = ((points - centres).abs() < torch.minimum(sides / 2, 2.5 * stride)).all(-1)
    ten = inside & (inside.cumsum(1) <= 10)
    assert (ten.sum(1) == 10).all()
    objectness = torch.where(ten, 20.0, -20.0)[:, None]
    box = torch.cat((centres / stride - grid, (sides / stride).log()), dim=2)
    classes = torch.full_like(objectness, 20.0)
    return net, HeadOutput(box.transpose(1, 2), objectness, classes, encoded.transpose(1, 2), priors)


@both_variants
@pytest.mark.parametrize("kind", KEYPOINT_LOSSES)
def test_perfect_predictions_cost_nothing(variant: str, kind: str) -> None:
    people = some_people(2, 1)._replace(boxes=torch.tensor([[[10.0, 10, 50, 60]], [[0.0, 5, 64, 40]]]))
    net, raw = perfect(variant, people)
    terms = loss_of(net, kind)(raw, people)
    assert {name: round(term.item(), 3) for name, term in terms.items()} == dict.fromkeys(TERMS, 0)
    assert matches_of(net, raw, people).image.tolist() == [0] * 10 + [1] * 10
    worse = loss_of(net, kind)(raw._replace(boxes=raw.boxes + 0.1, keypoints=raw.keypoints + 0.1), people)
    assert worse["box"] > 0.1
    assert worse["keypoints"] > 0.01


@pytest.mark.parametrize("kind", KEYPOINT_LOSSES)
def test_weight_of_the_keypoint_term_alone(kind: str) -> None:
    net, people = head("mmpose"), some_people()
    raw = raw_of(net, 2)
    usual = loss_of(net, kind)(raw, people)
    given = AnchorFreeLoss(net, SIGMAS, LossSettings(keypoint_loss=kind, keypoint_weight=7.0))(raw, people)
    expected = usual | {"keypoints": usual["keypoints"] / anchor_free_loss.KEYPOINTS[kind] * 7}
    torch.testing.assert_close(given, expected)


@both_variants
@pytest.mark.parametrize("kind", KEYPOINT_LOSSES)
@pytest.mark.parametrize("classes", [1, 3])
def test_terms_and_gradients_are_finite(variant: str, kind: str, classes: int) -> None:
    net = head(variant, classes)
    raw = raw_of(net, 2)
    terms = loss_of(net, kind)(raw, some_people(classes=classes))
    assert_finite(raw, terms)
    assert all(term.item() > 0 for term in terms.values())


@both_variants
@pytest.mark.parametrize("people", [nobody(), nobody(most=2)])
def test_without_people_objectness_alone_learns(variant: str, people: People) -> None:
    net = head(variant)
    raw = raw_of(net, 2)
    terms = loss_of(net)(raw, people)
    assert_finite(raw, terms)
    assert {name for name, term in terms.items() if term.item() > 0} == {"objectness"}
    boxes, objectness, classes, keypoints = gradients(raw, terms)
    assert (objectness > 0).all()
    assert not any(part.any() for part in (boxes, classes, keypoints))


@both_variants
def test_people_without_keypoints_teach_box_and_class(variant: str) -> None:
    net, people = head(variant), some_people()
    raw = raw_of(net, 2)
    people = people._replace(visible=torch.zeros_like(people.visible), areas=torch.zeros_like(people.areas))
    terms = loss_of(net)(raw, people)
    assert_finite(raw, terms)
    assert terms["keypoints"].item() == terms["visibility"].item() == 0
    assert terms["box"].item() > 0
    assert not gradients(raw, terms)[3].any()


@both_variants
def test_only_matched_points_learn_boxes_and_keypoints(variant: str) -> None:
    net, people = head(variant), some_people()
    people.visible[..., 0] = True
    raw = raw_of(net, 2)
    terms = loss_of(net)(raw, people)
    image, point, _ = matches_of(net, raw, people)
    matched = torch.zeros(2, raw.priors.shape[2], dtype=torch.bool)
    matched[image, point] = True
    boxes, objectness, classes, keypoints = gradients(raw, terms)
    for part in (boxes, classes, keypoints):
        assert not part.abs().sum(1)[~matched].any()
    assert (keypoints.abs().sum(1)[matched] > 0).all()
    assert (objectness[:, 0][matched] < 0).all()
    assert (objectness[:, 0][~matched] > 0).all()


@both_variants
def test_order_and_padding_do_not_matter(variant: str) -> None:
    net, people = head(variant, 2), some_people(3, 3, classes=2)
    raw = raw_of(net, 3)
    expected = loss_of(net)(raw, people)
    order = torch.tensor([2, 0, 1])
    shuffled = People(*(part[:, order] for part in people))
    padded = People(*(torch.cat((part, torch.zeros_like(part)), dim=1) for part in people))
    swapped = HeadOutput(*(part[order] for part in raw[:4]), raw.priors)
    for terms in (
        loss_of(net)(raw, shuffled),
        loss_of(net)(raw, padded),
        loss_of(net)(swapped, chosen(people, order)),
    ):
        for name in TERMS:
            torch.testing.assert_close(terms[name], expected[name])


@both_variants
def test_two_halves_are_the_whole(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes: each divides by the mean of their positives, gradients are averaged. One half has nobody."""
    net, people = head(variant), some_people(4, 3)
    people = people._replace(valid=torch.tensor([[True, True, False], [False, True, True], [False] * 3, [False] * 3]))
    for flip in (False, True):
        labels = chosen(people, torch.tensor([0, 2, 1, 3])) if flip else people
        raw = raw_of(net, 4)
        whole = loss_of(net)(raw, labels)
        expected = gradients(raw, whole)
        image, _, person = matches_of(net, raw, labels)
        means = torch.tensor([len(image), int(labels.visible[image, person].any(-1).sum())]) / 2
        with monkeypatch.context() as patch:
            patch.setattr(anchor_free_loss, "mean_positives", lambda counts: means)  # noqa: B023
            halves = [
                loss_of(net)(HeadOutput(*(part[rows] for part in raw[:4]), raw.priors), chosen(labels, rows))
                for rows in (slice(0, 2), slice(2, 4))
            ]
        mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in TERMS}
        for name in TERMS:
            torch.testing.assert_close(mean[name], whole[name])
        for ours, theirs in zip(gradients(raw, mean), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@both_variants
def test_a_crowd_is_left_alone(variant: str) -> None:
    net, people = head(variant), some_people(2, 2)
    crowd = torch.tensor([[10.0, 10, 40, 50], [0, 0, 0, 0]])
    people = people._replace(
        boxes=torch.stack((people.boxes[:, 0], crowd), dim=1),
        valid=torch.tensor([[True, False]] * 2), ignore=torch.tensor([[False, True], [False, False]]),
    )  # fmt: skip
    raw = raw_of(net, 2)
    image, point, person = matches_of(net, raw, people)
    assert not person.any()
    matched = torch.zeros(2, raw.priors.shape[2], dtype=torch.bool)
    matched[image, point] = True
    x, y = (raw.priors[0, :2] + 0.5) * raw.priors[0, 2]
    inside = torch.stack(((x > 10) & (x < 40) & (y > 10) & (y < 50), torch.zeros_like(x, dtype=torch.bool)))
    assert (inside & ~matched).any()
    gradient = gradients(raw, loss_of(net)(raw, people))[1][:, 0]
    assert ((gradient == 0) == (inside & ~matched)).all()


@both_variants
def test_half_precision_predictions_are_raised_to_float32(variant: str) -> None:
    net, people = head(variant), some_people()
    raw = raw_of(net, 2)
    half = HeadOutput(*(part.detach().bfloat16().requires_grad_() for part in raw[:4]), raw.priors)
    terms = loss_of(net)(half, people)
    assert all(term.dtype == torch.float32 for term in terms.values())
    assert_finite(half, terms)


def test_the_head_is_not_a_part_of_the_loss() -> None:
    loss = loss_of(head("mmpose"))
    assert not list(loss.parameters())
    assert not loss.state_dict()


@both_variants
def test_people_without_keypoints_do_not_thin_the_keypoint_terms(variant: str) -> None:
    """Most people of COCO have a box alone; what a labelled person's keypoints weigh must not hang on them."""
    net, people = head(variant), some_people(2, 1)
    raw = raw_of(net, 2)
    alone = loss_of(net)(HeadOutput(*(part[:1] for part in raw[:4]), raw.priors), chosen(people, slice(0, 1)))
    people = people._replace(visible=people.visible & torch.tensor([True, False])[:, None, None])
    both = loss_of(net)(raw, people)
    for name in ("keypoints", "visibility"):
        torch.testing.assert_close(both[name], alone[name])

"""Losses of a distance head."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from yolopose.data.batch import People
from yolopose.model.heads import HeadOutput
from yolopose.model.heads.distance import DistanceHead
from yolopose.model.layer_table import DistanceSettings
from yolopose.training import distance_loss
from yolopose.training.distance_loss import DistanceLoss
from yolopose.training.settings import KEYPOINT_LOSSES, LossSettings

from .people import SIGMAS, nobody, some_people

SIZE, STRIDES = 64, (8, 16)
SETTINGS = {
    "bins": DistanceSettings(8, 8, 8),
    "plain": DistanceSettings(8, 8, 8, bins=1, half_cell=True),
    "once": DistanceSettings(8, 8, 8, bins=1, half_cell=True, one_to_one=True),
}
every_kind = pytest.mark.parametrize("kind", SETTINGS)


def head_of(kind: str, classes: int = 1) -> DistanceHead:
    torch.manual_seed(0)
    return DistanceHead((8, 8), STRIDES, SETTINGS[kind], len(SIGMAS), classes, activation="silu")


def raw_of(head: DistanceHead, batch: int) -> HeadOutput:
    """Raw predictions of random features, those with channels leaves with a gradient of their own."""
    torch.manual_seed(0)
    with torch.no_grad():
        raw = head([torch.randn(batch, 8, SIZE // s, SIZE // s) for s in STRIDES])
    return HeadOutput(*(part.clone().requires_grad_(index in (0, 2, 3)) for index, part in enumerate(raw)))


def gradients(raw: HeadOutput, terms: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Of boxes, classes and keypoints."""
    parts = [raw.boxes, raw.classes, raw.keypoints]
    return torch.autograd.grad(
        torch.stack(list(terms.values())).sum(), parts, retain_graph=True, materialize_grads=True
    )


def terms_of(head: DistanceHead, raw: HeadOutput, people: People, **settings: object) -> dict[str, Tensor]:
    found = DistanceLoss(head, SIGMAS, LossSettings(**settings))(raw, people)  # type: ignore[arg-type]
    expected = {"box", "classes", "keypoints", "visibility"} | ({"distribution"} if head.settings.bins > 1 else set())
    assert found.keys() == expected
    assert all(math.isfinite(term.item()) and term.ndim == 0 for term in found.values())
    assert all(torch.isfinite(part).all() for part in gradients(raw, found))
    return found


def perfect(head: DistanceHead, people: People) -> HeadOutput:
    """Every point predicts the only person of its picture; one says so, all others that there is nobody."""
    raw = raw_of(head, len(people.valid))
    grid, stride = raw.priors[0, :2].T, raw.priors[0, 2, :, None]
    centres = (grid + 0.5) * stride
    box, points = people.boxes[:, :1], people.keypoints[:, 0, None]
    distances = torch.cat((centres - box[..., :2], box[..., 2:] - centres), dim=2) / stride  # (B, N, 4)
    if head.settings.bins > 1:
        values = torch.arange(head.settings.bins)
        distances = (-100.0 * (distances[..., None] - values).abs()).flatten(2)
    xy = points / stride[:, None] - grid[:, None]
    xy = xy - 0.5 if head.settings.half_cell else xy / 2
    logits = torch.where(people.visible[:, 0], 20.0, -20.0)[:, None, :, None].expand(-1, len(grid), -1, 1)
    keypoints = torch.cat((xy, logits), dim=3).flatten(2)
    inside = (distances.unflatten(2, (4, -1)).argmax(-1) if head.settings.bins > 1 else distances).amin(2) > 0.5
    first = (inside.cumsum(1) == 1) & inside
    classes = torch.where(first, 20.0, -20.0)[:, None]
    parts = HeadOutput(distances.mT.contiguous(), raw.objectness, classes, keypoints.mT.contiguous(), raw.priors)
    return HeadOutput(*(part.detach().requires_grad_(index in (0, 2, 3)) for index, part in enumerate(parts)))


@pytest.mark.parametrize("keypoint_loss", KEYPOINT_LOSSES)
def test_perfect_predictions_cost_nothing(keypoint_loss: str) -> None:
    people = some_people(2, 1)._replace(boxes=torch.tensor([[[4.0, 12, 52, 60]], [[4.0, 4, 60, 44]]]))
    head = head_of("once")
    raw = perfect(head, people)
    terms = terms_of(head, raw, people, keypoint_loss=keypoint_loss)
    assert {name: round(term.item(), 3) for name, term in terms.items()} == dict.fromkeys(terms, 0)
    worse = raw._replace(boxes=raw.boxes + 0.2, keypoints=raw.keypoints + 0.1)
    terms = terms_of(head, worse, people, keypoint_loss=keypoint_loss)
    assert terms["box"] > 0.1
    assert terms["keypoints"] > 0.01


def test_a_distribution_costs_least_where_its_mass_lies_beside_the_distance() -> None:
    people = some_people(1, 1)._replace(boxes=torch.tensor([[[4.0, 4, 60, 44]]]))
    head = head_of("bins")
    raw = perfect(head, people)
    shift = torch.zeros(64)
    sharp = terms_of(head, raw, people)["distribution"]
    shift[1::16] = 300.0  # towards a distance of one stride, whatever it is
    assert terms_of(head, raw._replace(boxes=raw.boxes + shift[None, :, None]), people)["distribution"] > sharp + 1


@every_kind
@pytest.mark.parametrize("classes", [1, 3])
def test_every_term_has_a_gradient(kind: str, classes: int) -> None:
    head = head_of(kind, classes)
    raw = raw_of(head, 2)
    people = some_people(classes=classes)
    people = people._replace(visible=torch.ones_like(people.visible))
    terms = terms_of(head, raw, people)
    assert all(term.item() > 0 for term in terms.values())
    boxes, logits, keypoints = gradients(raw, terms)
    assert logits.all()  # background learns everywhere
    learning = keypoints.abs().sum(1) > 0
    assert ((boxes.abs().sum(1) > 0) <= learning).all()
    assert learning.sum() == 6 if kind == "once" else learning.sum() > 6


@every_kind
@pytest.mark.parametrize("people", [nobody(), nobody(most=2)])
def test_without_people_classes_alone_learn(kind: str, people: People) -> None:
    head = head_of(kind)
    raw = raw_of(head, 2)
    terms = terms_of(head, raw, people)
    assert {name for name, term in terms.items() if term.item() > 0} == {"classes"}
    boxes, logits, keypoints = gradients(raw, terms)
    assert (logits > 0).all()
    assert not boxes.any()
    assert not keypoints.any()


def test_people_without_keypoints_teach_box_and_class() -> None:
    people = some_people()
    people = people._replace(visible=torch.zeros_like(people.visible))
    head = head_of("bins")
    raw = raw_of(head, 2)
    terms = terms_of(head, raw, people)
    assert terms["keypoints"] == terms["visibility"] == 0
    assert terms["box"] > 0
    assert not gradients(raw, terms)[2].any()


def test_nothing_is_taught_in_a_region_to_ignore() -> None:
    people = some_people(1, 2)
    people = people._replace(
        boxes=torch.tensor([[[8.0, 8, 30, 30], [32.0, 0, 64, 64]]]),
        valid=torch.tensor([[True, False]]),
        ignore=torch.tensor([[False, True]]),
    )
    head = head_of("bins")
    raw = raw_of(head, 1)
    logits = gradients(raw, terms_of(head, raw, people))[1][0, 0]
    x = ((raw.priors[0, 0] + 0.5) * raw.priors[0, 2]).detach()
    assert not logits[x > 32].any()
    assert logits[x < 32].all()


def test_weight_of_the_keypoint_term_alone() -> None:
    head, people = head_of("bins"), some_people()
    raw = raw_of(head, 2)
    usual, given = terms_of(head, raw, people), terms_of(head, raw, people, keypoint_weight=7.0)
    expected = usual | {"keypoints": usual["keypoints"] / distance_loss.KEYPOINTS["oks"] * 7}
    torch.testing.assert_close(given, expected)

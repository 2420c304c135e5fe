"""Loss of the distance head and task-aligned assignment, which is compared with a loop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from yolopose.data.batch import People
from yolopose.model.heads import HeadOutput
from yolopose.model.heads.distance import DistanceHead
from yolopose.model.layer_table import DistanceSettings
from yolopose.training import distance_loss
from yolopose.training.distance_loss import EPSILON, IOU_POWER, SCORE_POWER, DistanceLoss, assign
from yolopose.training.label_assignment import AnchorPredictions
from yolopose.training.settings import KEYPOINT_LOSSES, LossSettings
from yolopose.training.similarity import iou

from .people import POINTS, PRIORS, SIGMAS, chosen, nobody, pairs, predictions_near, some_people

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


def terms_of(head: DistanceHead, raw: HeadOutput, people: People, **options: object) -> dict[str, Tensor]:
    found = DistanceLoss(head, SIGMAS, LossSettings(**options))(raw, people)  # type: ignore[arg-type]
    expected = {"box", "classes", "keypoints", "visibility"} | ({"distribution"} if head.settings.bins > 1 else set())
    assert found.keys() == expected
    assert all(math.isfinite(term.item()) and term.ndim == 0 for term in found.values())
    assert all(torch.isfinite(part).all() for part in gradients(raw, found))
    return found


def perfect(head: DistanceHead, people: People) -> HeadOutput:
    """Every point predicts the only person of its image; one has a high score, all others a low one."""
    raw = raw_of(head, len(people.valid))
    grid, stride = raw.priors[0, :2].T, raw.priors[0, 2, :, None]
    centers = (grid + 0.5) * stride
    box, points = people.boxes[:, :1], people.keypoints[:, 0, None]
    distances = torch.cat((centers - box[..., :2], box[..., 2:] - centers), dim=2) / stride  # (B, N, 4)
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
def test_perfect_predictions_have_zero_loss(keypoint_loss: str) -> None:
    people = some_people(2, 1)._replace(boxes=torch.tensor([[[4.0, 12, 52, 60]], [[4.0, 4, 60, 44]]]))
    head = head_of("once")
    raw = perfect(head, people)
    terms = terms_of(head, raw, people, keypoint_loss=keypoint_loss)
    assert {name: round(term.item(), 3) for name, term in terms.items()} == dict.fromkeys(terms, 0)
    worse = raw._replace(boxes=raw.boxes + 0.2, keypoints=raw.keypoints + 0.1)
    terms = terms_of(head, worse, people, keypoint_loss=keypoint_loss)
    assert terms["box"] > 0.1
    assert terms["keypoints"] > 0.01


def test_distribution_term_rises_away_from_the_distance() -> None:
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
    assert logits.all()  # background is trained everywhere
    trained = keypoints.abs().sum(1) > 0
    assert ((boxes.abs().sum(1) > 0) <= trained).all()
    assert trained.sum() == 6 if kind == "once" else trained.sum() > 6


@every_kind
@pytest.mark.parametrize("people", [nobody(), nobody(most=2)])
def test_without_people_only_classes_have_a_gradient(kind: str, people: People) -> None:
    head = head_of(kind)
    raw = raw_of(head, 2)
    terms = terms_of(head, raw, people)
    assert {name for name, term in terms.items() if term.item() > 0} == {"classes"}
    boxes, logits, keypoints = gradients(raw, terms)
    assert (logits > 0).all()
    assert not boxes.any()
    assert not keypoints.any()


def test_people_without_keypoints_train_box_and_class() -> None:
    people = some_people()
    people = people._replace(visible=torch.zeros_like(people.visible))
    head = head_of("bins")
    raw = raw_of(head, 2)
    terms = terms_of(head, raw, people)
    assert terms["keypoints"] == terms["visibility"] == 0
    assert terms["box"] > 0
    assert not gradients(raw, terms)[2].any()


def test_crowd_regions_are_not_trained() -> None:
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


def test_keypoint_weight_changes_only_the_keypoint_term() -> None:
    head, people = head_of("bins"), some_people()
    raw = raw_of(head, 2)
    usual, given = terms_of(head, raw, people), terms_of(head, raw, people, keypoint_weight=7.0)
    expected = usual | {"keypoints": usual["keypoints"] / distance_loss.KEYPOINTS["oks"] * 7}
    torch.testing.assert_close(given, expected)


def assign_by_loops(predictions: AnchorPredictions, people: People, most: int) -> dict[tuple[int, int, int], float]:
    """``assign`` as it is described, with loops: quality of each matched pair."""
    found = {}
    for image in range(len(people.valid)):
        t: dict[int, dict[int, float]] = {}
        overlaps = {}
        for person in people.valid[image].nonzero().flatten().tolist():
            x1, y1, x2, y2 = people.boxes[image, person].tolist()
            places = [((c + 0.5) * s, (r + 0.5) * s, s) for c, r, s in PRIORS[0].T.tolist()]
            inside = [n for n, (x, y, _) in enumerate(places) if x1 < x < x2 and y1 < y < y2]
            near = [
                n for n, (x, y, s) in enumerate(places) if max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) < 2.5 * s
            ]
            t[person] = {}
            for n in inside or near:
                u = float(iou(predictions.boxes[image, n], people.boxes[image, person]))
                s = float(predictions.scores[image, n, people.labels[image, person]])
                t[person][n], overlaps[person, n] = max(s, EPSILON) ** SCORE_POWER * max(u, EPSILON) ** IOU_POWER, u
        wishes = {person: sorted(values, key=values.__getitem__)[-most:] for person, values in t.items()}
        owner: dict[int, int] = {}
        while any(wishes.values()):
            for n in {n for wanted in wishes.values() for n in wanted}:
                owner[n] = max((p for p in wishes if n in wishes[p]), key=lambda p: t[p][n])
            lost = [person for person in wishes if person not in owner.values()]
            free = {p: [n for n in t[p] if n not in owner] for p in lost}
            wishes = {p: [max(free[p], key=t[p].__getitem__)] for p in lost if free[p]}
        for person, values in t.items():
            got = [n for n in values if owner.get(n) == person]
            for n in got:
                best = max(t[person][m] for m in got), max(overlaps[person, m] for m in got)
                found[image, n, person] = t[person][n] / best[0] * best[1]
    return found


@given(
    st.integers(0, 10_000), st.floats(1, 15), st.integers(1, 4), st.sampled_from([1, 3]), st.sampled_from([1, 4, 10])
)
@settings(max_examples=25, deadline=None)
def test_task_aligned_assignment_equals_the_loops(
    seed: int, spread: float, count: int, classes: int, most: int
) -> None:
    people = some_people(2, count, classes=classes, seed=seed)
    people.valid[0, 0] = seed % 3 > 0
    predictions = predictions_near(people, seed, spread, classes)
    matches, quality = assign(predictions.boxes, predictions.scores, PRIORS, people, most)
    expected = assign_by_loops(predictions, people, most)
    assert pairs(matches) == set(expected)
    wanted = [expected[pair] for pair in zip(*(part.tolist() for part in matches), strict=True)]
    torch.testing.assert_close(quality, torch.tensor(wanted), rtol=1e-3, atol=1e-6)


def test_one_point_per_person_for_equal_boxes() -> None:
    people = some_people(1, 4, seed=3)
    people = people._replace(boxes=people.boxes[:, :1].expand(-1, 4, -1).contiguous())  # equal boxes
    predictions = predictions_near(people, 0, 1.0)
    matches, quality = assign(predictions.boxes, predictions.scores, PRIORS, people, 1)
    assert sorted(matches.person.tolist()) == [0, 1, 2, 3]
    assert len(set(matches.point.tolist())) == 4
    assert (quality > 0.3).all()


@pytest.mark.parametrize("people", [nobody(), nobody(most=2)])
def test_task_aligned_assignment_without_people(people: People) -> None:
    predictions = predictions_near(people, 0, 1.0)
    matches, quality = assign(predictions.boxes, predictions.scores, PRIORS, people, 10)
    assert len(matches.point) == len(quality) == 0


def test_people_are_matched_when_predictions_are_nan() -> None:
    people = chosen(some_people(), slice(1))
    predictions = predictions_near(people, 0, 1.0)
    matches, quality = assign(predictions.boxes * torch.nan, predictions.scores, PRIORS, people, 10)
    assert set(matches.person.tolist()) == {0, 1, 2}
    assert POINTS > len(matches.point) == len(quality)

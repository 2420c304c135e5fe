"""Loss of YOLOX-Pose and SimOTA: SimOTA against a loop, finite terms, zero for perfect predictions, two processes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from yolopose.data.batch import People
from yolopose.model.heads import HeadOutput
from yolopose.model.heads.anchor_free import AnchorFreeHead
from yolopose.training import anchor_free_loss
from yolopose.training.anchor_free_loss import AnchorFreeLoss, assign
from yolopose.training.label_assignment import AnchorPredictions, Assignment
from yolopose.training.settings import KEYPOINT_LOSSES, LossSettings

from .people import POINTS, PRIORS, SIGMAS, chosen, nobody, pairs, predictions_near, some_people

SIZE, STRIDES = 64, (8, 16)
TERMS = {"box", "objectness", "classes", "keypoints", "visibility"}
CLEAR = 0.02  # choices between costs that differ less depend on rounding
SIGMA_TENSOR = torch.tensor(SIGMAS)
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
    return assign(AnchorPredictions(boxes, scores, xy), raw.priors, people, torch.tensor(SIGMAS))


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
    """Every point predicts the first person of its image; ten inside its box have a high objectness."""
    net = head(variant)
    grid, stride = (priors := raw_of(net, 1).priors)[0, :2].T, priors[0, 2:].T  # (N, 2) and (N, 1)
    boxes, keypoints = people.boxes[:, 0, None], people.keypoints[:, 0, None]  # (B, 1, 4) and (B, 1, K, 2)
    sides = boxes[..., 2:] - boxes[..., :2]
    centers = (boxes[..., :2] + boxes[..., 2:]) / 2
    logits = torch.where(people.visible[:, 0], 20.0, -20.0)[:, None].expand(-1, len(grid), -1)  # (B, N, K)
    xy = keypoints / stride[:, None] - grid[:, None]
    if variant == "mmpose":
        encoded = torch.cat((xy.flatten(2), logits), dim=2)
    else:
        score = logits / stride  # its logits are multiplied by the stride
        encoded = (torch.cat((xy, score[..., None]), dim=3).flatten(2) + 0.5) / 2
    points = (grid + 0.5) * stride
    inside = ((points - centers).abs() < torch.minimum(sides / 2, 2.5 * stride)).all(-1)
    ten = inside & (inside.cumsum(1) <= 10)
    assert (ten.sum(1) == 10).all()
    objectness = torch.where(ten, 20.0, -20.0)[:, None]
    box = torch.cat((centers / stride - grid, (sides / stride).log()), dim=2)
    classes = torch.full_like(objectness, 20.0)
    return net, HeadOutput(box.transpose(1, 2), objectness, classes, encoded.transpose(1, 2), priors)


@both_variants
@pytest.mark.parametrize("kind", KEYPOINT_LOSSES)
def test_perfect_predictions_have_zero_loss(variant: str, kind: str) -> None:
    people = some_people(2, 1)._replace(boxes=torch.tensor([[[10.0, 10, 50, 60]], [[0.0, 5, 64, 40]]]))
    net, raw = perfect(variant, people)
    terms = loss_of(net, kind)(raw, people)
    assert {name: round(term.item(), 3) for name, term in terms.items()} == dict.fromkeys(TERMS, 0)
    assert matches_of(net, raw, people).image.tolist() == [0] * 10 + [1] * 10
    worse = loss_of(net, kind)(raw._replace(boxes=raw.boxes + 0.1, keypoints=raw.keypoints + 0.1), people)
    assert worse["box"] > 0.1
    assert worse["keypoints"] > 0.01


@pytest.mark.parametrize("kind", KEYPOINT_LOSSES)
def test_keypoint_weight_changes_only_the_keypoint_term(kind: str) -> None:
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
def test_without_people_only_objectness_has_a_gradient(variant: str, people: People) -> None:
    net = head(variant)
    raw = raw_of(net, 2)
    terms = loss_of(net)(raw, people)
    assert_finite(raw, terms)
    assert {name for name, term in terms.items() if term.item() > 0} == {"objectness"}
    boxes, objectness, classes, keypoints = gradients(raw, terms)
    assert (objectness > 0).all()
    assert not any(part.any() for part in (boxes, classes, keypoints))


@both_variants
def test_people_without_keypoints_train_box_and_class(variant: str) -> None:
    net, people = head(variant), some_people()
    raw = raw_of(net, 2)
    people = people._replace(visible=torch.zeros_like(people.visible), areas=torch.zeros_like(people.areas))
    terms = loss_of(net)(raw, people)
    assert_finite(raw, terms)
    assert terms["keypoints"].item() == terms["visibility"].item() == 0
    assert terms["box"].item() > 0
    assert not gradients(raw, terms)[3].any()


@both_variants
def test_only_matched_points_train_boxes_and_keypoints(variant: str) -> None:
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
def test_order_and_padding_have_no_effect(variant: str) -> None:
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
def test_mean_of_two_half_batches_equals_the_whole(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with two processes: each divides by the mean of positives, gradients are averaged. One half has no people."""
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
def test_crowd_regions_are_not_trained(variant: str) -> None:
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
def test_terms_of_bfloat16_predictions_are_float32(variant: str) -> None:
    net, people = head(variant), some_people()
    raw = raw_of(net, 2)
    half = HeadOutput(*(part.detach().bfloat16().requires_grad_() for part in raw[:4]), raw.priors)
    terms = loss_of(net)(half, people)
    assert all(term.dtype == torch.float32 for term in terms.values())
    assert_finite(half, terms)


def test_loss_has_no_parameters() -> None:
    loss = loss_of(head("mmpose"))
    assert not list(loss.parameters())
    assert not loss.state_dict()


@both_variants
def test_people_without_keypoints_do_not_lower_the_keypoint_terms(variant: str) -> None:
    """Many people of COCO have only a box; the weight of labeled keypoints must not depend on them."""
    net, people = head(variant), some_people(2, 1)
    raw = raw_of(net, 2)
    alone = loss_of(net)(HeadOutput(*(part[:1] for part in raw[:4]), raw.priors), chosen(people, slice(0, 1)))
    people = people._replace(visible=people.visible & torch.tensor([True, False])[:, None, None])
    both = loss_of(net)(raw, people)
    for name in ("keypoints", "visibility"):
        torch.testing.assert_close(both[name], alone[name])


class SimotaByLoops:
    """SimOTA as ``assign`` describes it, with loops. margin: the smallest cost difference that decided a choice."""

    def __init__(self, predictions: AnchorPredictions, people: People) -> None:
        self.predictions, self.people, self.margin = predictions, people, math.inf
        self.found = {match for image in range(len(people.valid)) for match in self._image(image)}

    def _image(self, image: int) -> set[tuple[int, int, int]]:
        costs: dict[int, dict[int, float]] = {}
        wishes: dict[int, list[int]] = {}
        for person in range(self.people.valid.shape[1]):
            if not self.people.valid[image, person]:
                continue
            overlaps = {}
            costs[person] = {}
            for point in range(POINTS):
                where = self._where(image, person, point)
                if any(where):
                    overlaps[point], cost = self._cost(image, person, point)
                    costs[person][point] = cost + (0 if all(where) else 1e5)
            total = sum(sorted(overlaps.values(), reverse=True)[:10])
            self.margin = min(self.margin, abs(total - round(total)) * 10)
            wishes[person] = self._cheapest(costs[person], max(int(total), 1))
        owner: dict[int, int] = {}
        while any(wishes.values()):
            for point in {point for points in wishes.values() for point in points}:
                rivals = sorted((costs[person][point], person) for person in wishes if point in wishes[person])
                if len(rivals) > 1:
                    self.margin = min(self.margin, rivals[1][0] - rivals[0][0])
                owner[point] = rivals[0][1]
            losers = [person for person in wishes if wishes[person] and person not in owner.values()]
            wishes = {
                person: self._cheapest({p: c for p, c in costs[person].items() if p not in owner}, 1)
                for person in losers
            }
        return {(image, point, person) for point, person in owner.items()}

    def _cheapest(self, costs: dict[int, float], count: int) -> list[int]:
        ranked = sorted(costs, key=lambda point: costs[point])
        if 0 < count < len(ranked):
            self.margin = min(self.margin, costs[ranked[count]] - costs[ranked[count - 1]])
        return ranked[:count]

    def _where(self, image: int, person: int, point: int) -> tuple[bool, bool]:
        column, row, stride = PRIORS[0, :, point].tolist()
        x, y = (column + 0.5) * stride, (row + 0.5) * stride
        x1, y1, x2, y2 = self.people.boxes[image, person].tolist()
        near = abs(x - (x1 + x2) / 2) < 2.5 * stride and abs(y - (y1 + y2) / 2) < 2.5 * stride
        return x1 < x < x2 and y1 < y < y2, near

    def _cost(self, image: int, person: int, point: int) -> tuple[float, float]:
        a, b = self.predictions.boxes[image, point].tolist(), self.people.boxes[image, person].tolist()
        inner = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
        areas = [max(box[2] - box[0], 0) * max(box[3] - box[1], 0) for box in (a, b)]
        overlap = inner / max(sum(areas) - inner, 1e-7)
        cost = -3 * math.log(overlap + 1e-6)
        seen = [k for k in range(len(SIGMAS)) if self.people.visible[image, person, k]]
        if seen:
            area = self.people.areas[image, person].item()
            offsets = (self.predictions.keypoints[image, point] - self.people.keypoints[image, person]).square().sum(-1)
            oks = sum(math.exp(-offsets[k].item() / (2 * SIGMAS[k]) ** 2 / area / 2) for k in seen) / len(seen)
            cost -= 3 * math.log(oks + 1e-6)
        for label, score in enumerate(self.predictions.scores[image, point].tolist()):
            p = min(max(math.sqrt(score), 1e-3), 1 - 1e-6)
            cost -= math.log(p if label == self.people.labels[image, person] else 1 - p)
        return overlap, cost


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 4), st.sampled_from([0.5, 3.0, 20.0]), st.integers(1, 2))
def test_simota_equals_the_loops(seed: int, most: int, spread: float, classes: int) -> None:
    people = some_people(2, most, SIZE, classes, seed)
    rng = torch.Generator().manual_seed(seed)
    kind = torch.randint(6, people.valid.shape, generator=rng)  # 0: padding, 1: crowd, 2: no keypoints
    visible = people.visible & (kind != 2)[..., None]
    people = people._replace(valid=kind > 1, ignore=kind == 1, visible=visible)
    predictions = predictions_near(people, seed, spread, classes)
    slow = SimotaByLoops(predictions, people)
    assume(slow.margin > CLEAR)
    found = assign(predictions, PRIORS, people, SIGMA_TENSOR)
    assert pairs(found) == slow.found
    assert len({(image, point) for image, point, _ in pairs(found)}) == len(found.image)  # one person per point
    served = torch.zeros_like(people.valid)
    served[found.image, found.person] = True
    assert (served == people.valid).all()  # every valid person is matched, and nobody else


def test_simota_gives_each_of_five_equal_people_a_point() -> None:
    """Five people in one place and an untrained network: each chooses the same point."""
    one = some_people(1, 1)
    people = People(*(part.repeat_interleave(5, dim=1) for part in one))
    predictions = AnchorPredictions(
        torch.zeros(1, POINTS, 4), torch.rand(1, POINTS, 1), torch.zeros(1, POINTS, len(SIGMAS), 2)
    )
    found = assign(predictions, PRIORS, people, SIGMA_TENSOR)
    assert sorted(found.person.tolist()) == [0, 1, 2, 3, 4]
    assert len(set(found.point.tolist())) == 5


def test_simota_with_more_people_than_points() -> None:
    people = People(*(part.repeat_interleave(3, dim=1) for part in some_people(1, 1)))
    people = people._replace(boxes=torch.tensor([[[30.0, 30, 34, 34]] * 3]))
    two = PRIORS[:, :, [27, 28]]  # both within 2.5 strides of the center
    predictions = AnchorPredictions(torch.zeros(1, 2, 4), torch.rand(1, 2, 1), torch.zeros(1, 2, len(SIGMAS), 2))
    found = assign(predictions, two, people, SIGMA_TENSOR)
    assert sorted(found.point.tolist()) == [0, 1]
    assert len(set(found.person.tolist())) == 2


def test_simota_ignores_keypoints_of_unlabeled_people() -> None:
    people = some_people(2, 3)
    people = people._replace(visible=torch.zeros_like(people.visible), areas=torch.zeros_like(people.areas))
    predictions = predictions_near(people, 0, 3.0)
    far = predictions._replace(keypoints=predictions.keypoints + 1e4 * torch.rand_like(predictions.keypoints))
    assert pairs(assign(predictions, PRIORS, people, SIGMA_TENSOR)) == pairs(assign(far, PRIORS, people, SIGMA_TENSOR))


@pytest.mark.parametrize("people", [nobody(), nobody(most=2)])
def test_simota_without_people_and_with_crowds(people: People) -> None:
    predictions = predictions_near(people, 0, 3.0)
    assert not pairs(assign(predictions, PRIORS, people, SIGMA_TENSOR))
    crowd = some_people(2, 2)._replace(ignore=torch.ones(2, 2, dtype=torch.bool), valid=torch.zeros(2, 2).bool())
    assert not pairs(assign(predictions, PRIORS, crowd, SIGMA_TENSOR))


def one_at(x: float, y: float, width: float) -> People:
    people = some_people(1, 1)
    box = torch.tensor([[[x - width / 2, y - width / 2, x + width / 2, y + width / 2]]])
    return people._replace(boxes=box, areas=torch.tensor([[width**2]]))


@pytest.mark.parametrize("xy", [(0.0, 0.0), (SIZE, SIZE), (32.0, 32.0), (31.9, 0.0), (SIZE, 5.0)])
@pytest.mark.parametrize("width", [0.0, 0.01, 3.0])
def test_simota_matches_tiny_people(xy: tuple[float, float], width: float) -> None:
    people = one_at(*xy, width)
    assert pairs(assign(predictions_near(people, 0, 1.0), PRIORS, people, SIGMA_TENSOR))


def test_simota_does_not_match_people_outside_the_image() -> None:
    people = one_at(-2.5 * 16 + 8 - 0.1, 32, 5)
    assert not pairs(assign(predictions_near(people, 0, 1.0), PRIORS, people, SIGMA_TENSOR))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e30])
def test_simota_matches_people_when_predictions_are_not_finite(value: float) -> None:
    people = some_people(1, 2)
    predictions = predictions_near(people, 0, 1.0)
    broken = AnchorPredictions(
        torch.full_like(predictions.boxes, value), predictions.scores, torch.full_like(predictions.keypoints, value)
    )
    assert pairs(assign(broken, PRIORS, people, SIGMA_TENSOR))

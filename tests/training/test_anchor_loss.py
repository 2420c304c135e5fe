"""The anchor head's loss: finite always, blind to order and padding, gradients only where something is to learn."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.training.anchor_cases import STRIDES, head, loss_of, nobody, raw_of, some_people
from yolopose.data.batch import People
from yolopose.model.heads import HeadOutput
from yolopose.model.heads.anchor import AnchorHead
from yolopose.training import anchor_loss
from yolopose.training.anchor_loss import AnchorLoss, covered_anchors, match_anchors
from yolopose.training.settings import LossSettings

TERMS = {"box", "objectness", "classes", "keypoints", "visibility"}


def gradients(raw: HeadOutput, terms: dict[str, Tensor], *names: str) -> list[Tensor]:
    total = torch.stack([terms[name] for name in names or terms]).sum()
    return list(torch.autograd.grad(total, list(raw[:4]), retain_graph=True, materialize_grads=True))


def assert_finite(raw: HeadOutput, terms: dict[str, Tensor]) -> None:
    assert terms.keys() == TERMS
    assert all(math.isfinite(term.item()) and term.item() >= 0 and term.ndim == 0 for term in terms.values())
    assert all(term.requires_grad for term in terms.values())
    assert all(torch.isfinite(gradient).all() for gradient in gradients(raw, terms))


@pytest.mark.parametrize("kind", ["oks", "l1", "scaled-l1"])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("classes", [1, 3])
def test_terms_and_gradients_are_finite(kind: str, legacy: bool, classes: int) -> None:
    net = head(classes, legacy)
    raw = raw_of(net, 2)
    assert_finite(raw, loss_of(net, kind)(raw, some_people(classes=classes)))


@pytest.mark.parametrize("people", [nobody(), nobody(most=2)])
def test_without_people_objectness_alone_learns(people: People) -> None:
    net = head()
    raw = raw_of(net, 2)
    terms = loss_of(net)(raw, people)
    assert_finite(raw, terms)
    assert {name for name, term in terms.items() if term.item() > 0} == {"objectness"}
    boxes, objectness, classes, keypoints = gradients(raw, terms)
    assert (objectness > 0).all()
    assert not any(part.any() for part in (boxes, classes, keypoints))


def test_people_without_keypoints_teach_the_box_alone() -> None:
    net, people = head(), some_people()
    raw = raw_of(net, 2)
    people = people._replace(visible=torch.zeros_like(people.visible), areas=torch.zeros_like(people.areas))
    terms = loss_of(net)(raw, people)
    assert_finite(raw, terms)
    assert terms["keypoints"].item() == terms["visibility"].item() == 0
    assert terms["box"].item() > 0
    assert not gradients(raw, terms)[3].any()


def test_they_do_not_thin_the_keypoint_terms_of_others() -> None:
    net, people = head(), some_people(1, 2)
    raw = raw_of(net, 1)
    people = people._replace(visible=torch.tensor([[[True] * 3, [False] * 3]]))
    alone = people._replace(valid=torch.tensor([[True, False]]))
    people = people._replace(boxes=torch.tensor([[[8.0, 8, 40, 60], [90, 70, 120, 126]]]))
    alone = alone._replace(boxes=people.boxes)
    both, one = loss_of(net)(raw, people), loss_of(net)(raw, alone)
    for name in ("keypoints", "visibility"):
        torch.testing.assert_close(both[name], one[name])


number = st.one_of(st.sampled_from([0.0, 64.0, 128.0, -1.0, 1e4]), st.floats(-50, 200, width=32))


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from([0.0, 1.0, 300.0]), st.sampled_from(["oks", "l1", "scaled-l1"]))
def test_finite_for_any_labels(data: st.DataObject, spread: float, kind: str) -> None:
    """Boxes without area or outside the picture, far keypoints, no area, crowds, people who are neither."""
    net, most = head(), data.draw(st.integers(0, 3))
    raw = raw_of(net, 2, size=64, spread=spread)

    def tensor(*shape: int, of: st.SearchStrategy[float] = number) -> Tensor:
        count = math.prod(shape)
        return torch.tensor(data.draw(st.lists(of, min_size=count, max_size=count))).reshape(shape)

    def flags(*shape: int) -> Tensor:
        return tensor(*shape, of=st.booleans()).bool()

    valid = flags(2, most)
    people = People(
        tensor(2, most, 4).float(), tensor(2, most, 3, 2).float(), flags(2, most, 3),
        tensor(2, most, of=st.sampled_from([0.0, 1.0, 5e3])).float(), torch.zeros(2, most, dtype=torch.int64), valid,
        flags(2, most) & ~valid,
    )  # fmt: skip
    assert_finite(raw, loss_of(net, kind)(raw, people))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.permutations(range(4)))
def test_order_of_people_and_padding_do_not_matter(seed: int, order: list[int]) -> None:
    net = head(2)
    raw, people = raw_of(net, 2), some_people(2, 4, classes=2, seed=seed)
    shuffled = People(*(torch.cat((part[:, order], torch.zeros_like(part[:, :2])), dim=1) for part in people))
    first, second = loss_of(net)(raw, people), loss_of(net)(raw, shuffled)
    for name in TERMS:
        torch.testing.assert_close(first[name], second[name])


def test_perfect_prediction_costs_almost_nothing() -> None:
    """Encoded by hand from the formulas of the paper, not by the head's decoding: centre, size, keypoints."""
    net = head()
    box = torch.tensor([44.0, 37, 82, 131])
    keypoints = torch.tensor([[50.0, 50], [70, 100], [0, 0]])
    people = People(
        box.view(1, 1, 4), keypoints.view(1, 1, 3, 2), torch.tensor([[[True, True, False]]]),
        torch.tensor([[1500.0]]), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool),
        torch.zeros(1, 1, dtype=torch.bool),
    )  # fmt: skip
    raw = raw_of(net, 1, size=192)
    cells, grid, stride = raw.boxes.shape[2], raw.priors[0, :2], raw.priors[0, 2]
    logit = torch.logit
    with torch.no_grad():
        centre = torch.tensor([63.0, 84.0])[:, None]
        raw.boxes[0, :2] = logit(((centre / stride - grid + 0.5) / 2).clamp(1e-6, 1 - 1e-6))
        raw.boxes[0, 2:] = logit(
            ((torch.tensor([[38.0], [94.0]]) / raw.priors[0, 3:]).sqrt() / 2).clamp(1e-6, 1 - 1e-6)
        )
        points = (keypoints[..., None] / stride - grid + 0.5) / 2  # (3, 2, N)
        raw.keypoints[0] = torch.cat(
            (points, torch.tensor([30.0, 30, -30]).view(3, 1, 1).expand(3, 1, cells)), 1
        ).flatten(0, 1)
        raw.classes.fill_(30.0)
        raw.objectness.fill_(-30.0)
        matched = match_anchors(people, *_layout(net))
        raw.objectness[0, 0, matched.priors] = 30.0
    terms = loss_of(net)(raw, people)
    for name in TERMS:
        assert terms[name].item() == pytest.approx(0, abs=5e-3), name
    raw.keypoints.data[0, 8] = 0  # confidence of the unlabelled one
    assert loss_of(net)(raw, people)["visibility"].item() > 0.5
    raw.keypoints.data[0, 6:8] = 1e3  # its place does not matter
    assert loss_of(net)(raw, people)["keypoints"].item() == pytest.approx(0, abs=5e-3)


def _layout(net: AnchorHead, size: int = 192) -> tuple[Tensor, Tensor, Tensor]:
    sizes = torch.tensor([[size // stride] * 2 for stride in STRIDES])
    return torch.tensor(net.anchor_shapes), torch.tensor(STRIDES, dtype=torch.float32), sizes


def test_gradients_stay_with_the_matched_anchors() -> None:
    net, people = head(), some_people()
    raw = raw_of(net, 2)
    terms = loss_of(net)(raw, people)
    matches = match_anchors(people, *_layout(net, 128))
    here = torch.zeros(2, raw.boxes.shape[2], dtype=torch.bool)
    here[matches.images, matches.priors] = True
    touched = {
        "box": (True, False, False, False), "objectness": (False, True, False, False),
        "classes": (False, False, True, False), "keypoints": (False, False, False, True),
        "visibility": (False, False, False, True),
    }  # fmt: skip
    for name, expected in touched.items():
        found = gradients(raw, terms, name)
        assert tuple(bool(part.any()) for part in found) == expected, name
        for part in found if name != "objectness" else ():
            assert not part.any(dim=1)[~here].any(), name
    keypoints = gradients(raw, terms, "keypoints")[3].unflatten(1, (3, 3))
    confidence = gradients(raw, terms, "visibility")[3].unflatten(1, (3, 3))
    assert not keypoints[:, :, 2].any()
    assert not confidence[:, :, :2].any()
    assert gradients(raw, terms, "objectness")[1].all()  # background learns everywhere
    seen = people.visible[matches.images, matches.people]
    moved = keypoints[matches.images, :, :2, matches.priors].any(dim=2)
    assert torch.equal(moved, seen)


def test_crowd_regions_are_left_alone() -> None:
    net = head()
    raw, people = raw_of(net, 1), some_people(1, 2)
    people = people._replace(
        boxes=torch.tensor([[[30.0, 20, 68, 114], [0, 0, 64, 128]]]),
        valid=torch.tensor([[True, False]]),
        ignore=torch.tensor([[False, True]]),
    )
    gradient = gradients(raw, loss_of(net)(raw, people))[1][0, 0]
    matches = match_anchors(people, *_layout(net, 128))
    left = (raw.priors[0, 0] + 0.5) * raw.priors[0, 2] < 64
    assert torch.equal(covered_anchors(raw.priors, people)[0], left)
    positive = torch.zeros_like(left)
    positive[matches.priors] = True
    assert (positive & left).any()
    assert torch.equal(gradient != 0, ~left | positive)


def test_objectness_learns_the_ciou() -> None:
    """Its gradient is (probability - target): zero where the logit already says the CIoU."""
    net, people = head(), some_people()
    raw = raw_of(net, 2)
    matches = match_anchors(people, *_layout(net, 128))
    boxes = net.decode_boxes(raw.boxes, raw.priors)[matches.images, :, matches.priors]
    overlap = anchor_loss.ciou(boxes, people.boxes[matches.images, matches.people]).clamp(1e-4, 1)
    with torch.no_grad():
        raw.objectness[matches.images, 0, matches.priors] = torch.logit(overlap)
    found = gradients(raw, loss_of(net)(raw, people), "objectness")[1][matches.images, 0, matches.priors]
    assert found.abs().max() < 1e-6


def _halves(
    monkeypatch: pytest.MonkeyPatch, net: AnchorHead, raw: HeadOutput, people: People
) -> list[dict[str, Tensor]]:
    """Losses of the two half batches, each told the counts that two processes would agree on."""
    parts = [
        (HeadOutput(*(p[i : i + 2] for p in raw[:4]), raw.priors), People(*(p[i : i + 2] for p in people)))
        for i in (0, 2)
    ]
    counts: list[Tensor] = []
    original: Callable[[Tensor], Tensor] = anchor_loss.mean_positives
    monkeypatch.setattr(anchor_loss, "mean_positives", lambda count: counts.append(count) or original(count))
    for part in parts:
        loss_of(net)(*part)
    agreed = torch.stack(counts).float().mean(0).clamp(min=0.5)
    monkeypatch.setattr(anchor_loss, "mean_positives", lambda _: agreed)
    found = [loss_of(net)(*part) for part in parts]
    monkeypatch.undo()
    return found


@pytest.mark.parametrize("empty", [False, True])
def test_two_half_batches_equal_one(monkeypatch: pytest.MonkeyPatch, empty: bool) -> None:
    """Averaged losses and gradients of two processes, one of them perhaps without people."""
    net, people = head(), some_people(4)
    if empty:
        people = people._replace(valid=torch.tensor([[False] * 3] * 2 + [[True] * 3] * 2))
    raw = raw_of(net, 4)
    whole = loss_of(net)(raw, people)
    first, second = _halves(monkeypatch, net, raw, people)
    mean = {name: (first[name] + second[name]) / 2 for name in TERMS}
    for name in TERMS:
        torch.testing.assert_close(mean[name], whole[name])
    for one, other in zip(gradients(raw, mean), gradients(raw, whole), strict=True):
        torch.testing.assert_close(one, other)


def test_objectness_weighs_a_cell_alike_in_any_picture_and_level() -> None:
    """0.01 a cell and picture: the reference's balance, see the module."""
    net = head()
    for size in (64, 192):
        raw = raw_of(net, 2, size=size)
        raw.objectness.data.zero_()
        expected = 0.01 * raw.objectness.shape[2] * math.log(2)
        assert loss_of(net)(raw, nobody())["objectness"].item() == pytest.approx(expected, rel=1e-5)


def test_computed_in_float32_under_autocast() -> None:
    net, people = head(), some_people()
    raw = raw_of(net, 2)
    plain = loss_of(net)(raw, people)
    half = HeadOutput(*(part.bfloat16() for part in raw[:4]), raw.priors)
    with torch.autocast("cpu", torch.bfloat16):
        cast = loss_of(net)(half, people)
    for name in TERMS:
        assert cast[name].dtype == torch.float32
        torch.testing.assert_close(cast[name], plain[name], rtol=0.05, atol=0.05)


def test_the_head_is_no_part_of_the_loss() -> None:
    assert not list(loss_of(head()).parameters())


def test_other_number_of_keypoints() -> None:
    with pytest.raises(ValueError, match="3 keypoints, but there are 2 sigmas"):
        AnchorLoss(head(), (0.1, 0.1), LossSettings())

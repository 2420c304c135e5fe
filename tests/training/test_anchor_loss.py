"""Loss of the anchor head and anchor matching: matching against a loop, finite terms, gradients, two processes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from yolopose.data.batch import People
from yolopose.model.heads import HeadOutput, priors_of_level
from yolopose.model.heads.anchor import AnchorHead
from yolopose.model.sizes import COCO_P6_ANCHORS
from yolopose.training import anchor_loss
from yolopose.training.anchor_loss import AnchorLoss, level_sizes, match_anchors
from yolopose.training.label_assignment import Assignment, in_crowd
from yolopose.training.settings import LossSettings

SIGMAS = (0.05, 0.05, 0.1)
STRIDES = (8, 16, 32, 64)
SHAPES = torch.tensor(COCO_P6_ANCHORS)
TERMS = {"box", "objectness", "classes", "keypoints", "visibility"}


def head(classes: int = 1, legacy: bool = False) -> AnchorHead:
    torch.manual_seed(0)
    return AnchorHead(
        (8,) * 4, STRIDES, COCO_P6_ANCHORS, len(SIGMAS), classes, keypoint_branch="plain", legacy_layout=legacy,
        activation="silu",
    )  # fmt: skip


def raw_of(head: AnchorHead, batch: int, size: int = 128, seed: int = 0, spread: float = 1.0) -> HeadOutput:
    """Raw predictions of random features, each part a leaf with its own gradient."""
    torch.manual_seed(seed)
    features = [spread * torch.randn(batch, 8, size // stride, size // stride) for stride in STRIDES]
    with torch.no_grad():
        raw = head(features)
    return HeadOutput(*(part.requires_grad_(index < 4) for index, part in enumerate(raw)))


def some_people(batch: int = 2, most: int = 3, classes: int = 1, seed: int = 1) -> People:
    torch.manual_seed(seed)
    corner, size = 90 * torch.rand(batch, most, 2), 10 + 80 * torch.rand(batch, most, 2)
    keypoints = corner[:, :, None] + size[:, :, None] * torch.rand(batch, most, len(SIGMAS), 2)
    return People(
        torch.cat((corner, corner + size), dim=-1), keypoints, torch.rand(batch, most, len(SIGMAS)) > 0.3,
        0.5 * size.prod(-1), torch.randint(classes, (batch, most)), torch.ones(batch, most, dtype=torch.bool),
        torch.zeros(batch, most, dtype=torch.bool),
    )  # fmt: skip


def nobody(batch: int = 2, most: int = 0) -> People:
    people = some_people(batch, most)
    return People(*(torch.zeros_like(part) for part in people))


def loss_of(head: AnchorHead, kind: str = "oks") -> AnchorLoss:
    return AnchorLoss(head, SIGMAS, LossSettings(keypoint_loss=kind))


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
def test_without_people_only_objectness_has_a_gradient(people: People) -> None:
    net = head()
    raw = raw_of(net, 2)
    terms = loss_of(net)(raw, people)
    assert_finite(raw, terms)
    assert {name for name, term in terms.items() if term.item() > 0} == {"objectness"}
    boxes, objectness, classes, keypoints = gradients(raw, terms)
    assert (objectness > 0).all()
    assert not any(part.any() for part in (boxes, classes, keypoints))


def test_people_without_keypoints_train_only_the_box() -> None:
    net, people = head(), some_people()
    raw = raw_of(net, 2)
    people = people._replace(visible=torch.zeros_like(people.visible), areas=torch.zeros_like(people.areas))
    terms = loss_of(net)(raw, people)
    assert_finite(raw, terms)
    assert terms["keypoints"].item() == terms["visibility"].item() == 0
    assert terms["box"].item() > 0
    assert not gradients(raw, terms)[3].any()


def test_people_without_keypoints_do_not_lower_the_keypoint_terms() -> None:
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
    """Boxes without area or outside the image, far keypoints, no area, crowd regions, padding."""
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
def test_order_and_padding_have_no_effect(seed: int, order: list[int]) -> None:
    net = head(2)
    raw, people = raw_of(net, 2), some_people(2, 4, classes=2, seed=seed)
    shuffled = People(*(torch.cat((part[:, order], torch.zeros_like(part[:, :2])), dim=1) for part in people))
    first, second = loss_of(net)(raw, people), loss_of(net)(raw, shuffled)
    for name in TERMS:
        torch.testing.assert_close(first[name], second[name])


def test_perfect_predictions_have_almost_zero_loss() -> None:
    """Encoded with the formulas of the paper, not with the head's decoding: center, size, keypoints."""
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
        center = torch.tensor([63.0, 84.0])[:, None]
        raw.boxes[0, :2] = logit(((center / stride - grid + 0.5) / 2).clamp(1e-6, 1 - 1e-6))
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
        raw.objectness[0, 0, matched.point] = 30.0
    terms = loss_of(net)(raw, people)
    for name in TERMS:
        assert terms[name].item() == pytest.approx(0, abs=5e-3), name
    raw.keypoints.data[0, 8] = 0  # confidence of the keypoint that is not labeled
    assert loss_of(net)(raw, people)["visibility"].item() > 0.5
    raw.keypoints.data[0, 6:8] = 1e3  # its position has no effect
    assert loss_of(net)(raw, people)["keypoints"].item() == pytest.approx(0, abs=5e-3)


def _layout(net: AnchorHead, size: int = 192) -> tuple[Tensor, Tensor, Tensor]:
    sizes = torch.tensor([[size // stride] * 2 for stride in STRIDES])
    return torch.tensor(net.anchor_shapes), torch.tensor(STRIDES, dtype=torch.float32), sizes


def test_only_matched_anchors_have_gradients() -> None:
    net, people = head(), some_people()
    raw = raw_of(net, 2)
    terms = loss_of(net)(raw, people)
    matches = match_anchors(people, *_layout(net, 128))
    here = torch.zeros(2, raw.boxes.shape[2], dtype=torch.bool)
    here[matches.image, matches.point] = True
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
    assert gradients(raw, terms, "objectness")[1].all()  # background is trained everywhere
    seen = people.visible[matches.image, matches.person]
    moved = keypoints[matches.image, :, :2, matches.point].any(dim=2)
    assert torch.equal(moved, seen)


def test_crowd_regions_are_not_trained() -> None:
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
    assert torch.equal(in_crowd(raw.priors, people)[0], left)
    positive = torch.zeros_like(left)
    positive[matches.point] = True
    assert (positive & left).any()
    assert torch.equal(gradient != 0, ~left | positive)


def test_objectness_target_is_the_ciou() -> None:
    """The gradient, probability - target, is zero where the predicted objectness equals the CIoU."""
    net, people = head(), some_people()
    raw = raw_of(net, 2)
    matches = match_anchors(people, *_layout(net, 128))
    boxes = net.decode_boxes(raw.boxes, raw.priors)[matches.image, :, matches.point]
    overlap = anchor_loss.ciou(boxes, people.boxes[matches.image, matches.person]).clamp(1e-4, 1)
    with torch.no_grad():
        raw.objectness[matches.image, 0, matches.point] = torch.logit(overlap)
    found = gradients(raw, loss_of(net)(raw, people), "objectness")[1][matches.image, 0, matches.point]
    assert found.abs().max() < 1e-6


def _halves(
    monkeypatch: pytest.MonkeyPatch, net: AnchorHead, raw: HeadOutput, people: People
) -> list[dict[str, Tensor]]:
    """Losses of the two half batches, with the counts that two processes would share."""
    parts = [
        (HeadOutput(*(p[i : i + 2] for p in raw[:4]), raw.priors), People(*(p[i : i + 2] for p in people)))
        for i in (0, 2)
    ]
    counts: list[Tensor] = []
    original: Callable[[Tensor], Tensor] = anchor_loss.mean_positives
    monkeypatch.setattr(anchor_loss, "mean_positives", lambda count: counts.append(count) or original(count))
    for part in parts:
        loss_of(net)(*part)
    shared = torch.stack(counts).float().mean(0).clamp(min=0.5)
    monkeypatch.setattr(anchor_loss, "mean_positives", lambda _: shared)
    found = [loss_of(net)(*part) for part in parts]
    monkeypatch.undo()
    return found


@pytest.mark.parametrize("empty", [False, True])
def test_mean_of_two_half_batches_equals_the_whole(monkeypatch: pytest.MonkeyPatch, empty: bool) -> None:
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


def test_objectness_weight_per_cell_is_independent_of_image_size() -> None:
    """0.01 per cell and image, see the module's docstring."""
    net = head()
    for size in (64, 192):
        raw = raw_of(net, 2, size=size)
        raw.objectness.data.zero_()
        expected = 0.01 * raw.objectness.shape[2] * math.log(2)
        assert loss_of(net)(raw, nobody())["objectness"].item() == pytest.approx(expected, rel=1e-5)


def test_terms_are_float32_under_autocast() -> None:
    net, people = head(), some_people()
    raw = raw_of(net, 2)
    plain = loss_of(net)(raw, people)
    half = HeadOutput(*(part.bfloat16() for part in raw[:4]), raw.priors)
    with torch.autocast("cpu", torch.bfloat16):
        cast = loss_of(net)(half, people)
    for name in TERMS:
        assert cast[name].dtype == torch.float32
        torch.testing.assert_close(cast[name], plain[name], rtol=0.05, atol=0.05)


def test_loss_has_no_parameters() -> None:
    assert not list(loss_of(head()).parameters())


def test_rejects_another_number_of_sigmas() -> None:
    with pytest.raises(ValueError, match="3 keypoints, but there are 2 sigmas"):
        AnchorLoss(head(), (0.1, 0.1), LossSettings())


# Matching


def priors(height: int, width: int) -> Tensor:
    parts = [
        priors_of_level(height // stride, width // stride, (stride, *shape), SHAPES)
        for stride, shapes in zip(STRIDES, COCO_P6_ANCHORS, strict=True)
        for shape in shapes
    ]
    return torch.cat(parts, dim=2)


def people_of(*images: list[tuple[float, ...]], crowd: tuple[tuple[int, int], ...] = ()) -> People:
    """People with xyxy boxes and no keypoints; every image has as many rows as the one with most people."""
    most = max((len(boxes) for boxes in images), default=0)
    boxes, valid = torch.zeros(len(images), most, 4), torch.zeros(len(images), most, dtype=torch.bool)
    ignore = torch.zeros_like(valid)
    for image, rows in enumerate(images):
        for row, box in enumerate(rows):
            boxes[image, row] = torch.tensor(box)
            ignore[image, row] = (image, row) in crowd
            valid[image, row] = (image, row) not in crowd
    shape = boxes.shape[:2]
    return People(
        boxes, torch.zeros(*shape, 17, 2), torch.zeros(*shape, 17, dtype=torch.bool), torch.zeros(shape),
        torch.zeros(shape, dtype=torch.int64), valid, ignore,
    )  # fmt: skip


def matched(people: People, size: tuple[int, int] = (128, 192)) -> Assignment:
    grid = priors(*size)
    return match_anchors(people, SHAPES, torch.tensor(STRIDES, dtype=torch.float32), level_sizes(grid, STRIDES))


def matches_of(box: list[float], size: tuple[int, int]) -> dict[tuple[int, int, int, int], bool]:
    """(level, shape, row, column) that a person matches -> whether it is its home; from the docstring."""
    x1, y1, x2, y2 = box
    w, h = max(x2 - x1, 1e-3), max(y2 - y1, 1e-3)
    fit = {
        (level, shape): max(w / aw, aw / w, h / ah, ah / h)
        for level, shapes in enumerate(COCO_P6_ANCHORS)
        for shape, (aw, ah) in enumerate(shapes)
    }
    best = min(fit, key=lambda key: fit[key])
    claims = {}
    for (level, shape), worst in fit.items():
        if worst >= 4 and (level, shape) != best:
            continue
        rows, columns = size[0] // STRIDES[level], size[1] // STRIDES[level]
        gx = min(max((x1 + x2) / 2 / STRIDES[level], 0), columns)
        gy = min(max((y1 + y2) / 2 / STRIDES[level], 0), rows)
        column, row = min(math.floor(gx), columns - 1), min(math.floor(gy), rows - 1)
        claims[level, shape, row, column] = (level, shape) == best
        if gx - column != 0.5:
            claims.setdefault((level, shape, row, column + (1 if gx - column > 0.5 else -1)), False)
        if gy - row != 0.5:
            claims.setdefault((level, shape, row + (1 if gy - row > 0.5 else -1), column), False)
        for key in list(claims):
            if key[:2] == (level, shape) and not (0 <= key[2] < rows and 0 <= key[3] < columns):
                del claims[key]
    return claims


def index_of(key: tuple[int, int, int, int], size: tuple[int, int]) -> int:
    level, shape, row, column = key
    cells = [(size[0] // stride) * (size[1] // stride) for stride in STRIDES]
    return 3 * sum(cells[:level]) + shape * cells[level] + row * (size[1] // STRIDES[level]) + column


# Multiples of a quarter pixel, so that centers are equal in float32 and in the loop's float64.
coordinate = st.one_of(st.integers(-4, 52).map(lambda n: n * 4.0), st.integers(-80, 880).map(lambda n: n / 4))
length = st.one_of(st.sampled_from([0.0, 0.5, 16.0, 38.0, 76.0, 700.0]), st.integers(0, 800).map(lambda n: n / 4))
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), coordinate, coordinate, length, length)
image_sizes = st.sampled_from([(64, 64), (128, 192), (192, 128)])


@settings(deadline=None)
@given(st.lists(st.lists(boxes, max_size=4), min_size=1, max_size=3), image_sizes)
def test_matching_equals_the_loops(images: list[list[tuple[float, ...]]], size: tuple[int, int]) -> None:
    labels = people_of(*images)
    claimed: dict[tuple[int, int], set[int]] = {}
    homes: dict[tuple[int, int], set[int]] = {}
    for image, rows in enumerate(images):
        for row in range(len(rows)):
            for key, home in matches_of(labels.boxes[image, row].double().tolist(), size).items():
                claimed.setdefault((image, index_of(key, size)), set()).add(row)
                if home:
                    homes.setdefault((image, index_of(key, size)), set()).add(row)
    found = {(i, n): g for i, n, g in zip(*(part.tolist() for part in matched(labels, size)), strict=True)}
    assert found.keys() == claimed.keys()
    for key, row in found.items():
        assert row in homes.get(key, claimed[key])


@settings(deadline=None)
@given(st.lists(boxes, min_size=1, max_size=6))
def test_every_person_has_an_anchor(rows: list[tuple[float, ...]]) -> None:
    """Except people whose best shape in the same cell is assigned to somebody else."""
    labels = people_of(rows)
    matches = matched(labels)
    for row in set(range(len(rows))) - set(matches.person.tolist()):
        homes = [
            {key for key, home in matches_of(box, (128, 192)).items() if home}
            for box in labels.boxes[0].double().tolist()
        ]
        assert sum(other == homes[row] for other in homes) > 1


def test_point_index_is_that_of_the_head() -> None:
    """The prior at the index has the matched cell, stride and shape."""
    labels = people_of([(40, 20, 78, 114)])  # 38 x 94, exactly a shape of the first level; center (59, 67)
    matches = matched(labels)
    table = priors(128, 192)[0].T[matches.point]
    assert [7, 8, 8, 38, 94] in table.tolist()  # 59 / 8 = 7.4, 67 / 8 = 8.4
    first = table[(table[:, 2] == 8) & (table[:, 3] == 38)]
    assert sorted(first[:, :2].tolist()) == [[6, 8], [7, 7], [7, 8]]
    ratios = torch.maximum(table[:, 3:] / torch.tensor([38.0, 94]), torch.tensor([38.0, 94]) / table[:, 3:]).amax(1)
    assert (ratios < 4).all()
    assert len(table) == 3 * int((torch.maximum(SHAPES / SHAPES[0, 2], SHAPES[0, 2] / SHAPES).amax(-1) < 4).sum())


@pytest.mark.parametrize("box", [(10, 10, 190, 12), (50, 50, 50, 50), (90, 0, 91, 128), (-50, -50, -20, -20)])
def test_extreme_boxes_have_an_anchor(box: tuple[float, ...]) -> None:
    assert len(matched(people_of([box])).point) >= 1


def test_neighbors_with_other_shapes_are_both_matched() -> None:
    """A tall and a wide person with one center share the cell, each with other shapes."""
    matches = matched(people_of([(50, 20, 70, 108), (16, 56, 104, 72)]))
    assert set(matches.person.tolist()) == {0, 1}


def test_equal_boxes_go_to_the_earlier_row() -> None:
    assert set(matched(people_of([(40, 20, 78, 114)] * 3)).person.tolist()) == {0}


def test_crowd_and_padding_are_not_matched() -> None:
    labels = people_of([(40, 20, 78, 114), (0, 0, 100, 100)], [], crowd=((0, 1),))
    matches = matched(labels)
    assert set(matches.image.tolist()) == {0}
    assert set(matches.person.tolist()) == {0}


@pytest.mark.parametrize("labels", [people_of([], []), people_of([(0, 0, 9, 9)], crowd=((0, 0),))])
def test_matching_without_people(labels: People) -> None:
    assert [len(part) for part in matched(labels)] == [0, 0, 0]


def test_level_sizes_are_columns_and_rows() -> None:
    assert level_sizes(priors(128, 192), STRIDES).tolist() == [[24, 16], [12, 8], [6, 4], [3, 2]]

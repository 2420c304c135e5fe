"""SimOTA on a whole batch gives what a loop over pictures, people and points gives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from yolopose.data.batch import People
from yolopose.model.heads import priors_of_level
from yolopose.training.anchor_free_loss import assign
from yolopose.training.label_assignment import Assignment, Guess

from .people import SIGMAS, nobody, some_people

SIZE = 64
CLEAR = 0.02  # a choice between costs that lie closer depends on rounding
PRIORS = torch.cat([priors_of_level(SIZE // s, SIZE // s, (s,), torch.zeros(1)) for s in (8, 16)], dim=2)
POINTS = PRIORS.shape[2]
sigmas = torch.tensor(SIGMAS)


def guess_of(people: People, seed: int, spread: float, classes: int = 1) -> Guess:
    """Each point predicts some person of its picture, ``spread`` px off."""
    rng = torch.Generator().manual_seed(seed)
    batch, most = people.valid.shape
    who = torch.randint(max(most, 1), (batch, POINTS), generator=rng)
    row = torch.arange(batch)[:, None]
    boxes = people.boxes[row, who] if most else torch.zeros(batch, POINTS, 4)
    keypoints = people.keypoints[row, who] if most else torch.zeros(batch, POINTS, len(SIGMAS), 2)
    return Guess(
        boxes + spread * torch.randn(boxes.shape, generator=rng),
        torch.rand(batch, POINTS, classes, generator=rng),
        keypoints + spread * torch.randn(keypoints.shape, generator=rng),
    )


def pairs(matches: Assignment) -> set[tuple[int, int, int]]:
    return set(zip(*(part.tolist() for part in matches), strict=True))


class Slow:
    """The description in simota.py, with loops; ``margin``: how clear its narrowest choice was."""

    def __init__(self, guess: Guess, people: People) -> None:
        self.guess, self.people, self.margin = guess, people, math.inf
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
        a, b = self.guess.boxes[image, point].tolist(), self.people.boxes[image, person].tolist()
        inner = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
        areas = [max(box[2] - box[0], 0) * max(box[3] - box[1], 0) for box in (a, b)]
        overlap = inner / max(sum(areas) - inner, 1e-7)
        cost = -3 * math.log(overlap + 1e-6)
        seen = [k for k in range(len(SIGMAS)) if self.people.visible[image, person, k]]
        if seen:
            area = self.people.areas[image, person].item()
            offsets = (self.guess.keypoints[image, point] - self.people.keypoints[image, person]).square().sum(-1)
            oks = sum(math.exp(-offsets[k].item() / (2 * SIGMAS[k]) ** 2 / area / 2) for k in seen) / len(seen)
            cost -= 3 * math.log(oks + 1e-6)
        for label, score in enumerate(self.guess.scores[image, point].tolist()):
            p = min(max(math.sqrt(score), 1e-3), 1 - 1e-6)
            cost -= math.log(p if label == self.people.labels[image, person] else 1 - p)
        return overlap, cost


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 4), st.sampled_from([0.5, 3.0, 20.0]), st.integers(1, 2))
def test_like_the_loop(seed: int, most: int, spread: float, classes: int) -> None:
    people = some_people(2, most, SIZE, classes, seed)
    rng = torch.Generator().manual_seed(seed)
    kind = torch.randint(6, people.valid.shape, generator=rng)  # 0: padding, 1: crowd, 2: no keypoints
    visible = people.visible & (kind != 2)[..., None]
    people = people._replace(valid=kind > 1, ignore=kind == 1, visible=visible)
    guess = guess_of(people, seed, spread, classes)
    slow = Slow(guess, people)
    assume(slow.margin > CLEAR)
    found = assign(guess, PRIORS, people, sigmas)
    assert pairs(found) == slow.found
    assert len({(image, point) for image, point, _ in pairs(found)}) == len(found.image)  # one person a point
    served = torch.zeros_like(people.valid)
    served[found.image, found.person] = True
    assert (served == people.valid).all()  # everybody in the picture learns; nobody else


def test_everyone_gets_a_point_where_all_want_the_same() -> None:
    """Five people in one place, and a network that knows nothing: each wants one point, the same."""
    one = some_people(1, 1)
    people = People(*(part.repeat_interleave(5, dim=1) for part in one))
    guess = Guess(torch.zeros(1, POINTS, 4), torch.rand(1, POINTS, 1), torch.zeros(1, POINTS, len(SIGMAS), 2))
    found = assign(guess, PRIORS, people, sigmas)
    assert sorted(found.person.tolist()) == [0, 1, 2, 3, 4]
    assert len(set(found.point.tolist())) == 5


def test_more_people_than_points() -> None:
    people = People(*(part.repeat_interleave(3, dim=1) for part in some_people(1, 1)))
    people = people._replace(boxes=torch.tensor([[[30.0, 30, 34, 34]] * 3]))
    two = PRIORS[:, :, [27, 28]]  # both within 2.5 strides of it
    guess = Guess(torch.zeros(1, 2, 4), torch.rand(1, 2, 1), torch.zeros(1, 2, len(SIGMAS), 2))
    found = assign(guess, two, people, sigmas)
    assert sorted(found.point.tolist()) == [0, 1]
    assert len(set(found.person.tolist())) == 2


def test_keypoints_do_not_count_where_none_are_labelled() -> None:
    people = some_people(2, 3)
    people = people._replace(visible=torch.zeros_like(people.visible), areas=torch.zeros_like(people.areas))
    guess = guess_of(people, 0, 3.0)
    far = guess._replace(keypoints=guess.keypoints + 1e4 * torch.rand_like(guess.keypoints))
    assert pairs(assign(guess, PRIORS, people, sigmas)) == pairs(assign(far, PRIORS, people, sigmas))


@pytest.mark.parametrize("people", [nobody(), nobody(most=2)])
def test_nobody_and_crowd(people: People) -> None:
    guess = guess_of(people, 0, 3.0)
    assert not pairs(assign(guess, PRIORS, people, sigmas))
    crowd = some_people(2, 2)._replace(ignore=torch.ones(2, 2, dtype=torch.bool), valid=torch.zeros(2, 2).bool())
    assert not pairs(assign(guess, PRIORS, crowd, sigmas))


def one_at(x: float, y: float, width: float) -> People:
    people = some_people(1, 1)
    box = torch.tensor([[[x - width / 2, y - width / 2, x + width / 2, y + width / 2]]])
    return people._replace(boxes=box, areas=torch.tensor([[width**2]]))


@pytest.mark.parametrize("xy", [(0.0, 0.0), (SIZE, SIZE), (32.0, 32.0), (31.9, 0.0), (SIZE, 5.0)])
@pytest.mark.parametrize("width", [0.0, 0.01, 3.0])
def test_the_tiniest_person_in_the_picture_has_points(xy: tuple[float, float], width: float) -> None:
    people = one_at(*xy, width)
    assert pairs(assign(guess_of(people, 0, 1.0), PRIORS, people, sigmas))


def test_nobody_learns_a_person_outside_the_picture() -> None:
    people = one_at(-2.5 * 16 + 8 - 0.1, 32, 5)
    assert not pairs(assign(guess_of(people, 0, 1.0), PRIORS, people, sigmas))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e30])
def test_predictions_out_of_bounds_do_not_stop_it(value: float) -> None:
    people = some_people(1, 2)
    guess = guess_of(people, 0, 1.0)
    spoilt = Guess(torch.full_like(guess.boxes, value), guess.scores, torch.full_like(guess.keypoints, value))
    assert pairs(assign(spoilt, PRIORS, people, sigmas))

"""Task-aligned matching of a whole batch gives what a loop over pictures, people and points gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolopose.data.batch import People
from yolopose.training.distance_loss import IOU_POWER, SCORE_POWER, SMALL, assign
from yolopose.training.label_assignment import Guess
from yolopose.training.similarity import iou

from .people import chosen, nobody, some_people
from .test_simota import POINTS, PRIORS, guess_of, pairs


def slow(guess: Guess, people: People, most: int) -> dict[tuple[int, int, int], float]:
    """The description in task_aligned.py, with loops: the score that each matched pair shall have."""
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
                u = float(iou(guess.boxes[image, n], people.boxes[image, person]))
                s = float(guess.scores[image, n, people.labels[image, person]])
                t[person][n], overlaps[person, n] = max(s, SMALL) ** SCORE_POWER * max(u, SMALL) ** IOU_POWER, u
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
def test_equals_the_loops(seed: int, spread: float, count: int, classes: int, most: int) -> None:
    people = some_people(2, count, classes=classes, seed=seed)
    people.valid[0, 0] = seed % 3 > 0
    guess = guess_of(people, seed, spread, classes)
    matches, quality = assign(guess.boxes, guess.scores, PRIORS, people, most)
    expected = slow(guess, people, most)
    assert pairs(matches) == set(expected)
    wanted = [expected[pair] for pair in zip(*(part.tolist() for part in matches), strict=True)]
    torch.testing.assert_close(quality, torch.tensor(wanted), rtol=1e-3, atol=1e-6)


def test_one_point_a_person_and_everybody_gets_one() -> None:
    people = some_people(1, 4, seed=3)
    people = people._replace(boxes=people.boxes[:, :1].expand(-1, 4, -1).contiguous())  # all of one box
    guess = guess_of(people, 0, 1.0)
    matches, quality = assign(guess.boxes, guess.scores, PRIORS, people, 1)
    assert sorted(matches.person.tolist()) == [0, 1, 2, 3]
    assert len(set(matches.point.tolist())) == 4
    assert (quality > 0.3).all()


@pytest.mark.parametrize("people", [nobody(), nobody(most=2)])
def test_nobody(people: People) -> None:
    guess = guess_of(people, 0, 1.0)
    matches, quality = assign(guess.boxes, guess.scores, PRIORS, people, 10)
    assert len(matches.point) == len(quality) == 0


def test_predictions_that_are_not_numbers_match_somebody_all_the_same() -> None:
    people = chosen(some_people(), slice(1))
    guess = guess_of(people, 0, 1.0)
    matches, quality = assign(guess.boxes * torch.nan, guess.scores, PRIORS, people, 10)
    assert set(matches.person.tolist()) == {0, 1, 2}
    assert POINTS > len(matches.point) == len(quality)

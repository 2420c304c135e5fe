"""What the label assignment rules share: positions of anchor points relative to boxes and crowd regions."""

from __future__ import annotations

import torch

from yolopose.training.label_assignment import anchor_centers, in_crowd, inside_or_near

from .people import PRIORS, some_people


def test_anchor_centers_are_cell_centers() -> None:
    centers = anchor_centers(PRIORS)
    assert centers[:, 0].tolist() == [4.0, 4.0]
    assert centers[:, -1].tolist() == [56.0, 56.0]  # of the cells of 16 px


def test_inside_or_near_equals_a_loop() -> None:
    people = some_people(2, 3)
    inside, near = inside_or_near(PRIORS, people.boxes)
    for image in range(2):
        for person in range(3):
            x1, y1, x2, y2 = people.boxes[image, person].tolist()
            for point, (x, y) in enumerate(anchor_centers(PRIORS).T.tolist()):
                reach = 2.5 * PRIORS[0, 2, point].item()
                assert inside[image, person, point] == (x1 < x < x2 and y1 < y < y2)
                assert near[image, person, point] == (abs(x - (x1 + x2) / 2) < reach > abs(y - (y1 + y2) / 2))


def test_in_crowd_equals_a_loop() -> None:
    people = some_people(3, 3)
    crowd = torch.tensor([[True, False, True], [False] * 3, [False, True, False]])
    people = people._replace(ignore=crowd, valid=~crowd)
    inside, _ = inside_or_near(PRIORS, people.boxes)
    expected = (inside & crowd[..., None]).any(1)
    assert expected.any()
    assert torch.equal(in_crowd(PRIORS, people), expected)

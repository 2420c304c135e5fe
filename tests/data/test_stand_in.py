"""Pictures in place of damaged ones."""

from __future__ import annotations

import numpy as np
import pytest

from yolopose.data.loader import MOST_TRIES, StandIns
from yolopose.runtime.errors import DataError

from .pictures import Pictures


def test_whole_pictures_pass() -> None:
    source = Pictures(5)
    usable = StandIns(source)
    assert (len(usable), usable.skeleton, usable.classes) == (5, source.skeleton, source.classes)
    assert usable[3] is source[3]
    assert usable.damaged == []


def test_another_stands_in_always_the_same() -> None:
    damaged = range(50)
    first = [StandIns(Pictures(100, damaged=damaged))[7].image for _ in range(3)]
    for image in first[1:]:
        np.testing.assert_array_equal(image, first[0])
    usable = StandIns(source := Pictures(100, damaged=damaged))
    found = {id(usable[index]) for index in range(50)}
    assert len(found) > 20  # not one neighbour for all
    assert usable.damaged.count("7.png: is damaged") >= 1
    assert len(usable.damaged) == len(source.asked) - 50


def test_the_last_whole_picture_is_found() -> None:
    usable = StandIns(Pictures(40, damaged=set(range(40)) - {17}))
    for index in range(40):
        np.testing.assert_array_equal(usable[index].image, Pictures(18)[17].image)


@pytest.mark.parametrize("count", [1, 5, 500])
def test_everything_is_damaged(count: int) -> None:
    source = Pictures(count, damaged=range(count))
    tried = min(count, MOST_TRIES)
    with pytest.raises(DataError, match=f"none of {tried} pictures tried, of {count}, can be used; .*is damaged"):
        StandIns(source)[0]
    assert len(source.asked) == len(set(source.asked)) == tried

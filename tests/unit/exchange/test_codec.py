import enum
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from fxgrad.exchange.codec import Codecs, Mismatch


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    label: str | None = None


@dataclass(frozen=True)
class Line:
    ends: tuple[Point, ...]
    colour: Colour
    window: tuple[int, bool] | None
    sizes: tuple[int | str, ...] = ()
    nothing: None = None


LINE = Line((Point(1), Point(2, "b")), Colour.RED, (3, True), (4, "s0"))
WRITTEN = {
    "ends": [{"x": 1}, {"x": 2, "label": "b"}],
    "colour": "red",
    "window": [3, True],
    "sizes": [4, "s0"],
}


def mismatch(**fields):
    with pytest.raises(Mismatch) as refused:
        Codecs().codec(Line).decode(WRITTEN | fields)
    return refused.value.where, refused.value.problem, refused.value.allowed


def test_a_record_is_written_without_the_fields_that_have_their_default():
    assert Codecs().codec(Line).encode(LINE) == WRITTEN


def test_what_was_written_is_read_back_as_the_same_types():
    read = Codecs().codec(Line).decode(WRITTEN)
    assert read == LINE
    assert type(read.ends[1]) is Point
    assert type(read.sizes) is tuple


def test_a_missing_key_is_named():
    line = dict(WRITTEN)
    del line["colour"]
    with pytest.raises(Mismatch) as refused:
        Codecs().codec(Line).decode(line)
    assert refused.value.problem == 'has no "colour"'
    assert refused.value.allowed == "the keys ends, colour, window, sizes (optional), nothing (optional)"


def test_an_unknown_key_is_named():
    assert mismatch(extra=1)[1] == 'has the unknown key "extra"'


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ends": {}}, ("ends", "is an object", "a list")),
        ({"ends": [1]}, ("ends[0]", "is 1", "an object: Point")),
        ({"ends": [{"x": 1}, {"x": 1.0}]}, ("ends[1].x", "is 1.0", "an integer")),
        ({"ends": [{"x": True}]}, ("ends[0].x", "is true", "an integer")),
        ({"ends": [{"x": 1, "label": []}]}, ("ends[0].label", "is a list of 0", "a string or null")),
        ({"colour": "green"}, ("colour", 'is "green"', 'one of "red", "blue"')),
        ({"colour": ["red"]}, ("colour", "is a list of 1", 'one of "red", "blue"')),
        ({"window": [3, 1]}, ("window[1]", "is 1", "true or false")),
        (
            {"window": [3]},
            ("window", "is a list of 1", "a list of 2: an integer, true or false"),
        ),
        ({"window": 3}, ("window", "is 3", "a list of 2: an integer, true or false or null")),
        ({"sizes": [None]}, ("sizes[0]", "is null", "an integer or a string")),
        ({"nothing": 0}, ("nothing", "is 0", "null")),
    ],
)
def test_a_value_of_another_type_is_named_with_what_is_allowed(fields, expected):
    assert mismatch(**fields) == expected


def test_equal_records_of_an_interned_type_are_read_as_one_object():
    read = Codecs(frozenset({Point})).codec(tuple[Point, ...]).decode([{"x": 1}, {"x": 1}, {"x": 2}])
    assert read[0] is read[1]
    assert read == (Point(1), Point(1), Point(2))


def test_equal_strings_are_read_as_one_object():
    first, second = Codecs().codec(tuple[str, ...]).decode(["".join("ab"), "".join(["a", "b"])])
    assert first is second


@pytest.mark.parametrize("hint", [float, list[int], Point | Line, Colour | str, tuple[int, ...] | Point])
def test_a_type_hint_that_cannot_be_exchanged_is_refused_before_anything_is_written(hint):
    with pytest.raises(TypeError):
        Codecs().codec(hint)

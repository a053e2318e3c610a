"""How the arguments of tasks travel: by annotation, without coercion, and back as they were."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, TypedDict
from uuid import UUID

import orjson
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import neoq
from neoq.tasks.codec import Misfit, codec_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.Enum):
    SMALL = (1, 2)
    LARGE = (3, 4)


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Address:
    street: str
    since: date | None = None


@dataclasses.dataclass(frozen=True)
class Person:
    name: str
    home: Address
    friends: list[Person] = dataclasses.field(default_factory=list)


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Movie(TypedDict):
    title: str
    at: NotRequired[datetime]


UserId = NewType("UserId", int)
NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5, minutes=30)))

ROUND_TRIPS: list[tuple[Any, Any]] = [
    (str, "x"),
    (int, 2**40),
    (bool, True),
    (float, 1.5),
    (float, 1),
    (None, None),
    (Any, {"a": [1, None]}),
    (datetime, NOW),
    (datetime, datetime(2030, 1, 1)),  # noqa: DTZ001  # naive ones stay naive
    (date, date(2030, 1, 1)),
    (time, time(1, 2, 3)),
    (timedelta, timedelta(days=-3, microseconds=1)),
    (UUID, UUID(int=5)),
    (Decimal, Decimal("1.10")),
    (Decimal, Decimal("NaN").copy_abs()),
    (bytes, b"\x00\xff"),
    (Colour, Colour.BLUE),
    (Size, Size.LARGE),
    (Right, Right.READ | Right.WRITE),
    (Level, Level.LOW),
    (Literal["a", 1] | None, 1),
    (Literal[Colour.RED], Colour.RED),
    (str | None, None),
    (datetime | None, NOW),
    (int | str | None, "x"),
    (list, [1, "a"]),
    (list[date], [date(2030, 1, 1)]),
    (Sequence[int], [1, 2]),
    (set[int], {3, 1, 2}),
    (frozenset[UUID], frozenset({UUID(int=1)})),
    (tuple, (1, "a")),
    (tuple[int, ...], (1, 2)),
    (tuple[int, date], (1, date(2030, 1, 1))),
    (tuple[()], ()),
    (dict[str, date], {"a": date(2030, 1, 1)}),
    (dict[int, str], {1: "a"}),
    (dict[UUID, int], {UUID(int=1): 1}),
    (dict[Colour, int], {Colour.RED: 1}),
    (Mapping[str, Any], {"a": [1]}),
    (Address, Address("x", date(2030, 1, 1))),
    (Person, Person("a", Address("b"), [Person("c", Address("d"))])),
    (Point, Point(1, 2.5)),
    (Movie, {"title": "x", "at": NOW}),
    (Movie, {"title": "x"}),
    (UserId, 5),
    (Annotated[int, "of a user"], 5),
]


@pytest.mark.parametrize(("annotation", "value"), ROUND_TRIPS, ids=str)
def test_a_value_comes_back_as_it_was(annotation: Any, value: Any) -> None:
    """What was encoded is JSON, and decodes to an equal value of the same class."""
    codec = codec_of(annotation, "x")
    written = orjson.loads(orjson.dumps(codec.encode(value, "x")))
    back = codec.decode(written, "x")
    assert type(back) is type(value)
    assert back == value or str(back) == str(value) == "NaN"


MISFITS: list[tuple[Any, Any, str]] = [
    (int, "3", "x is a str, not int"),
    (str, 3, "x is an int, not str"),
    (float, "1", "x is a str, not float"),
    (float, True, "x is a bool, not float"),
    (bool, 1, "x is an int, not bool"),
    (datetime, "2030-01-01", "x is a str, not datetime"),
    (date, NOW, "x is a datetime, not date"),
    (UUID, str(UUID(int=1)), "x is a str, not UUID"),
    (Decimal, 1.5, "x is a float, not Decimal"),
    (Colour, "red", "x is a str, not Colour"),
    (Literal["a"], "b", "x is 'b', not Literal['a']"),
    (list[int], (1,), "x is a tuple, not list[int]"),
    (list[int], [1, "2"], "x[1] is a str, not int"),
    (dict[str, list[int]], {"a": [None]}, "x.a[0] is a NoneType, not int"),
    (set[int], [1], "x is a list, not set[int]"),
    (tuple[int, int], (1,), "x has 1 items, not 2"),
    (datetime | None, "now", "x is a str, not datetime"),
    (Person, Person("a", Address(5)), "x.home.street is an int, not str"),  # type: ignore[arg-type]
    (Movie, {"titel": "x"}, "x has no title, has titel, which is no field of Movie"),
]


@pytest.mark.parametrize(("annotation", "value", "message"), MISFITS, ids=str)
def test_a_value_that_does_not_fit_is_refused(annotation: Any, value: Any, message: str) -> None:
    """Nothing is coerced at enqueue: the error names the place, and what is there."""
    with pytest.raises(Misfit) as caught:
        codec_of(annotation, "x").encode(value, "x")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "stored"),
    [
        (datetime, "soon"),
        (datetime, 5),
        (UUID, "5"),
        (Decimal, "one"),
        (bytes, "***"),
        (Colour, "green"),
        (Right, "x"),
        (Colour, []),
        (timedelta, 1e300),
        (dict[int, str], {"a": "x"}),
        (Point, {"y": 1.0}),
        (Point, [1, 2]),
        (tuple[int, int], [1]),
        (set[int], "ab"),
    ],
    ids=str,
)
def test_stored_values_that_do_not_fit_are_refused(annotation: Any, stored: Any) -> None:
    """What the store has and the annotation cannot be is a Misfit, whatever it is."""
    with pytest.raises(Misfit):
        codec_of(annotation, "x").decode(stored, "x")


class Opaque:
    pass


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Opaque, "Opaque, whose values a job cannot carry"),
        (list[Opaque], "Opaque"),
        (datetime | date, "look the same as JSON (string)"),
        (str | UUID, "look the same as JSON (string)"),
        (Address | Point, "look the same as JSON (object)"),
        (dict[float, int], "the keys of a dict are str, int"),
    ],
    ids=str,
)
def test_annotations_that_cannot_travel_are_refused(annotation: Any, message: str) -> None:
    """An annotation whose values could not be told apart, or not written, is refused when it is made."""
    with pytest.raises(neoq.InvalidJobError) as caught:
        codec_of(annotation, "the parameter x of f")
    assert message in str(caught.value)
    assert "the parameter x of f" in str(caught.value)


def test_equal_sets_are_written_alike() -> None:
    """A set is written sorted, so that equal arguments have equal fingerprints."""
    codec = codec_of(set[str], "x")
    names = {f"name {n}" for n in range(50)}
    assert codec.encode(names, "x") == sorted(names)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(json_values, st.sampled_from([annotation for annotation, _ in ROUND_TRIPS]))
def test_no_stored_value_breaks_a_codec(stored: Any, annotation: Any) -> None:
    """Whatever JSON is stored, a codec reads it or raises a Misfit."""
    codec = codec_of(annotation, "x")
    try:
        value = codec.decode(stored, "x")
    except Misfit:
        return
    json.dumps(codec.encode(value, "x"))


def test_aware_datetimes_keep_their_instant() -> None:
    """A datetime comes back as the same instant, with its offset."""
    codec = codec_of(datetime, "x")
    back = codec.decode(codec.encode(datetime(2030, 1, 1, tzinfo=UTC), "x"), "x")
    assert back == datetime(2030, 1, 1, tzinfo=UTC)
    assert back.utcoffset() == timedelta(0)


class Line(pydantic.BaseModel):
    """A part of an order, strict and under names of its own."""

    model_config = pydantic.ConfigDict(strict=True)
    product: str = pydantic.Field(alias="productName")
    ordered_at: datetime
    price: Decimal


class Names(pydantic.RootModel[list[str] | None]):
    """A model that is stored as a list, or as null."""


LINE = Line(productName="pen", ordered_at=datetime(2026, 1, 1, tzinfo=UTC), price=Decimal("1.10"))


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(Line, LINE), (Line | None, LINE), (Line | None, None), (list[Line], [LINE]), (Names, Names(["ada"]))],
)
def test_a_model_of_pydantic_comes_back_as_it_was(annotation: Any, value: Any) -> None:
    """A model travels by its aliases, and may be optional."""
    codec = codec_of(annotation, "x")
    assert codec.decode(json.loads(json.dumps(codec.encode(value, "x"))), "x") == value


def test_what_makes_no_model_is_refused() -> None:
    """A value that is not the model is refused at enqueue, and a stored one that makes none as it is read."""
    codec = codec_of(Line, "x")
    with pytest.raises(Misfit, match="x is a dict, not Line"):
        codec.encode({"productName": "pen"}, "x")
    with pytest.raises(Misfit, match=r"x makes no Line: ordered_at: Field required$"):
        codec.decode({"productName": "pen", "price": "1"}, "x")
    with pytest.raises(neoq.InvalidJobError, match="look the same"):
        codec_of(Names | None, "x")

"""Small paths into JSON: what they reach, and what is no path."""

from __future__ import annotations

import pytest

from proxy.core.jsonpath import parse_json_path

DOCUMENT = {
    "status": "paid",
    "error": {"type": "card_error", "none": None},
    "data": [{"id": "a", "tags": [1, 2]}, {"id": "b"}, {"other": 1}, "text"],
    "[0]": "a key, not an index",
}


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("status", ["paid"]),
        ("error.type", ["card_error"]),
        ("error.none", [None]),
        ("data[0].id", ["a"]),
        ("data[1].id", ["b"]),
        ("data[*].id", ["a", "b"]),
        ("data[*].tags[*]", [1, 2]),
        ("data[3]", ["text"]),
        ("data[4]", []),
        ("missing", []),
        ("status.deeper", []),
        ("status[0]", []),
        ("error[0]", []),
        ("error[*]", []),
        ("data.id", []),
    ],
)
def test_values(path: str, values: list[object]) -> None:
    """Every value it reaches, in order; a step that does not fit reaches nothing."""
    parsed = parse_json_path(path)
    assert parsed.values(DOCUMENT) == values
    assert parsed.first(DOCUMENT) == (values[0] if values else None)
    assert parsed.text == path


def test_a_path_may_begin_with_an_index() -> None:
    """Some gateways answer with a list."""
    assert parse_json_path("[*].id").values([{"id": 1}, {"id": 2}]) == [1, 2]
    assert parse_json_path("[1]").first(["a", "b"]) == "b"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (".a", 1),
        ("a.", 3),
        ("a..b", 3),
        ("a[", 2),
        ("a[]", 2),
        ("a[x]", 2),
        ("a[-1]", 2),
        ("a]", 2),
        ("a.[.b", 3),
    ],
)
def test_what_is_no_path(path: str, place: int) -> None:
    """The message names the first character that does not fit."""
    with pytest.raises(ValueError, match=f"nothing fits at character {place}$") as caught:
        parse_json_path(path)
    assert repr(path) in str(caught.value)


def test_an_empty_path() -> None:
    """It would reach the document itself, which nobody can have meant."""
    with pytest.raises(ValueError, match="an empty path leads nowhere"):
        parse_json_path("")

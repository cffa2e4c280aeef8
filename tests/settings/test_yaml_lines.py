"""YAML 1.2's core rules, and a line and column for every value and every mistake."""

from __future__ import annotations

from itertools import pairwise

import pytest

from proxy.settings.yaml_lines import (
    MAX_DEPTH,
    MAX_DOCUMENT_BYTES,
    MAX_NODES,
    TOO_MUCH,
    Data,
    Document,
    Mistake,
    core_scalar,
    dotted,
    read,
)


def mistakes(text: str) -> list[str]:
    """The mistakes of a document, as a person would see them."""
    return [str(mistake) for mistake in read("f.yaml", text).mistakes]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        # What YAML 1.1 takes for something else, and an operator means as text.
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("No", "No"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("010", "010"),
        ("0x1F", "0x1F"),
        ("0b101", "0b101"),
        ("1_000", "1_000"),
        ("2024-01-23", "2024-01-23"),
        ("=", "="),
        (".inf", ".inf"),
        (".nan", ".nan"),
        # Numbers.
        ("0", 0),
        ("-0", 0),
        ("+5", 5),
        ("-12", -12),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("1E-3", 0.001),
        # Nothing has that many digits; a number that is not finite is no number.
        ("9" * 18, 999999999999999999),
        ("9" * 19, "9" * 19),
        ("9" * 5000, "9" * 5000),
        ("1e999", "1e999"),
        ("-1e999", "-1e999"),
        # Words.
        ("true", True),
        ("True", True),
        ("TRUE", True),
        ("false", False),
        ("tRUE", "tRUE"),
        ("null", None),
        ("~", None),
        ("", None),
        ("NuLL", "NuLL"),
        # Text that only looks like something.
        ("1.2.3", "1.2.3"),
        ("1e", "1e"),
        ("--1", "--1"),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("200ms", "200ms"),
    ],
)
def test_plain_scalars_follow_the_core_rules(written: str, value: Data) -> None:
    """`no` is text, `1:30` is text, `1e3` is a number, `~` is nothing; the same from a variable."""
    read_back = read("f.yaml", f"a: {written}\n").data
    assert read_back == {"a": value}
    assert core_scalar(written) == value
    assert type(core_scalar(written)) is type(value)


@pytest.mark.parametrize("written", ["'5'", '"5"', "'true'", '"~"', "''", "|-\n  5", ">-\n  5"])
def test_quoted_scalars_are_text(written: str) -> None:
    """Quotes and blocks make text of anything."""
    data = read("f.yaml", f"a: {written}\n").data
    assert data in ({"a": "5"}, {"a": "true"}, {"a": "~"}, {"a": ""})


def test_everything_has_its_place() -> None:
    """Keys, list items and values inside flow style are found again by line and column."""
    document = read("f.yaml", "# first\na:\n  b: [1, {c: 2}]\n  d:\n    - x\n    -   y\n")
    assert document.data == {"a": {"b": [1, {"c": 2}], "d": ["x", "y"]}}
    assert document.places == {
        (): (2, 1),
        ("a",): (2, 1),
        ("a", "b"): (3, 3),
        ("a", "b", 0): (3, 7),
        ("a", "b", 1): (3, 10),
        ("a", "b", 1, "c"): (3, 11),
        ("a", "d"): (4, 3),
        ("a", "d", 0): (5, 7),
        ("a", "d", 1): (6, 9),
    }


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm() -> None:
    """A file saved by a Windows editor reads the same."""
    document = read("f.yaml", "\ufeffa: 1\r\nb: 2\r\n")
    assert document.data == {"a": 1, "b": 2}
    assert document.places["b",] == (2, 1)


def test_an_alias_stands_for_what_it_names() -> None:
    """Anchors and aliases are read, and an aliased value's place is where it was written."""
    document = read("f.yaml", "a: &x {k: 1}\nb: *x\n")
    assert document.data == {"a": {"k": 1}, "b": {"k": 1}}
    assert document.places["b",] == (2, 1)
    assert document.places["b", "k"] == (1, 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", ["f.yaml:3:1: a: written twice (first on line 1)"]),
        (
            "x:\n  - {k: 1, k: 2, k: 3}\n",
            [
                "f.yaml:2:12: x[0].k: written twice (first on line 2)",
                "f.yaml:2:18: x[0].k: written twice (first on line 2)",
            ],
        ),
        # The same key, spelled otherwise, is the same key.
        ("1: a\n'1': b\n", ["f.yaml:2:1: 1: written twice (first on line 1)"]),
    ],
)
def test_a_key_is_written_once(text: str, expected: list[str]) -> None:
    """Of two values for one key, neither silently wins."""
    assert mistakes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: !secret x\n", "f.yaml:1:4: a: tags are not read here: !secret"),
        ("a: !!str 5\n", "f.yaml:1:4: a: tags are not read here: !!str"),
        ("a: !!int '5'\n", "f.yaml:1:4: a: tags are not read here: !!int"),
        ("a: !!binary aGk=\n", "f.yaml:1:4: a: tags are not read here: !!binary"),
        ("a: !!set {x: null}\n", "f.yaml:1:4: a: tags are not read here: !!set"),
        ("b: 1\na: !!omap [x: 1]\n", "f.yaml:2:4: a: tags are not read here: !!omap"),
        (
            "a: !!python/object/apply:os.system [echo]\n",
            "f.yaml:1:4: a: tags are not read here: !!python/object/apply:os.system",
        ),
        (
            "%TAG !e! tag:example.com,2024:\n---\na: !e!x y\n",
            "f.yaml:3:4: a: tags are not read here: tag:example.com,2024:x",
        ),
    ],
)
def test_tags_are_refused(text: str, expected: str) -> None:
    """A tag asks for another reading than the one this has; the value is never built from it."""
    assert mistakes(text) == [expected]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: {}\nb:\n  <<: {x: 1}\n", "f.yaml:3:3: b"),
        ("a: &x {k: 1}\nb: {<<: *x}\n", "f.yaml:2:5: b"),
        ("? [1, 2]\n: b\n", "f.yaml:1:3"),
        ("? {k: 1}\n: b\n", "f.yaml:1:3"),
    ],
)
def test_keys_are_plain_names(text: str, place: str) -> None:
    """Merge keys would hide what holds; lists and maps as keys name nothing."""
    message = "keys are plain names; lists, maps and merge keys (<<) are not read here"
    assert mistakes(text) == [f"{place}: {message}"]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: [1, 2\nb: 3\n", (2, 2), "expected ',' or ']'"),
        ("a: {b: 1\n", (2, 1), "expected ',' or '}'"),
        ("a:\n\t- b\n", (2, 1), "cannot start any token"),
        ("a: 'open\n", (2, 1), "found unexpected end of stream"),
        ("a: b: c\n", (1, 5), "mapping values are not allowed here"),
        ("a:\n   b: 1\n  c: 2\n", (3, 3), "expected <block end>"),
        ("a: *nowhere\n", (1, 4), "found undefined alias 'nowhere'"),
        ("a: &x 1\nb: &x 2\n", (2, 4), "found duplicate anchor 'x'"),
        ("a: 1\n---\nb: 2\n", (2, 1), "expected a single document in the stream"),
        ("- a\nb: 1\n", (2, 1), "expected <block end>"),
        ("a: @b\n", (1, 4), "cannot start any token"),
        ("a: `b`\n", (1, 4), "cannot start any token"),
        ("%YAML 2.0\n---\na: 1\n", (1, 1), "found incompatible YAML document"),
        ('a: "\\q"\n', (1, 6), "found unknown escape character 'q'"),
        ("a: 1\nb: x\x00y\n", (2, 5), "unacceptable character #x0000"),
        ("\x1b[31m: 1\n", (1, 1), "unacceptable character #x001b"),
        # What PyYAML itself falls over.
        ('b: 1\na: "\\UFFFFFFFF"\n', (2, 7), "this cannot be read"),
        ("%YAML 1." + "1" * 5000 + "\n---\n", (1, 9), "this cannot be read"),
    ],
)
def test_what_is_not_yaml_is_told_with_its_place(
    text: str, place: tuple[int, int], words: str
) -> None:
    """A document that cannot be parsed has one mistake, where the parser stopped making sense."""
    document = read("f.yaml", text)
    (mistake,) = document.mistakes
    assert (mistake.line, mistake.column) == place
    assert mistake.message.startswith("not YAML: ")
    assert words in mistake.message
    assert "\n" not in mistake.message
    assert document.data is None


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n...\n"])
def test_an_empty_document_is_told(text: str) -> None:
    """Nothing written is not the same as everything left at its default."""
    document = read("f.yaml", text)
    assert document.data is None
    assert [str(mistake) for mistake in document.mistakes] in (
        ["f.yaml:1:1: the file is empty"],
        [],  # `---` with nothing after it is a document: null
    )


@pytest.mark.parametrize(("text", "data"), [("5\n", 5), ("- a\n", ["a"]), ("~\n", None)])
def test_other_documents_are_read_as_what_they_are(text: str, data: Data) -> None:
    """Whether a list or a number will do is for the reader of the data to say."""
    assert read("f.yaml", text).data == data
    assert mistakes(text) == []


def _nested(depth: int) -> str:
    return "a: " + "[" * depth + "]" * depth + "\n"


def test_nesting_is_bounded() -> None:
    """Forty levels are more than a policy has; one more is told, and nothing else is said."""
    assert mistakes(_nested(MAX_DEPTH)) == []
    assert mistakes(_nested(MAX_DEPTH + 1)) == [f"f.yaml:1:44: {TOO_MUCH}"]
    assert read("f.yaml", _nested(MAX_DEPTH + 1)).data is None


@pytest.mark.parametrize("opening", ["[", "{", "- ", "? "])
def test_nesting_beyond_the_parser_is_told_as_well(opening: str) -> None:
    """Two thousand levels end in a mistake with a place, not in a traceback."""
    (mistake,) = read("f.yaml", "a: 1\nb:\n  " + opening * 2_000).mistakes
    assert mistake.message == TOO_MUCH
    assert mistake.line == 3
    assert mistake.column > 3


def test_an_alias_that_holds_itself_is_told() -> None:
    """`&a [*a]` has no end; reading it has."""
    assert mistakes("k: &a [*a]\n") == [f"f.yaml:1:4: {TOO_MUCH}"]


def test_an_alias_bomb_is_stopped() -> None:
    """Nine lines that stand for a billion values cost no more than the limit."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{k}: &{k} [{', '.join([f'*{i}'] * 10)}]" for i, k in pairwise("abcdefghi")]
    document = read("f.yaml", "\n".join(lines) + "\n")
    assert [mistake.message for mistake in document.mistakes] == [TOO_MUCH]
    assert len(document.places) <= MAX_NODES + 1000
    assert document.data is None


def test_a_document_of_many_values_is_told() -> None:
    """One value more than the limit is too many, and the mistake stands at that value."""
    # The root, 499 lists of 99 (an alias counts as what it stands for), and 99 more.
    lists = ["- &a [" + ", ".join(["0"] * 99) + "]"] + ["- *a"] * 498
    fits = "\n".join(lists + ["- 0"] * 99)
    assert MAX_NODES == 50_000
    assert mistakes(fits) == []
    assert mistakes(fits + "\n- 0\n") == [f"f.yaml:599:3: {TOO_MUCH}"]


def test_a_document_that_is_too_large_is_not_parsed() -> None:
    """The size is looked at first, in bytes."""
    text = "# " + "é" * (MAX_DOCUMENT_BYTES // 2) + "\na: 1\n"
    assert len(text) < MAX_DOCUMENT_BYTES
    assert mistakes(text) == ["f.yaml:1:1: the file is larger than 1024 KiB"]


def test_places_of_what_was_not_written() -> None:
    """A mistake about a missing key is shown at the nearest thing that was written."""
    document = read("f.yaml", "a:\n  b: {c: 1}\n")
    assert document.mistake(("a", "b", "x", 0), "is missing") == Mistake(
        "f.yaml", 2, 3, "a.b.x[0]", "is missing"
    )
    assert document.mistake(("z",), "is missing") == Mistake("f.yaml", 1, 1, "z", "is missing")


def test_values_from_elsewhere_name_where_they_came_from() -> None:
    """A value that an environment variable set is not blamed on a line of the file."""
    document = read("f.yaml", "a: {b: 1}\n")
    document.origins["a", "b"] = "environment variable X"
    assert str(document.mistake(("a", "b"), "no")) == "environment variable X: a.b: no"
    assert str(document.mistake(("a",), "no")) == "f.yaml:1:1: a: no"


def test_places_hold_when_items_are_left_out() -> None:
    """The third item of a list is still the third after the first was put aside."""
    document = read("f.yaml", "a:\n  - {k: 1}\n  - {k: 2}\n  - {k: [x, y]}\n")
    document.leave_out(("a", 0), 3)
    assert str(document.mistake(("a", 1, "k"), "no")) == "f.yaml:4:6: a[2].k: no"
    document.leave_out(("a", 1, "k", 0), 2)
    assert str(document.mistake(("a", 1, "k", 0), "no")) == "f.yaml:4:13: a[2].k[1]: no"
    document.leave_out(("a", 0), 2)
    assert str(document.mistake(("a", 0), "no")) == "f.yaml:4:5: a[2]: no"


def test_mistakes_sort_by_place() -> None:
    """File, line, column: the order in which a person mends them."""
    document = Document("b.yaml")
    document.mistakes += [
        Mistake("b.yaml", 10, 1, "", "x"),
        Mistake("b.yaml", 9, 2, "", "x"),
        Mistake("a.yaml", 50, 1, "", "x"),
        Mistake("b.yaml", 9, 1, "", "x"),
    ]
    assert [(m.file, m.line, m.column) for m in sorted(document.mistakes)] == [
        ("a.yaml", 50, 1),
        ("b.yaml", 9, 1),
        ("b.yaml", 9, 2),
        ("b.yaml", 10, 1),
    ]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("a",), "a"),
        (("a", "b", 0, "c"), "a.b[0].c"),
        ((0, 1, "a"), "[0][1].a"),
    ],
)
def test_paths_read_as_people_write_them(path: tuple[str | int, ...], text: str) -> None:
    """`gateways.stripe.routes[0].name`."""
    assert dotted(path) == text

"""The schema for editors: it takes what the loader takes, and refuses what has a wrong shape."""

from __future__ import annotations

import contextlib
import re
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from jsonschema import Draft7Validator  # type: ignore[import-untyped]  # none in its wheels
from pydantic import TypeAdapter, ValidationError

from proxy.settings import schema as s
from proxy.settings import texts as t
from proxy.settings.json_schema import policy_schema, printed, profile_schema, texts
from proxy.settings.yaml_lines import read
from tests.settings.test_load import WRONG_PROFILE
from tests.settings.wrong_policies import wrong_policies

ROOT = Path(__file__).parent.parent.parent
SCHEMAS = {"policy": policy_schema(), "profile": profile_schema()}
POLICY, PROFILE = (Draft7Validator(schema) for schema in SCHEMAS.values())
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
PROFILES = sorted((ROOT / "proxy/gateways").glob("*.yaml"))

# What takes more than a file's shape to know: two places of it, another file, the environment, or
# how long ten years are.
BEYOND_A_SCHEMA = {
    "duration-too-long", "same-listener", "same-listener-by-name", "two-gateways-one-listener",
    "open-to-the-world", "open-api", "store-option-misspelt", "store-option-unknown",
    "store-option-of-another-store", "store-of-replicas-without-a-key", "ca-file", "profile-typo",
    "profile-unknown", "profile-case", "profile-path", "lookup-typo", "two-routes",
    "attempt-longer-than-total", "attempt-longer-than-inherited-total",
    "total-longer-than-session", "route-total-longer-than-session", "session-shorter-than-total",
    "automatic-above-max", "automatic-above-inherited-max", "keep-shorter-than-replay",
    "replay-longer-than-keep", "horizon", "credential-env", "credential-file",
    "a-secret-as-its-name",
    "first-wait-longer-than-the-longest", "route-behind-a-wider-one",
    "payment-settings-without-durable", "repeats-without-durable",
    "a-condition-that-could-charge-twice", "a-condition-that-one-of-the-gateways-makes-unsafe",
    "statuses-that-could-charge-twice", "a-hint-that-the-profile-does-not-know",
    "breaker-slow-ratio-alone", "breaker-slow-call", "operation-nobody-has", "operation-slow-call",
    "a-risk-for-everything", "a-risk-of-nothing-named", "a-risk-where-there-is-none",
    "webhook-of-a-gateway-that-has-none", "webhook-forwarded-to-ourselves",
}  # fmt: skip
# The YAML itself is wrong, which any editor says.
NOT_YAML = {"twice", "gateway-twice", "tag", "merge", "broken", "tab", "empty", "two-documents"}


def told(validator: Draft7Validator, path: Path) -> list[str]:
    """What the schema says of a file."""
    document = read(path.name, path.read_text(encoding="utf-8"))
    assert document.mistakes == []
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document.data)]


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_shipped_schema_is_the_codes(name: str) -> None:
    """config/ has what `holdfast schema` prints."""
    shipped = (ROOT / f"config/{name}.schema.json").read_text(encoding="utf-8")
    assert shipped == printed(SCHEMAS[name]), "run: python docs/build.py"


@pytest.mark.parametrize("name", SCHEMAS)
def test_it_is_a_schema(name: str) -> None:
    """Of the dialect it says it is."""
    Draft7Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_is_valid(config: Path) -> None:
    """And its first line leads an editor to the schema."""
    assert told(POLICY, config) == []
    first, _, _ = config.read_text(encoding="utf-8").partition("\n")
    assert first == "# yaml-language-server: $schema=policy.schema.json"


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.name)
def test_every_shipped_profile_is_valid(profile: Path) -> None:
    """Likewise."""
    assert told(PROFILE, profile) == []
    first, _, _ = profile.read_text(encoding="utf-8").partition("\n")
    assert first == "# yaml-language-server: $schema=../../config/profile.schema.json"


@pytest.mark.parametrize(("text", "mistakes"), wrong_policies())
def test_what_has_a_wrong_shape_is_refused(
    text: str, mistakes: list[str], request: pytest.FixtureRequest
) -> None:
    """What the loader refuses, the schema refuses too, but for what it cannot know."""
    case = request.node.callspec.id
    document = read("policy.yaml", text)
    assert (document.mistakes != []) is (case in NOT_YAML)
    if case not in NOT_YAML:
        assert POLICY.is_valid(document.data) is (case in BEYOND_A_SCHEMA)


def test_the_exceptions_are_cases() -> None:
    """So that the lists above do not outlive what they are about."""
    cases = {case.id for case in wrong_policies() if isinstance(case, type(pytest.param()))}
    assert cases >= BEYOND_A_SCHEMA | NOT_YAML


def test_a_wrong_profile_is_refused_where_it_is_wrong() -> None:
    """Each place of a profile full of mistakes, but for what takes two places to know."""
    document = read("mine.yaml", WRONG_PROFILE)
    assert sorted(error.json_path for error in PROFILE.iter_errors(document.data)) == [
        "$",  # titel is unknown
        "$",  # and title missing
        "$.errors",  # boby is unknown
        "$.errors.headers[0].value",
        "$.errors.refusals",  # there is no order-alredy-paid
        "$.errors.refusals['order-alredy-paid'].status",
        "$.idempotency.class",
        "$.idempotency.key.header",
        "$.idempotency.window",
        "$.results[0].result",
        "$.results[0].when.status[0]",
        "$.results[0].when.status[1]",
        "$.results[1].when.json[0].in",
        "$.results[1].when.json[0].path",
        "$.routes[0].match.path",
    ]


@pytest.mark.parametrize(
    ("key", "taken"),
    [
        ({"header": "Key"}, True),
        ({"json": "key", "header": None}, True),
        ({"nowhere": True}, True),
        ({"form": "key", "nowhere": False}, True),
        ({"header": "Key", "form": "key"}, False),
        ({"header": "Key", "nowhere": True}, False),
        ({"nowhere": False}, False),
        ({}, False),
    ],
)
def test_what_is_one_of_several_is_written_once(key: dict[str, object], *, taken: bool) -> None:
    """The schema counts the places of a key as the loader does."""
    with contextlib.nullcontext() if taken else pytest.raises(ValidationError):
        s.KeyModel.model_validate(key)
    idempotency = {"class": "A_strong", "window": "24h", "key": key}
    rule = {"when": {"status": ["2xx"]}, "result": "succeeded"}
    whole = {"title": "Mine", "idempotency": idempotency, "results": [rule]}
    assert PROFILE.is_valid(whole) is taken


def joined(*parts: str) -> list[str]:
    """Every text of such parts, one of each, right and wrong ones; `|` stands between choices."""
    return ["".join(chosen) for chosen in product(*(part.split("|") for part in parts))]


_HOSTS = "a|a.b|127.0.0.1|a_b-c|-a|a.|[::1]|[::|::1|*|"
_PORTS = ":0|:00080|:8080|:59999|:60000|:65535|:65536|:99999|:|"
_STEPS = "a|a b|.a|[0]|[*]|[00]|.[0]|..a|[|[x]|é|"
_PIECES = "/a|/|{id}|{}|{|}|**|*|?|%20|é|//|.|"
TEXTS = [
    *joined("0|00|1|015|3650|9999999|-1|", "|.5|.0|.|.55", "ms|s|m|h|d|KiB|MiB|MB| s|S|"),
    *joined(_HOSTS, _PORTS),
    *joined("http://|https://|ftp://|HTTP://", _HOSTS, _PORTS, "|/|/v1"),
    *joined("sqlite|redis|postgresql|memory|mysql", "://", "|/|//|u@|u:p@|/a:b/", "a|.|..|...|a/|"),
    *joined("/|", _PIECES, _PIECES, _PIECES),
    *joined(_STEPS, _STEPS, _STEPS),
    *joined("4|40|402|4xx|599|600|0xx", "|-", "|499|99"),
    *joined("POST|Post|A1|a|a-b|X_y|" + "A" * 20, "|-| |:|é|A|" + "b" * 60),
]
KINDS: dict[str, Any] = {
    name: kind
    for name, kind in vars(t).items()
    if get_origin(kind) is not None and hasattr(kind, "__metadata__") and str in get_args(kind)
} | {"Duration": t.Duration, "Positive": t.Positive, "Size": t.Size, "Status": t.StatusRange}


@pytest.mark.parametrize("name", KINDS)
def test_what_the_loader_takes_is_not_refused(name: str) -> None:
    """An editor marks nothing that is right: whatever is read passes the pattern."""
    kind: Any = TypeAdapter(KINDS[name])
    validator = Draft7Validator(kind.json_schema())
    taken = 0
    for text in TEXTS:
        with contextlib.suppress(ValidationError):
            kind.validate_python(text, strict=True)
            taken += 1
            assert validator.is_valid(text), text
    assert 0 < taken < len(TEXTS)


def test_a_long_text_is_refused_at_once() -> None:
    """No pattern takes for ever to say no."""
    wrong = ["a" * 5000 + "[", "/" + "{a}" * 2000 + "?", "1." * 5000, "a:" * 5000, "é" * 5000]
    for kind in KINDS.values():
        for text in wrong:
            schema = TypeAdapter[Any](kind).json_schema()
            assert Draft7Validator(schema).is_valid(text) in {True, False}


def test_defaults_are_as_they_would_be_written() -> None:
    """2s and not 2.0; and what is said of a key is the reference's text without its links."""
    defs = SCHEMAS["policy"]["$defs"]
    connect = defs["TimeoutsModel"]["properties"]["connect"]
    assert connect["default"] == "2s"
    text = texts()["TimeoutsModel", "connect"]
    assert connect["description"] == f"{text.does} Why this default: {text.why}"
    assert defs["DefaultsModel"]["properties"]["max_answer"]["default"] == "8MiB"
    assert defs["RouteModel"]["properties"]["order_lock"]["default"] == "named"
    route = defs["RouteModel"]["properties"]
    assert "](" in texts()["RouteModel", "new_key"].does + texts()["PolicyFile", "audit"].does
    assert "](" not in "".join(each["description"] for each in route.values())
    assert "](" not in SCHEMAS["policy"]["properties"]["audit"]["description"]


def inside(part: Any) -> list[dict[str, Any]]:
    """Every object of a schema."""
    found = [part] if isinstance(part, dict) else []
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return found + [each for value in inner for each in inside(value)]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_key_is_explained_and_no_other_taken(name: str) -> None:
    """A description for each, a default that the schema itself takes, and nothing unknown."""
    for part in inside(SCHEMAS[name]):
        if part.get("type") == "object" and "properties" in part:
            assert part["additionalProperties"] is False
            for key, value in part["properties"].items():
                assert "description" in value or "$ref" in value, key
                if "default" in value:
                    whole = {**value, "$defs": SCHEMAS[name]["$defs"]}
                    assert Draft7Validator(whole).is_valid(value["default"]), key


@pytest.mark.parametrize("name", SCHEMAS)
def test_patterns_are_of_javascript_too(name: str) -> None:
    """Nothing that only Python reads, and no brace outside its place: editors read with `u`."""
    for part in inside(SCHEMAS[name]):
        if isinstance(pattern := part.get("pattern"), str):
            assert not re.search(r"\(\?(?![:=!])|\\[AZz]", pattern), pattern
            bare = re.sub(r"\[(?:\\.|[^\]\\])*\]|\\.", "", pattern)
            assert not re.search(r"\{(?!\d+(?:,\d*)?\})", bare), pattern

"""The references say every setting and its real default, and nothing that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from proxy.core.policy import OrderLock
from proxy.core.profile import GatewayClass
from proxy.settings.load import load
from proxy.settings.schema import (
    KeyModel,
    PolicyFile,
    ProfileFile,
    RouteModel,
    RuleModel,
    TimeoutsModel,
)
from proxy.settings.texts import parse_duration, parse_size
from tests.support.lab import settings_from

ROOT = Path(__file__).parent.parent.parent
INDEX = ROOT / "docs/policies.md"
POLICIES = [INDEX, *sorted((ROOT / "docs/policies").glob("*.md"))]
PROFILES = [ROOT / "proxy/gateways/README.md"]
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))

# | `key` | type | default | meaning |
_ROW = re.compile(
    r"^\| `(?P<key>[^`]+)` \| [^|]+ \| (?P<default>[^|]+) \| (?P<meaning>.+) \|$", re.MULTILINE
)
# Fields that the loader asks for itself, so that a file without them is still looked through.
_REQUIRED_BY_THE_LOADER = {"gateways"}


def walk(
    model: type[BaseModel], prefix: str = "", seen: set[type[BaseModel]] | None = None
) -> Iterator[tuple[str, FieldInfo]]:
    """Every key that can be written, with its field; a model is walked once, where it is met first.

    Names that people choose are NAME, items of a list are [].
    """
    seen = set() if seen is None else seen
    # The gateways come last: what they share with the defaults is explained there.
    fields = sorted(model.model_fields.items(), key=lambda item: item[0] == "gateways")
    for name, field in fields:
        key = f"{prefix}{field.alias or name}"
        yield key, field
        for inner, mark in inside(field.annotation):
            if inner not in seen:
                seen.add(inner)
                yield from walk(inner, f"{key}{mark}.", seen)


def inside(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    """The models of an annotation, and how their place is written: [] in lists, NAME in maps."""
    origin = get_origin(annotation)
    if origin in {Union, UnionType}:
        for part in get_args(annotation):
            yield from inside(part)
    elif origin is list:
        yield from ((model, f"[]{mark}") for model, mark in inside(get_args(annotation)[0]))
    elif origin is dict:
        yield from ((model, f".NAME{mark}") for model, mark in inside(get_args(annotation)[1]))
    elif hasattr(annotation, "__metadata__"):
        yield from inside(annotation.__origin__)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ""


def shown(name: str, field: FieldInfo) -> str:
    """A field's default as the references write it."""
    if field.is_required() or name in _REQUIRED_BY_THE_LOADER:
        return "required"
    parsers = {getattr(part, "func", None) for part in field.metadata}
    if parse_duration in parsers:
        return "none" if field.default is None else f"`{duration(field.default)}`"
    if parse_size in parsers:
        return f"`{field.default // 1048576}MiB`"
    return value(field.default)


def value(default: object) -> str:
    """A default that has no unit."""
    match default:
        case None:
            text = "none"
        case BaseModel():
            text = "below"
        case bool():
            text = "`true`" if default else "`false`"
        case list():
            text = f"`[{', '.join(default)}]`"
        case "":
            text = '`""`'
        case float():
            text = f"`{default:g}`"
        case _:
            text = f"`{default}`"
    return text


def duration(seconds: float) -> str:
    """Seconds as people write them."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds * 1000:g}ms" if seconds else "0s"


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every place where a key may stand, a shared model at each of its places."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        yield key, field
        for inner, mark in inside(field.annotation):
            yield from keys_of(inner, f"{key}{mark}.")


def rows(pages: list[Path]) -> dict[str, str]:
    """The defaults that these pages state, by key."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    found = [(row["key"], row["default"]) for row in _ROW.finditer(text)]
    assert len(found) == len(dict(found)), "a key is explained twice"
    return dict(found)


REFERENCES = [
    # What may also be written in a profile is explained there.
    pytest.param(POLICIES, PolicyFile, {KeyModel, RuleModel}, id="policies"),
    # A profile's routes are those of a policy.
    pytest.param(PROFILES, ProfileFile, {RouteModel, TimeoutsModel}, id="profiles"),
]


@pytest.mark.parametrize(("pages", "model", "elsewhere"), REFERENCES)
def test_every_key_is_explained(
    pages: list[Path], model: type[BaseModel], elsewhere: set[type[BaseModel]]
) -> None:
    """A setting that can be written can be looked up."""
    wanted = {
        key for key, field in walk(model, seen=set(elsewhere)) if shown(key, field) != "below"
    }
    assert wanted - set(rows(pages)) == set()


@pytest.mark.parametrize(("pages", "model", "elsewhere"), REFERENCES)
def test_nothing_is_explained_that_is_not_there(
    pages: list[Path], model: type[BaseModel], elsewhere: set[type[BaseModel]]
) -> None:
    """A key that can be looked up can be written."""
    assert set(rows(pages)) - {key for key, _ in keys_of(model)} == set()


@pytest.mark.parametrize(("pages", "model", "elsewhere"), REFERENCES)
def test_the_stated_defaults_are_the_real_ones(
    pages: list[Path], model: type[BaseModel], elsewhere: set[type[BaseModel]]
) -> None:
    """What the page says holds when nothing is written is what holds."""
    real = {key: shown(key, field) for key, field in keys_of(model)}
    stated = rows(pages)
    assert stated == {key: real[key] for key in stated}


def test_every_variable_is_explained() -> None:
    """A HOLDFAST_… variable that the code reads is in the reference."""
    text = INDEX.read_text(encoding="utf-8")
    read = {
        name.removesuffix("_FILE")
        for path in (ROOT / "proxy").rglob("*.py")
        for name in re.findall(r"\bHOLDFAST_[A-Z][A-Z_]*[A-Z]\b", path.read_text())
        if "__" not in name
    }
    # The demonstration gives itself a credential.
    assert {name for name in read if name not in text} == {"HOLDFAST_DEMO_CREDENTIAL"}


YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GATEWAY = 'gateways: {g: {listen: "127.0.0.1:8080", upstream: "https://gw.example"}}\n'


@pytest.mark.parametrize(
    "block", [block for page in POLICIES for block in YAML_BLOCK.findall(page.read_text())]
)
def test_every_example_of_the_reference_loads(block: str, tmp_path: Path) -> None:
    """What people copy from the page works."""
    text = block if block.startswith("gateways:") else GATEWAY + block
    made = settings_from(text, tmp_path, {"STRIPE_LOOKUP_AUTHORIZATION": "Bearer rk_test"})
    assert made.gateways


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_loads(config: Path) -> None:
    """A policy to start from is one that starts."""
    assert load(config, {}).gateways


def test_there_are_configs_to_start_from() -> None:
    """One for Stripe, one for a gateway that nobody wrote a profile for."""
    assert {config.name for config in CONFIGS} >= {"holdfast.yaml", "generic.yaml"}


def test_the_main_config_says_the_defaults(tmp_path: Path) -> None:
    """What config/holdfast.yaml writes out is what holds without it, but for its one route."""
    text = (
        'gateways: {stripe: {profile: stripe, listen: "127.0.0.1:8080", '
        'upstream: "https://api.stripe.com"}}\nstore: sqlite:///var/holdfast.db\n'
    )
    short = settings_from(text, tmp_path)
    made = load(ROOT / "config/holdfast.yaml", {})
    assert (made.sessions, made.admin) == (short.sessions, short.admin)
    assert (made.session, made.shutdown) == (short.session, short.shutdown)
    assert Path(made.store).relative_to(ROOT / "config") == Path(short.store).relative_to(tmp_path)
    mine, plain = made.gateways["stripe"], short.gateways["stripe"]
    assert (mine.listen, mine.upstream, mine.profile) == (
        plain.listen,
        plain.upstream,
        plain.profile,
    )
    assert (mine.budget, mine.breaker) == (plain.budget, plain.breaker)
    assert mine.concurrency == plain.concurrency
    assert (mine.routes.read, mine.routes.other) == (plain.routes.read, plain.routes.other)
    differing = [
        (one.name, one.timeouts.total)
        for (_, one), (_, other) in zip(mine.routes.routes, plain.routes.routes, strict=True)
        if one != other
    ]
    assert differing == [("create-payment", 25.0)]


def test_the_generic_config_protects_what_moves_money() -> None:
    """Every POST is durable but for the search, and the promise of keys is declared."""
    gateway = load(ROOT / "config/generic.yaml", {}).gateways["acme"]
    assert gateway.profile.gateway_class is GatewayClass.A_STRONG
    assert gateway.profile.resend_horizon == 18 * 3600.0
    routes = {
        path: gateway.routes.match("POST", path)
        for path in ("/payments", "/payments/1/refunds", "/payments/search", "/anything/else")
    }
    assert {path: (route.name, route.durable) for path, route in routes.items()} == {
        "/payments": ("create-payment", True),
        "/payments/1/refunds": ("refund-payment", True),
        "/payments/search": ("search-payments", False),
        "/anything/else": ("payment", True),
    }
    assert routes["/payments"].order_lock is OrderLock.NAMED
    assert routes["/payments/1/refunds"].order_lock is OrderLock.OFF

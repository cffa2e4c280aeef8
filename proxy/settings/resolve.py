"""What was written → what holds: inheritance, profiles, secrets, and the checks between fields.

A value is inherited from the nearest place that wrote it: defaults → gateway → the profile's
route →
the route of the policy file. A route of the policy file that has the name of a profile's route
replaces it and inherits the rest of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from proxy.core import policy as core
from proxy.core import profile as facts
from proxy.core.jsonpath import parse_json_path
from proxy.core.refusals import Refusal
from proxy.core.routing import RouteTable, route_table
from proxy.settings import defaults as d
from proxy.settings import schema as s
from proxy.settings import values as v
from proxy.settings.profiles import Profiles
from proxy.settings.yaml_lines import Document
from proxy.settings.yaml_lines import Path as Place

M = TypeVar("M", bound=BaseModel)

# Headers of an answer that mean the same when the answer is given again (never Set-Cookie).
_REPLAYED = frozenset({"content-type", "content-encoding", "content-language", "location"})


def merged(*layers: M | None) -> M:
    """One model out of several, the later ones winning field by field where they
    wrote something.
    """
    first, *rest = [layer for layer in layers if layer is not None]
    result = first
    for layer in rest:
        changes: dict[str, object] = {}
        for name in layer.model_fields_set:
            value, below = getattr(layer, name), getattr(result, name)
            both = isinstance(value, BaseModel) and isinstance(below, BaseModel)
            changes[name] = merged(below, value) if both else value
        result = result.model_copy(update=changes)
    return result


class Resolver:
    """Builds `Settings` from a policy file; mistakes go into its document."""

    def __init__(
        self,
        document: Document,
        model: s.PolicyFile,
        profiles: Profiles,
        folder: Path,
        environ: Mapping[str, str],
    ) -> None:
        self._document = document
        self._model = model
        self._profiles = profiles
        self._folder = folder
        self._environ = environ

    def settings(self) -> v.Settings | None:
        """The settings; None if a gateway could not be built (the mistakes say why)."""
        self._check_listeners()
        self._check_timeouts()
        gateways = {name: self._gateway(name, g) for name, g in self._model.gateways.items()}
        tokens = self._tokens()
        self._check_exposure(tokens)
        if any(gateway is None for gateway in gateways.values()):
            return None
        session, shutdown = self._model.session, self._model.shutdown
        if session.keep_for < session.replay_for:
            self._wrong(("session", "keep_for"), "is shorter than replay_for")
        store = self._store()
        return v.Settings(
            sessions=_address(self._model.listen.sessions),
            admin=_address(self._model.listen.admin),
            store=store,
            key=self._key(),
            key_file=self._key_file(store),
            gateways={name: g for name, g in gateways.items() if g is not None},
            session=core.SessionPolicy(**session.model_dump()),
            shutdown=v.Shutdown(shutdown.ready_delay, shutdown.drain),
            tokens=tokens,
            held_request_bytes=d.HELD_REQUEST_BYTES,
        )

    # --- one gateway --------------------------------------------------------------------------

    def _gateway(self, name: str, model: s.GatewayModel) -> v.Gateway | None:
        here: Place = ("gateways", name)
        profile_file = self._profile(model.profile)
        if profile_file is None:
            return None
        profile = build_profile(model.profile, profile_file)
        profile = self._overridden(profile, model.idempotency, profile_file, here)
        defaults = self._model.defaults
        return v.Gateway(
            name=name,
            listen=_address(model.listen),
            upstream=model.upstream,
            profile=profile,
            routes=self._routes(model, profile_file, here),
            budget=core.BudgetPolicy(**merged(defaults.budget, model.budget).model_dump()),
            breaker=core.BreakerPolicy(**merged(defaults.breaker, model.breaker).model_dump()),
            concurrency=core.ConcurrencyPolicy(
                **merged(defaults.concurrency, model.concurrency).model_dump()
            ),
            lookup_credential=self._credential(model, here),
            ca_file=self._ca_file(model, here),
        )

    def _profile(self, name: str) -> s.ProfileFile | None:
        if name not in self._profiles.names():  # said by load.check_profile_names
            return None
        profile, document = self._profiles.load(name)
        if profile is not None:
            check_profile(profile, document)
        self._document.mistakes += document.mistakes
        return profile

    def _overridden(
        self,
        profile: facts.GatewayProfile,
        override: s.IdempotencyOverride,
        profile_file: s.ProfileFile,
        here: Place,
    ) -> facts.GatewayProfile:
        window = override.window or profile_file.idempotency.window
        horizon = override.resend_horizon
        if horizon is None:
            horizon = min(profile.resend_horizon, window * d.RESEND_HORIZON_SHARE)
            if override.window is not None:
                horizon = window * d.RESEND_HORIZON_SHARE
        if horizon > window:
            self._wrong(
                (*here, "idempotency", "resend_horizon"),
                "is longer than the gateway keeps a key; a repeat after that is a new charge",
            )
        gateway_class = override.gateway_class or profile.gateway_class
        return replace(profile, gateway_class=gateway_class, resend_horizon=horizon)

    # --- routes -------------------------------------------------------------------------------

    def _routes(
        self, model: s.GatewayModel, profile_file: s.ProfileFile, here: Place
    ) -> RouteTable:
        of_profile = {route.name: route for route in profile_file.routes}
        names = Counter(route.name for route in model.routes)
        routes = []
        for number, route in enumerate(model.routes):
            place = (*here, "routes", number)
            if names[route.name] > 1:
                self._wrong((*place, "name"), f"two routes are named {route.name!r}")
            inherited = merged(of_profile.get(route.name, route), route)
            if inherited.lookup is not None and inherited.lookup not in profile_file.lookups:
                self._wrong((*place, "lookup"), f"the profile has no look-up {inherited.lookup!r}")
            routes.append(self._route(inherited, model, place))
        written = set(names)
        routes += [
            self._route(route, model, here)
            for route in profile_file.routes
            if route.name not in written
        ]
        read = s.RouteModel(name="read", match=s.MatchModel(methods=["GET"], path="/**"))
        other = s.RouteModel(name="other", match=s.MatchModel(methods=["POST"], path="/**"))
        return route_table(
            tuple(routes),
            read=self._route(read, model, here),
            other=self._route(other, model, here),
        )

    def _route(self, route: s.RouteModel, model: s.GatewayModel, place: Place) -> core.RoutePolicy:
        defaults = self._model.defaults
        timeouts = merged(defaults.timeouts, model.timeouts, route.timeouts)
        retry = merged(defaults.retry, model.retry, route.retry)
        automatic = retry.automatic_attempts or retry.max_attempts
        if automatic > retry.max_attempts:
            self._wrong((*place, "retry", "automatic_attempts"), "is more than max_attempts")
        return core.RoutePolicy(
            name=route.name,
            methods=frozenset(route.match.methods),
            template=route.match.path,
            session=route.session,
            operation=route.operation,
            order_lock=route.order_lock,
            timeouts=core.Timeouts(**timeouts.model_dump()),
            retry=core.RetryPolicy(
                max_attempts=retry.max_attempts,
                automatic_attempts=automatic,
                backoff=core.Backoff(
                    initial=retry.backoff.initial,
                    max=retry.backoff.max,
                    full_jitter=retry.backoff.jitter == "full",
                ),
                respect_retry_after=retry.respect_retry_after,
            ),
            max_body_bytes=route.max_body or defaults.max_body,
            max_answer_bytes=route.max_answer or defaults.max_answer,
            order=_body_field(route.order),
            amount=_body_field(route.amount),
            currency=_body_field(route.currency),
            lookup=route.lookup,
        )

    def _check_timeouts(self) -> None:
        places: list[tuple[Place, s.TimeoutsModel | None]] = [
            (("defaults", "timeouts"), self._model.defaults.timeouts)
        ]
        for name, gateway in self._model.gateways.items():
            here: Place = ("gateways", name)
            places.append(((*here, "timeouts"), gateway.timeouts))
            for number, route in enumerate(gateway.routes):
                places.append(((*here, "routes", number, "timeouts"), route.timeouts))
        for place, timeouts in places:
            if timeouts is None:
                continue
            both_written = {"attempt", "total"} <= timeouts.model_fields_set
            if both_written and timeouts.attempt > timeouts.total:
                self._wrong(place, "attempt is longer than total, so it would never apply")
            if timeouts.total >= self._model.session.expires_after:
                self._wrong(place, "total is not shorter than session.expires_after")

    # --- listeners, secrets, files ------------------------------------------------------------

    def _listeners(self) -> list[tuple[Place, str]]:
        own: list[tuple[Place, str]] = [
            (("listen", "sessions"), self._model.listen.sessions),
            (("listen", "admin"), self._model.listen.admin),
        ]
        return own + [
            (("gateways", name, "listen"), gateway.listen)
            for name, gateway in self._model.gateways.items()
        ]

    def _check_listeners(self) -> None:
        seen: dict[str, Place] = {}
        for place, address in self._listeners():
            if address.endswith(":0"):  # any free port
                continue
            if address in seen:
                other = ".".join(map(str, seen[address]))
                self._wrong(place, f"{address} is already used by {other}")
            seen[address] = place

    def _check_exposure(self, tokens: v.Tokens) -> None:
        if tokens:
            return
        for place, address in self._listeners():
            if not _address(address).loopback:
                self._wrong(
                    place,
                    f"{address} can be reached from other machines, so tokens are required: set "
                    "HOLDFAST_BACKEND_TOKEN and HOLDFAST_OPERATOR_TOKEN (or …_FILE), or listen on "
                    "127.0.0.1",
                )

    def _tokens(self) -> v.Tokens:
        return v.Tokens(
            backend=self._secret("HOLDFAST_BACKEND_TOKEN"),
            viewer=self._secret("HOLDFAST_VIEWER_TOKEN"),
            operator=self._secret("HOLDFAST_OPERATOR_TOKEN"),
        )

    def _secret(self, variable: str) -> str | None:
        """A secret from a variable, or from the file that `<variable>_FILE` names."""
        value = self._environ.get(variable)
        path = self._environ.get(f"{variable}_FILE")
        if path is not None:
            value = self._read_secret(Path(path), (), f"{variable}_FILE")
        return value or None

    def _read_secret(self, path: Path, place: Place, what: str) -> str | None:
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
            self._wrong(place, f"{what}: cannot read the secret file: {reason}")
            return None

    def _key(self) -> bytes | None:
        text = self._secret("HOLDFAST_KEY")
        if text is None:
            return None
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        if len(key) != 32:  # noqa: PLR2004 -- 256 bits
            self._wrong((), "HOLDFAST_KEY is not 32 bytes written as 64 hexadecimal digits")
        return key

    def _key_file(self, store: str) -> Path | None:
        if self._model.key_file is not None:
            return self._folder / self._model.key_file
        return None if store == "memory://" else Path(f"{store}.key")

    def _credential(self, model: s.GatewayModel, here: Place) -> v.Credential | None:
        wanted = model.lookup_credential
        if wanted is None:
            return None
        place = (*here, "lookup_credential")
        if (wanted.env is None) == (wanted.file is None):
            self._wrong(place, "name exactly one of env and file")
            return None
        if wanted.file is not None:
            value = self._read_secret(self._folder / wanted.file, place, "file")
        else:
            value = self._environ.get(wanted.env or "")
            if not value:
                self._wrong(place, f"the environment variable {wanted.env} is not set")
        return v.Credential(wanted.header, value) if value else None

    def _ca_file(self, model: s.GatewayModel, here: Place) -> Path | None:
        if model.tls.ca_file is None:
            return None
        path = self._folder / model.tls.ca_file
        if not path.is_file():
            self._wrong((*here, "tls", "ca_file"), "there is no such file")
        return path

    def _store(self) -> str:
        if self._model.store == "memory://":
            return self._model.store
        # Three slashes would be a relative path with an empty host: sqlite:///x is x beside this
        # file, sqlite:////x is /x. Two slashes read the same as three.
        path = self._model.store.removeprefix("sqlite://").removeprefix("/")
        return str((self._folder / path).absolute())

    def _wrong(self, place: Place, message: str) -> None:
        self._document.mistakes.append(self._document.mistake(place, message))


# --- profiles -----------------------------------------------------------------------------------


def build_profile(name: str, model: s.ProfileFile) -> facts.GatewayProfile:
    """A profile file as the value the flow uses."""
    promise = model.idempotency
    return facts.GatewayProfile(
        name=name,
        gateway_class=promise.gateway_class,
        key_header=promise.key_header,
        key_max_length=promise.key_max_length,
        resend_horizon=promise.resend_horizon or promise.window * d.RESEND_HORIZON_SHARE,
        credential_headers=tuple(name.lower() for name in model.credential_headers),
        rules=facts.rules_by_status([_rule(rule) for rule in model.results]),
        replay_marker=_pair(model.replay_marker),
        retry_hint=_hint(model.retry_hint),
        lookups={key: _lookup(key, recipe) for key, recipe in model.lookups.items()},
        error_shape=model.errors.shape,
        refusal_forms={
            code: facts.RefusalForm(form.status, form.error_type)
            for code, form in model.errors.refusals.items()
        },
        final_answer_headers=tuple((h.header, h.value) for h in model.errors.headers),
        replay_headers=_REPLAYED | {name.lower() for name in model.replay_headers},
    )


def check_profile(  # noqa: C901 -- a list of checks
    model: s.ProfileFile, document: Document
) -> None:
    """The checks between a profile's fields; mistakes go into its document."""

    def wrong(place: Place, message: str) -> None:
        document.mistakes.append(document.mistake(place, message))

    promise = model.idempotency
    if promise.resend_horizon is not None and promise.resend_horizon > promise.window:
        wrong(("idempotency", "resend_horizon"), "is longer than window")
    known = {refusal.code for refusal in Refusal}
    for code in model.errors.refusals:
        if code not in known:
            wrong(("errors", "refusals", code), "there is no such refusal")
    for number, route in enumerate(model.routes):
        if route.lookup is not None and route.lookup not in model.lookups:
            wrong(("routes", number, "lookup"), f"there is no look-up {route.lookup!r}")
    for name, count in Counter(route.name for route in model.routes).items():
        if count > 1:
            wrong(("routes",), f"two routes are named {name!r}")


def _rule(model: s.RuleModel) -> facts.Rule:
    tests = (
        facts.JsonTest(
            parse_json_path(test.path),
            None if test.is_one_of is None else frozenset(test.is_one_of),
            test.present,
        )
        for test in model.when.json_tests
    )
    headers = tuple(model.when.header.items())
    return facts.Rule(tuple(model.when.status), headers, tuple(tests), model.result)


def _lookup(name: str, model: s.LookupModel) -> facts.LookupRecipe:
    page = model.page
    return facts.LookupRecipe(
        name=name,
        find_target=model.find,
        items=parse_json_path(model.items),
        match=tuple((parse_json_path(m.path), m.value) for m in model.match),
        id=parse_json_path(model.id),
        read_target=model.read,
        cursor=None if page is None else parse_json_path(page.cursor),
        cursor_parameter=None if page is None else page.parameter,
        more=None if page is None else parse_json_path(page.more),
        max_pages=1 if page is None else page.max_pages,
    )


def _hint(model: s.HintModel | None) -> facts.RetryHint | None:
    if model is None:
        return None
    return facts.RetryHint(model.header, frozenset(model.retry), frozenset(model.stop))


def _pair(model: s.HeaderModel | None) -> tuple[str, str] | None:
    return None if model is None else (model.header, model.value)


def _body_field(model: s.BodyFieldModel | None) -> core.BodyField | None:
    return None if model is None else core.BodyField(json=model.json_path, form=model.form)


def _address(text: str) -> v.Address:
    host, _, port = text.rpartition(":")
    return v.Address(host.strip("[]"), int(port))

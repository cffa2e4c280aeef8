"""What was written → what holds: inheritance, profiles, secrets, and the checks between fields.

A value is inherited from the nearest place that wrote it: defaults → gateway → the profile's route
→ the route of the policy file. A route of the policy file that has the name of a profile's route
replaces it and inherits the rest of it.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import parse_qs, quote, urlsplit

from pydantic import BaseModel

from proxy.core import policy as core
from proxy.core import profile as facts
from proxy.core.documents import BodyKind
from proxy.core.jsonpath import parse_json_path
from proxy.core.keys import Carrier, KeyPlace
from proxy.core.refusals import Refusal
from proxy.core.routing import RouteTable, route_table
from proxy.settings import defaults as d
from proxy.settings import schema as s
from proxy.settings import values as v
from proxy.settings.profiles import Profiles, nearest
from proxy.settings.secret_files import read_secret, secret_from
from proxy.settings.yaml_lines import Document, Mistake
from proxy.settings.yaml_lines import Path as Place

M = TypeVar("M", bound=BaseModel)

# Headers of an answer that mean the same when the answer is given again (never Set-Cookie).
_REPLAYED = frozenset({"content-type", "content-encoding", "content-language", "location"})

# Stores that several replicas share.
_SERVERS = ("postgresql://", "redis://")
# What may stand behind the ? of a store. To PostgreSQL any other is a setting of the server, of
# which only the server knows the name; one that is nearly one of these is a slip of the pen.
_STORE_OPTIONS = {
    "redis": ["sentinel"],
    "postgresql": [
        "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslnegotiation",
        "ssl_min_protocol_version", "ssl_max_protocol_version", "host", "port", "dbname",
        "database", "user", "passfile", "service", "servicefile", "krbsrvname", "gsslib",
        "target_session_attrs", "application_name", "search_path",
    ],
}  # fmt: skip

# Characters: nothing slows down whoever tries tokens, and 16 random ones are out of reach.
_MIN_TOKEN = 16


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
            both = both and not isinstance(value, s.KeyModel)  # another place, as a whole
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
        self.profiles: dict[str, tuple[s.ProfileFile, Document]] = {}  # that were read
        self._folder = folder
        self._environ = environ

    def settings(self) -> v.Settings | None:
        """The settings; None if a gateway could not be built (the mistakes say why)."""
        self._check_gateways()
        self._check_listeners()
        self._check_layers()
        gateways = {name: self._gateway(name, g) for name, g in self._model.gateways.items()}
        tokens = self._tokens()
        self._check_exposure(tokens)
        keys = self._keys()
        session, shutdown = self._model.session, self._model.shutdown
        if session.keep_for < session.replay_for:
            wrote = "keep_for" if "keep_for" in session.model_fields_set else "replay_for"
            message = (
                f"keep_for ({s.written_duration(session.keep_for)}) is shorter than replay_for "
                f"({s.written_duration(session.replay_for)})"
            )
            self._wrong(("session", wrote), message)
        if any(gateway is None for gateway in gateways.values()):
            return None
        store = self._store()
        return v.Settings(
            sessions=_address(self._model.listen.sessions),
            admin=_address(self._model.listen.admin),
            store=store,
            keys=keys,
            key_file=self._key_file(store, keys),
            audit=self._audit(store),
            spool=self._spool(store),
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
        self._check_parameters(model, profile_file, here)
        profile = build_profile(model.profile, profile_file, model.parameters)
        promise = self._promise(profile_file.idempotency, model.idempotency, here)
        routes, of_routes = self._routes(model, profile_file, promise, profile, here)
        defaults = self._model.defaults
        return v.Gateway(
            name=name,
            listen=_address(model.listen),
            upstream=model.upstream,
            profile=_promising(profile, promise),
            routes=routes,
            of_routes=of_routes,
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
            self.profiles[name] = (profile, document)
        self._document.mistakes += document.mistakes
        return profile

    def _check_parameters(
        self, model: s.GatewayModel, profile_file: s.ProfileFile, here: Place
    ) -> None:
        for name in profile_file.parameters:
            if not model.parameters.get(name):
                why = f"profile {model.profile!r} needs {name!r} for its look-ups, a name of yours"
                self._wrong((*here, "parameters"), why)
        for name in model.parameters.keys() - set(profile_file.parameters):
            known = nearest(name, profile_file.parameters)
            self._wrong((*here, "parameters", name), f"the profile has no such parameter{known}")

    def _promise(
        self, promise: s.IdempotencyModel, override: s.IdempotencyOverride, here: Place
    ) -> s.IdempotencyModel:
        """What holds where something is written over what the gateway promises."""
        wrote = {
            name: value
            for name in override.model_fields_set
            if (value := getattr(override, name)) is not None
        }
        if "window" in wrote:
            wrote.setdefault("resend_horizon", None)
        promise = promise.model_copy(update=wrote)
        for key, why in _promise_mistakes(promise):
            if key in wrote or (key == "key" and "gateway_class" in wrote):
                self._wrong((*here, "idempotency", key), why)
        return promise

    # --- routes -------------------------------------------------------------------------------

    def _routes(
        self,
        model: s.GatewayModel,
        profile_file: s.ProfileFile,
        promise: s.IdempotencyModel,
        profile: facts.GatewayProfile,
        here: Place,
    ) -> tuple[RouteTable, dict[str, facts.GatewayProfile]]:
        """The routes, and what is known of those that are not as the rest of the gateway is."""
        models = [*self._route_models(model, profile_file, here)]
        of_routes = {}
        for place, route in models:
            if route.idempotency.model_fields_set or route.results:
                own = self._promise(promise, route.idempotency, place)
                rules = [_rule(rule) for rule in (*route.results, *profile_file.results)]
                of_routes[route.name] = replace(
                    _promising(profile, own), rules=facts.rules_by_status(rules)
                )
        read = s.RouteModel(name="read", match=s.MatchModel(methods=["GET"], path="/**"))
        other = s.RouteModel(name="other", match=s.MatchModel(methods=["POST"], path="/**"))
        table = route_table(
            tuple(self._route(route, model, profile_file) for _, route in models),
            read=self._route(read, model, profile_file),
            other=self._route(other, model, profile_file),
        )
        return table, of_routes

    def _route_models(
        self, model: s.GatewayModel, profile_file: s.ProfileFile, here: Place
    ) -> Iterator[tuple[Place, s.RouteModel]]:
        of_profile = {route.name: route for route in profile_file.routes}
        written: set[str] = set()
        for number, route in enumerate(model.routes):
            place = (*here, "routes", number)
            if route.name in written:
                self._wrong((*place, "name"), f"two routes are named {route.name!r}")
            written.add(route.name)
            inherited = merged(of_profile.get(route.name, route), route)
            if inherited.lookup is not None and inherited.lookup not in profile_file.lookups:
                known = nearest(inherited.lookup, [*profile_file.lookups])
                message = f"the profile has no look-up {inherited.lookup!r}{known}"
                self._wrong((*place, "lookup"), message)
            yield place, inherited
        for route in profile_file.routes:
            if route.name not in written:
                yield here, route

    def _route(
        self, route: s.RouteModel, model: s.GatewayModel, profile_file: s.ProfileFile
    ) -> core.RoutePolicy:
        defaults, of_profile = self._model.defaults, profile_file.timeouts
        timeouts = merged(defaults.timeouts, of_profile, model.timeouts, route.timeouts)
        retry = merged(defaults.retry, model.retry, route.retry)
        # Where only the limit is lowered, the inherited share of it comes down with it.
        automatic = min(retry.automatic_attempts or retry.max_attempts, retry.max_attempts)
        return core.RoutePolicy(
            name=route.name,
            methods=frozenset(route.match.methods),
            template=route.match.path,
            session=route.session,
            operation=route.operation,
            order_lock=route.order_lock,
            new_key=route.new_key,
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
            keep_request=route.keep_request,
        )

    # --- between layers -----------------------------------------------------------------------

    def _check_layers(self) -> None:
        """Whatever a layer writes must be able to apply, given what it inherits."""
        defaults = self._model.defaults
        self._check_layer(("defaults",), defaults.timeouts, defaults.retry)
        total, expiry = defaults.timeouts.total, self._model.session.expires_after
        if "total" not in defaults.timeouts.model_fields_set and total >= expiry:
            message = (
                f"is not longer than the default of timeouts.total ({s.written_duration(total)})"
            )
            self._wrong(("session", "expires_after"), message)
        for name, gateway in self._model.gateways.items():
            here: Place = ("gateways", name)
            timeouts = merged(defaults.timeouts, gateway.timeouts)
            retry = merged(defaults.retry, gateway.retry)
            self._check_layer(here, timeouts, retry, gateway.timeouts, gateway.retry)
            for number, route in enumerate(gateway.routes):
                self._check_layer(
                    (*here, "routes", number),
                    merged(timeouts, route.timeouts),
                    merged(retry, route.retry),
                    route.timeouts,
                    route.retry,
                )

    def _check_layer(
        self,
        place: Place,
        timeouts: s.TimeoutsModel,
        retry: s.RetryModel,
        *wrote: s.TimeoutsModel | s.RetryModel | None,
    ) -> None:
        """`wrote` is what stands at this layer itself; nothing given: all of it."""
        here = wrote or (timeouts, retry)
        fields = {name for layer in here if layer is not None for name in layer.model_fields_set}
        if "attempt" in fields and timeouts.attempt > timeouts.total:
            total = s.written_duration(timeouts.total)
            message = f"is longer than total ({total}), so it would never apply"
            self._wrong((*place, "timeouts", "attempt"), message)
        if "total" in fields and timeouts.total >= self._model.session.expires_after:
            expiry = s.written_duration(self._model.session.expires_after)
            message = f"is not shorter than session.expires_after ({expiry})"
            self._wrong((*place, "timeouts", "total"), message)
        automatic = retry.automatic_attempts or retry.max_attempts
        if "automatic_attempts" in fields and automatic > retry.max_attempts:
            message = f"is more than max_attempts ({retry.max_attempts})"
            self._wrong((*place, "retry", "automatic_attempts"), message)

    def _check_gateways(self) -> None:
        data = self._document.data if isinstance(self._document.data, dict) else {}
        if "gateways" not in data:
            self._wrong(("gateways",), "is missing")
        elif data["gateways"] == {}:
            self._wrong(("gateways",), "name at least one gateway")

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
        seen: list[tuple[Place, v.Address]] = []
        for place, text in self._listeners():
            address = _address(text)
            for other, taken in seen:
                if _clash(address, taken):
                    name = ".".join(map(str, other))
                    self._wrong(place, f"{address} is already used by {name} ({taken})")
                    break
            seen.append((place, address))
        for name, gateway in self._model.gateways.items():
            upstream = _address_of(gateway.upstream)
            for other, taken in seen:
                # Only where it is certain: a wildcard says nothing about other machines' names.
                if (upstream.loopback or upstream.host == taken.host) and _clash(upstream, taken):
                    own = ".".join(map(str, other))
                    message = f"{gateway.upstream} is {own} ({taken}), Holdfast itself"
                    self._wrong(("gateways", name, "upstream"), message)
                    break

    def _check_exposure(self, tokens: v.Tokens) -> None:
        for place, address in self._listeners():
            # A gateway's listener knows the backend's token only; without it, it would be open.
            guarded = bool(tokens.backend) if place[0] == "gateways" else bool(tokens)
            if not guarded and not _address(address).loopback:
                self._wrong(
                    place,
                    f"{address} can be reached from other machines, so tokens are required: set "
                    "HOLDFAST_BACKEND_TOKEN and HOLDFAST_OPERATOR_TOKEN (or …_FILE), or listen on "
                    "127.0.0.1",
                )

    def _tokens(self) -> v.Tokens:
        return v.Tokens(
            backend=self._token("HOLDFAST_BACKEND_TOKEN"),
            viewer=self._token("HOLDFAST_VIEWER_TOKEN"),
            operator=self._token("HOLDFAST_OPERATOR_TOKEN"),
        )

    def _token(self, variable: str) -> str | None:
        token = self._secret(variable)
        if token is not None and len(token) < _MIN_TOKEN:
            why = f"a token of fewer than {_MIN_TOKEN} characters can be guessed"
            self._wrong_variable(self._written_in(variable), why)
        return token

    def _secret(self, variable: str) -> str | None:
        """A secret from a variable, or from the file that `<variable>_FILE` names."""
        value, why = secret_from(self._environ, variable)
        if why is not None:
            self._wrong_variable(self._written_in(variable), why)
        return value

    def _written_in(self, variable: str) -> str:
        """The variable that a secret came from: it itself, or the one that names its file."""
        return f"{variable}_FILE" if self._environ.get(f"{variable}_FILE") else variable

    def _wrong_variable(self, variable: str, message: str) -> None:
        origin = f"environment variable {variable}"
        self._document.mistakes.append(Mistake(origin, 0, 0, "", message))

    def _keys(self) -> tuple[bytes, ...] | None:
        """Several with commas between them, or one a line as in a key file."""
        text = self._secret("HOLDFAST_KEY")
        if text is None:
            return None
        written = re.split(r"[,\s]+", text)
        why = None
        for number, key in enumerate(written, 1):
            if not re.fullmatch("[0-9a-fA-F]{64}", key):
                which = f"key {number} is " if len(written) > 1 else ""
                why = why or f"{which}not 32 bytes written as 64 hexadecimal digits"
        keys = () if why else tuple(map(bytes.fromhex, written))
        if len(set(keys)) < len(keys):
            why = "a key stands there twice"
        if why:
            self._wrong_variable(self._written_in("HOLDFAST_KEY"), why)
        return keys

    def _key_file(self, store: str, keys: tuple[bytes, ...] | None) -> Path | None:
        if self._model.key_file is not None:
            return self._folder / self._model.key_file
        if store.startswith(_SERVERS) and keys is None:
            message = "replicas share one key: name its file as key_file, or give HOLDFAST_KEY"
            self._wrong(("store",), message)
        return None if "://" in store else Path(f"{store}.key")

    def _audit(self, store: str) -> Path | None:
        if self._model.audit is not None:
            return self._folder / self._model.audit
        return None if "://" in store else Path(f"{store}.audit")

    def _spool(self, store: str) -> Path | None:
        if self._model.spool is not None:
            return self._folder / self._model.spool
        if store == "memory://":
            return None
        if store.startswith(_SERVERS):
            beside = self._folder / (self._model.key_file or "policy")
            return beside.with_name("holdfast.spool")
        return Path(f"{store}.spool")

    def _credential(self, model: s.GatewayModel, here: Place) -> v.Credential | None:
        wanted = model.lookup_credential
        if wanted is None:
            return None
        place = (*here, "lookup_credential")
        if (wanted.env is None) == (wanted.file is None):
            self._wrong(place, "name exactly one of env and file")
            return None
        if wanted.file is not None:
            value, why = read_secret(self._folder / wanted.file)
            if why is not None:
                self._wrong((*place, "file"), why)
        else:
            value = self._environ.get(wanted.env or "")
            if not value:
                self._wrong(place, f"the environment variable {wanted.env} is not set")
        if value and not (value.isascii() and value.isprintable()):
            self._wrong(place, "the credential is not printable ASCII text")
        return v.Credential(wanted.header, value, wanted.sees_all) if value else None

    def _ca_file(self, model: s.GatewayModel, here: Place) -> Path | None:
        if model.tls.ca_file is None:
            return None
        path = self._folder / model.tls.ca_file
        try:
            ssl.create_default_context(cafile=path)
        except ssl.SSLError:
            self._wrong((*here, "tls", "ca_file"), "the file holds no certificate (PEM)")
        except OSError as error:
            self._wrong((*here, "tls", "ca_file"), f"cannot be read: {error.strerror}")
        except ValueError:
            self._wrong((*here, "tls", "ca_file"), "is not the name of a file")
        return path

    def _store(self) -> str:
        if self._model.store == "memory://":
            return self._model.store
        if self._model.store.startswith(_SERVERS):
            self._store_options(self._model.store)
            return self._with_password(self._model.store)
        # Three slashes would be a relative path with an empty host: sqlite:///x is x beside this
        # file, sqlite:////x is /x. Two slashes read the same as three.
        path = self._model.store.removeprefix("sqlite://").removeprefix("/")
        return str((self._folder / path).absolute())

    def _store_options(self, url: str) -> None:
        scheme, options = url.partition("://")[0], urlsplit(url).query
        known = _STORE_OPTIONS[scheme]
        for option in parse_qs(options, keep_blank_values=True):
            told = nearest(option, known, listed=scheme == "redis")
            if option not in known and told:
                self._wrong(("store",), f"there is no option {option!r}{told}")

    def _with_password(self, url: str) -> str:
        password = self._secret("HOLDFAST_STORE_PASSWORD")
        if password is None:
            return url
        scheme, _, rest = url.partition("://")
        user, at, where = rest.rpartition("@")
        return f"{scheme}://{user}:{quote(password, safe='')}@{where if at else rest}"

    def _wrong(self, place: Place, message: str) -> None:
        self._document.mistakes.append(self._document.mistake(place, message))


# --- profiles -----------------------------------------------------------------------------------


def build_profile(
    name: str, model: s.ProfileFile, parameters: Mapping[str, str] = MappingProxyType({})
) -> facts.GatewayProfile:
    """A profile file as the value the flow uses. `parameters` are put into its look-ups."""
    promise = model.idempotency
    return facts.GatewayProfile(
        name=name,
        gateway_class=promise.gateway_class,
        key=_key(promise.key),
        resend_horizon=promise.resend_horizon or promise.window * d.RESEND_HORIZON_SHARE,
        credential_headers=tuple(name.lower() for name in model.credential_headers),
        rules=facts.rules_by_status([_rule(rule) for rule in model.results]),
        replayed=None if model.replayed is None else _answers(model.replayed),
        retry_hint=_hint(model.retry_hint),
        lookups={
            key: _lookup(key, _with(recipe, parameters), model)
            for key, recipe in model.lookups.items()
        },
        error_form=facts.ErrorForm(
            model.errors.body, (model.errors.types.caller, model.errors.types.gateway)
        ),
        refusal_forms={
            code: facts.RefusalForm(form.status, form.error_type)
            for code, form in model.errors.refusals.items()
        },
        final_answer_headers=tuple((h.header, h.value) for h in model.errors.headers),
        replay_headers=_REPLAYED | {name.lower() for name in model.replay_headers},
        resend_lost_answers=promise.resend_lost_answers,
        max_processing_time=model.max_processing_time,
    )


def _promising(profile: facts.GatewayProfile, promise: s.IdempotencyModel) -> facts.GatewayProfile:
    """The profile with what the gateway promises for a repeated key."""
    return replace(
        profile,
        gateway_class=promise.gateway_class,
        key=_key(promise.key),
        resend_horizon=promise.resend_horizon or promise.window * d.RESEND_HORIZON_SHARE,
        resend_lost_answers=promise.resend_lost_answers,
    )


def _key(model: s.KeyModel) -> KeyPlace:
    path = None if model.json_path is None else parse_json_path(model.json_path)
    places = {
        Carrier.HEADER: model.header,
        Carrier.JSON: model.json_path,
        Carrier.FORM: model.form,
    }
    carrier = next((c for c, name in places.items() if name is not None), Carrier.NOWHERE)
    return KeyPlace(
        carrier,
        places.get(carrier) or "",
        path,
        re.compile(f"[{model.characters}]+"),
        model.min_length,
        model.max_length,
        model.put_in,
    )


_RESTS_ON_A_KEY = frozenset(facts.GatewayClass) - {
    facts.GatewayClass.B_LOOKUP,
    facts.GatewayClass.D_NONE,
}


def _promise_mistakes(promise: s.IdempotencyModel) -> Iterator[tuple[str, str]]:
    """What is wrong with a promise, by its field."""
    if promise.resend_horizon is not None and promise.resend_horizon > promise.window:
        yield (
            "resend_horizon",
            "is longer than the gateway keeps a key; a repeat after that is a new charge",
        )
    if promise.resend_lost_answers and promise.gateway_class is not facts.GatewayClass.A_WEAK:
        yield "resend_lost_answers", "is only meant for class A_weak"
    key = promise.key
    if key.nowhere and promise.gateway_class in _RESTS_ON_A_KEY:
        yield "key", f"class {promise.gateway_class} is a promise about keys, and there is none"
    elif key.put_in and key.json_path is not None and parse_json_path(key.json_path).key is None:
        yield "key", "is put in only at the top of the body; write put_in: false"


def check_profile(  # noqa: C901 -- a list of checks
    model: s.ProfileFile, document: Document
) -> None:
    """The checks between a profile's fields; mistakes go into its document."""

    def wrong(place: Place, message: str) -> None:
        document.mistakes.append(document.mistake(place, message))

    for key, why in _promise_mistakes(model.idempotency):
        wrong(("idempotency", key), why)
    known = sorted(refusal.code for refusal in Refusal)
    for code in model.errors.refusals:
        if code not in known:
            wrong(("errors", "refusals", code), f"there is no such refusal{nearest(code, known)}")
    seen: set[str] = set()
    for number, route in enumerate(model.routes):
        if route.lookup is not None and route.lookup not in model.lookups:
            message = (
                f"there is no look-up {route.lookup!r}{nearest(route.lookup, [*model.lookups])}"
            )
            wrong(("routes", number, "lookup"), message)
        if route.name in seen:
            wrong(("routes", number, "name"), f"two routes are named {route.name!r}")
        seen.add(route.name)
    for name, recipe in model.lookups.items():
        filled = _with(recipe, dict.fromkeys(model.parameters, "x"))
        for place, why in _recipe_mistakes(filled, model.max_processing_time):
            wrong(("lookups", name, *place), why)


_PLACEHOLDER = re.compile(r"\{[^{}\"]+\}")
_NAMES = ["{gateway_key}", "{order}", "{amount}"]
_SLOTS = {
    "find": [*_NAMES, "{since}", "{until}"],
    "find_body": _NAMES,
    "read": ["{id}"],
    "match": _NAMES,
    "target": ["{gateway_key}"],
    "body": ["{gateway_key}"],
}
# Without a list to find it in, the payment is read by a name that it has from the start.
_READ_AT_ONCE = ["{gateway_key}", "{order}"]
_OF_A_LIST = ("items", "match", "id")


def _recipe_mistakes(recipe: s.LookupModel, processing: float) -> Iterator[tuple[Place, str]]:
    """What is wrong with a look-up, by place."""
    if recipe.read is None and (recipe.cancel is None or recipe.find is not None):
        yield ("read",), "is missing"
    if recipe.find is not None:
        yield from _list_mistakes(recipe, recipe.find)
    else:
        for key in (*_OF_A_LIST, "page"):
            if key in recipe.model_fields_set:
                yield (key,), "belongs to a list, and there is no find"
    if recipe.read is not None:
        at_once = recipe.find is None
        slots = _READ_AT_ONCE if at_once else _SLOTS["read"]
        yield from _text_mistakes(("read",), recipe.read, slots, path=True)
        if not any(slot in recipe.read for slot in slots):
            named = " or ".join(slots)
            why = f"must say where {named} goes, or it reads the same thing for every payment"
            yield ("read",), why
    yield from _absence_mistakes(recipe, processing)
    if recipe.cancel is not None:
        yield from _void_mistakes(recipe.cancel)


def _void_mistakes(void: s.VoidModel) -> Iterator[tuple[Place, str]]:
    yield from _text_mistakes(("cancel", "target"), void.target, _SLOTS["target"], path=True)
    yield from _text_mistakes(("cancel", "body"), void.body, _SLOTS["body"])
    if "{gateway_key}" not in void.target + void.body:
        yield ("cancel", "body"), "must name {gateway_key}, or it voids someone else's payment"


def _list_mistakes(recipe: s.LookupModel, find: str) -> Iterator[tuple[Place, str]]:
    yield from (((key,), "is missing") for key in _OF_A_LIST if not getattr(recipe, key))
    yield from _text_mistakes(("find",), find, _SLOTS["find"], path=True)
    for index, match in enumerate(recipe.match):
        if (match.value is None) == (match.is_one_of is None):
            yield ("match", index), "needs exactly one of value and in"
    values = "".join(match.value or "" for match in recipe.match)
    yield from _text_mistakes(("match",), values, _SLOTS["match"])
    yield from _text_mistakes(("find_body",), recipe.find_body or "", _SLOTS["find_body"])
    if not any(slot in find + (recipe.find_body or "") + values for slot in _READ_AT_ONCE):
        why = "must compare something with {gateway_key} or {order}"
        yield ("match",), f"{why}, or it finds someone else's payment"


def _text_mistakes(
    place: Place, text: str, slots: list[str], *, path: bool = False
) -> Iterator[tuple[Place, str]]:
    if path and not text.startswith("/"):
        yield place, "write the path to ask for, starting with '/'"
    for slot in _PLACEHOLDER.findall(text):
        if slot not in slots:
            yield place, f"nothing is known for {slot}{nearest(slot, slots)}"


def _absence_mistakes(recipe: s.LookupModel, processing: float) -> Iterator[tuple[Place, str]]:
    absence = recipe.not_found_proves
    if absence is None:
        return
    here: Place = ("not_found_proves",)
    if absence.after < processing:
        longest = f"max_processing_time ({s.written_duration(processing)})"
        yield (*here, "after"), f"is shorter than {longest}; the gateway may take as long"
    if recipe.find is None and absence.when is None:
        yield here, "must say by `when` which answer means that there is no such payment"
    if recipe.find is not None and absence.when is not None:
        yield (*here, "when"), "is for a payment that is read at once; a list is empty by itself"
    if recipe.find is not None and not (recipe.items or "").endswith("[*]"):
        yield ("items",), "must end in [*], so that an empty list can be told from none"


def _rule(model: s.RuleModel) -> facts.Rule:
    return _rule_when(model.when, model.result)


def _rule_when(when: s.WhenModel, verdict: facts.Verdict) -> facts.Rule:
    json = tuple(_body_test(test, BodyKind.JSON) for test in when.json_tests)
    form = tuple(_body_test(test, BodyKind.FORM) for test in when.form)
    xml = tuple(_body_test(test, BodyKind.XML) for test in when.xml)
    headers = tuple(when.header.items())
    return facts.Rule(tuple(when.status), headers, json, verdict, (*form, *xml))


def _body_test(test: s.BodyTestModel, kind: BodyKind) -> facts.BodyTest:
    values = None if test.is_one_of is None else frozenset(test.is_one_of)
    return facts.BodyTest(parse_json_path(test.path), values, test.present, kind)


def _with(recipe: s.LookupModel, parameters: Mapping[str, str]) -> s.LookupModel:
    """A look-up with the policy's parameters in its texts."""

    def filled(text: str) -> str:
        for name, value in parameters.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    texts = {"find": recipe.find, "find_body": recipe.find_body, "read": recipe.read}
    changes: dict[str, object] = {name: filled(text) for name, text in texts.items() if text}
    if (void := recipe.cancel) is not None:
        own = {"target": filled(void.target), "body": filled(void.body)}
        changes["cancel"] = void.model_copy(update=own)
    return recipe.model_copy(update=changes)


def _lookup(name: str, model: s.LookupModel, profile: s.ProfileFile) -> facts.LookupRecipe:
    return facts.LookupRecipe(
        name=name,
        find=_list(model),
        read_target=model.read,
        absence=_absence(model.not_found_proves),
        void=_void(model.cancel, profile.max_processing_time),
    )


def _list(model: s.LookupModel) -> facts.ListRecipe | None:
    if model.find is None or model.items is None or model.id is None:
        return None
    page = model.page
    return facts.ListRecipe(
        target=model.find,
        items=parse_json_path(model.items),
        match=tuple((parse_json_path(m.path), m.value) for m in model.match if m.value is not None),
        among=tuple(
            (parse_json_path(m.path), tuple(m.is_one_of or ()))
            for m in model.match
            if m.is_one_of is not None
        ),
        id=parse_json_path(model.id),
        cursor=None if page is None else parse_json_path(page.cursor),
        cursor_parameter=None if page is None else page.parameter,
        more=None if page is None else parse_json_path(page.more),
        max_pages=1 if page is None else page.max_pages,
        body=model.find_body,
    )


def _absence(model: s.AbsenceModel | None) -> facts.Absence | None:
    if model is None:
        return None
    says_so = None if model.when is None else _answers(model.when)
    return facts.Absence(model.after, model.confirmations, says_so)


def _void(model: s.VoidModel | None, processing: float) -> facts.VoidRecipe | None:
    if model is None:
        return None
    after = processing if model.after is None else model.after
    return facts.VoidRecipe(model.target, model.body, _answers(model.proves), after)


def _answers(when: s.WhenModel) -> facts.RulesByStatus:
    """The answers that fulfil these conditions."""
    return facts.rules_by_status([_rule_when(when, facts.Verdict.NOT_EXECUTED)])


def _hint(model: s.HintModel | None) -> facts.RetryHint | None:
    if model is None:
        return None
    return facts.RetryHint(model.header.lower(), frozenset(model.retry), frozenset(model.stop))


def _body_field(model: s.BodyFieldModel | None) -> core.BodyField | None:
    return None if model is None else core.BodyField(model.json_path, model.form, model.xml)


def _clash(one: v.Address, other: v.Address) -> bool:
    """Whether two listeners want the same place; port 0 is any free one."""
    if one.port != other.port or one.port == 0:
        return False
    hosts = {"127.0.0.1" if host == "localhost" else host for host in (one.host, other.host)}
    v6 = {":" in host for host in hosts}
    return len(hosts) == 1 or (len(v6) == 1 and bool(hosts & {"0.0.0.0", "::"}))  # noqa: S104 -- compared, not listened on


def _address_of(origin: str) -> v.Address:
    """Where an origin like https://api.example.com is reached."""
    parts = urlsplit(origin)
    return v.Address(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


def _address(text: str) -> v.Address:
    host, _, port = text.rpartition(":")
    return v.Address(host.strip("[]"), int(port))

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
from typing import TypeVar
from urllib.parse import parse_qs, quote, urlsplit

from pydantic import BaseModel

from proxy.core import policy as core
from proxy.core import profile as facts
from proxy.core.routing import RouteTable, route_table
from proxy.settings import defaults as d
from proxy.settings import schema as s
from proxy.settings import values as v
from proxy.settings.facts import build_profile, check_profile, promise_mistakes, promising, rules_of
from proxy.settings.profiles import Profiles, nearest
from proxy.settings.retries import Layer, retry_mistakes, risk_mistakes
from proxy.settings.routes import route_mistakes
from proxy.settings.secret_files import read_secret, secret_from
from proxy.settings.texts import written_duration
from proxy.settings.webhooks import webhook_mistakes
from proxy.settings.yaml_lines import Document, Mistake
from proxy.settings.yaml_lines import Path as Place

M = TypeVar("M", bound=BaseModel)

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
        self.named_profiles: dict[str, tuple[s.ProfileFile, Document]] = {}  # that the policy names
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
                f"keep_for ({written_duration(session.keep_for)}) is shorter than replay_for "
                f"({written_duration(session.replay_for)})"
            )
            self._wrong(("session", wrote), message)
        if any(gateway is None for gateway in gateways.values()):
            return None
        built = [gateway for gateway in gateways.values() if gateway is not None]
        self._check_defaults_breaker(built)
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
        profile = promising(profile, promise)
        self._check_retries(name, profile, routes, of_routes)
        defaults = self._model.defaults
        limits = self._limits(model, profile_file, s.OperationModel())
        self._check_limits(model, routes, here)
        return v.Gateway(
            name=name,
            listen=_address(model.listen),
            upstream=model.upstream,
            profile=profile,
            routes=routes,
            of_routes=of_routes,
            budget=core.BudgetPolicy(**merged(defaults.budget, model.budget).model_dump()),
            breaker=limits.breaker,
            concurrency=limits.concurrency,
            operations={
                operation: self._limits(model, profile_file, own)
                for operation, own in model.operations.items()
            },
            lookup_credential=self._credential(model, here),
            ca_file=self._ca_file(model, here),
            webhook=self._webhook(model.webhook, profile_file.webhooks, (*here, "webhook")),
        )

    def _limits(
        self,
        model: s.GatewayModel,
        profile_file: s.ProfileFile,
        own: s.OperationModel,
    ) -> core.Limits:
        """Of everything at a gateway, or of an operation that has its own."""
        defaults = self._model.defaults
        places = merged(defaults.concurrency, model.concurrency, own.concurrency)
        breaker = merged(defaults.breaker, model.breaker, own.breaker)
        probe = breaker.probe or profile_file.probe
        return core.Limits(
            core.ConcurrencyPolicy(**places.model_dump()),
            core.BreakerPolicy(**{**breaker.model_dump(), "probe": probe}),
        )

    def _check_limits(self, model: s.GatewayModel, routes: RouteTable, here: Place) -> None:
        """That every limit that is written can come into force."""
        every = [*(route for _, route in routes.routes), routes.read, routes.other]
        known = sorted({route.operation for route in every if route.durable})
        for operation in model.operations:
            if operation not in known:
                message = f"no durable route here has this operation{nearest(operation, known)}"
                self._wrong((*here, "operations", operation), message)
        longest = _longest_attempt(routes)
        breaker = merged(self._model.defaults.breaker, model.breaker)
        self._check_slow((*here, "breaker"), model.breaker, breaker.slow_call, longest)
        for operation, own in model.operations.items():
            slow_call = merged(breaker, own.breaker).slow_call
            place = (*here, "operations", operation, "breaker")
            self._check_slow(place, own.breaker, slow_call, longest)

    def _check_defaults_breaker(self, gateways: list[v.Gateway]) -> None:
        """What is slow by default has to be so at one gateway at least."""
        here, wrote = ("defaults", "breaker"), self._model.defaults.breaker
        used = [limits.breaker.slow_call for g in gateways for limits in g.limits.values()]
        slow_call = wrote.slow_call or next(filter(None, used), None)
        longest = max((_longest_attempt(g.routes) for g in gateways), default=0.0)
        self._check_slow(here, wrote, slow_call, longest)

    def _check_slow(
        self,
        place: Place,
        wrote: s.BreakerModel | None,
        slow_call: float | None,
        longest: float,
    ) -> None:
        fields = set() if wrote is None else wrote.model_fields_set
        if "slow_ratio" in fields and slow_call is None:
            self._wrong((*place, "slow_ratio"), "means nothing without slow_call")
        if "slow_call" in fields and slow_call is not None and slow_call > longest:
            message = f"is longer than any attempt may take ({written_duration(longest)})"
            self._wrong((*place, "slow_call"), f"{message}, so no call would be slow")

    def _profile(self, name: str) -> s.ProfileFile | None:
        if name not in self._profiles.names():  # said by load.check_profile_names
            return None
        profile, document = self._profiles.load(name)
        if profile is not None:
            check_profile(profile, document)
            self.named_profiles[name] = (profile, document)
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
        for key, why in promise_mistakes(promise):
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
        of_routes, in_file = {}, [*enumerate(profile_file.routes)]
        for place, route in models:
            if route.idempotency.model_fields_set or route.results:
                own = self._promise(promise, route.idempotency, place)
                number = next((n for n, one in in_file if one is route), None)
                written: Place = () if number is None else ("routes", number, "results")
                rules = rules_of(route.results, written) + rules_of(
                    profile_file.results, ("results",)
                )
                of_routes[route.name] = replace(
                    promising(profile, own), rules=facts.rules_by_status(rules)
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
        hold = [merged(of_profile.get(route.name, route), route) for route in model.routes]
        for at, why in route_mistakes(model.routes, hold):
            self._wrong((*here, "routes", *at), why)
        for number, inherited in enumerate(hold):
            place = (*here, "routes", number)
            if inherited.lookup is not None and inherited.lookup not in profile_file.lookups:
                known = nearest(inherited.lookup, [*profile_file.lookups])
                message = f"the profile has no look-up {inherited.lookup!r}{known}"
                self._wrong((*place, "lookup"), message)
            yield place, inherited
        written = {route.name for route in model.routes}
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
                on=None if retry.on is None else tuple(retry.on),
                may_charge_twice=retry.risk is not None,
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
                f"is not longer than the default of timeouts.total ({written_duration(total)})"
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
        waits = {
            name
            for layer in here
            if isinstance(layer, s.RetryModel)
            for name in layer.backoff.model_fields_set
        }
        if "attempt" in fields and timeouts.attempt > timeouts.total:
            total = written_duration(timeouts.total)
            message = f"is longer than total ({total}), so it would never apply"
            self._wrong((*place, "timeouts", "attempt"), message)
        backoff = retry.backoff
        if "initial" in waits and backoff.initial > backoff.max:
            message = f"is longer than max ({written_duration(backoff.max)})"
            self._wrong((*place, "retry", "backoff", "initial"), message)
        if "total" in fields and timeouts.total >= self._model.session.expires_after:
            expiry = written_duration(self._model.session.expires_after)
            message = f"is not shorter than session.expires_after ({expiry})"
            self._wrong((*place, "timeouts", "total"), message)
        automatic = retry.automatic_attempts or retry.max_attempts
        if "automatic_attempts" in fields and automatic > retry.max_attempts:
            message = f"is more than max_attempts ({retry.max_attempts})"
            self._wrong((*place, "retry", "automatic_attempts"), message)

    def _check_retries(
        self,
        name: str,
        profile: facts.GatewayProfile,
        table: RouteTable,
        of_routes: Mapping[str, facts.GatewayProfile],
    ) -> None:
        """What a route repeats by itself must not charge twice, wherever that is written."""
        model, here = self._model.gateways[name], ("gateways", name)
        facts_file, document = self.named_profiles[model.profile]
        around = [
            Layer(self._document, here, model.retry),
            Layer(self._document, ("defaults",), self._model.defaults.retry),
        ]
        of_profile = {
            route.name: Layer(document, ("routes", number), route.retry)
            for number, route in enumerate(facts_file.routes)
        }
        own: dict[str, Layer] = {}
        for number, route in enumerate(model.routes):
            own[route.name] = Layer(self._document, (*here, "routes", number), route.retry)
            if route.retry is None and "retry" in route.model_fields_set:  # takes it back
                of_profile.pop(route.name, None)
        mistakes = self._document.mistakes
        mistakes += risk_mistakes([*of_profile.values(), *around])
        for _, resolved in table.routes:
            nowhere = Layer(self._document, here, None)
            between = of_profile.get(resolved.name, nowhere)
            layers = [own.get(resolved.name, nowhere), between, *around]
            known = of_routes.get(resolved.name, profile)
            mistakes += retry_mistakes(name, resolved, known, layers)

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
        for place, url in self._ways_out():
            there = _address_of(url)
            for other, taken in seen:
                # Only where it is certain: a wildcard says nothing about other machines' names.
                if (there.loopback or there.host == taken.host) and _clash(there, taken):
                    own = ".".join(map(str, other))
                    self._wrong(place, f"{url} is {own} ({taken}), Holdfast itself")
                    break

    def _ways_out(self) -> Iterator[tuple[Place, str]]:
        for name, gateway in self._model.gateways.items():
            yield ("gateways", name, "upstream"), gateway.upstream
            if gateway.webhook is not None and gateway.webhook.forward_to is not None:
                yield ("gateways", name, "webhook", "forward_to"), gateway.webhook.forward_to

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
                self._wrong(place, _not_set(wanted.env))
        if value and not (value.isascii() and value.isprintable()):
            self._wrong(place, "the credential is not printable ASCII text")
        return v.Credential(wanted.header, value, wanted.sees_all) if value else None

    def _webhook(
        self, model: s.WebhookModel | None, spoken: s.WebhooksModel | None, here: Place
    ) -> core.WebhookPolicy:
        if model is None:
            return core.WebhookPolicy()
        if spoken is None:
            self._wrong(here, "the profile does not say how this gateway's webhooks are read")
            return core.WebhookPolicy()
        secret = None
        if model.secret is not None:
            secret = self._webhook_secret(model.secret, (*here, "secret"))
        for key, message in webhook_mistakes(model, spoken, secret):
            self._wrong((*here, key), message)
        return core.WebhookPolicy(secret, model.url, model.forward_to)

    def _webhook_secret(self, model: s.SecretModel, place: Place) -> str | None:
        if (model.env is None) == (model.file is None):
            self._wrong(place, "name exactly one of env and file")
            return None
        if model.file is not None:
            value, why = read_secret(self._folder / model.file)
            if why is not None:
                self._wrong((*place, "file"), why)
            return value
        value = self._environ.get(model.env or "") or None
        if value is None:
            self._wrong(place, _not_set(model.env))
        return value

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


def _body_field(model: s.BodyFieldModel | None) -> core.BodyField | None:
    return None if model is None else core.BodyField(model.json_path, model.form, model.xml)


def _longest_attempt(routes: RouteTable) -> float:
    every = [*(route for _, route in routes.routes), routes.read, routes.other]
    return max(route.timeouts.attempt for route in every)


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


def _not_set(env: str | None) -> str:
    """Names a variable that looks like one; anything else may be the secret itself."""
    name = env if env and env.isupper() else "that `env` names"
    return f"the environment variable {name} is not set"

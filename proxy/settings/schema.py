"""What may be written in a policy file and in a gateway profile. Unknown keys are refused."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from proxy.core.jsonpath import parse_json_path
from proxy.core.policy import NewKey, OrderLock, SessionKind
from proxy.core.profile import GatewayClass, Verdict
from proxy.core.routing import compile_template
from proxy.settings import defaults as d

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"([0-9]{1,9})(KiB|MiB)")
_SIZE_UNITS = {"KiB": 1024, "MiB": 1024 * 1024}
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_METHOD = re.compile(r"[A-Z]{1,20}")
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
_LISTEN = re.compile(rf"{_HOST}:([0-9]{{1,5}})")
_ORIGIN = re.compile(rf"https?://{_HOST}(?::([0-9]{{1,5}}))?")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_LAST_PORT = 65535
# What others call a store that is known here.
_OTHER_SCHEMES = {
    "postgres": "write the scheme out: postgresql://…",
    "rediss": "write redis://…, and put a tunnel between: TLS is not spoken to this store",
    "valkey": "a Valkey server is named like a Redis server: redis://…",
}
# Ten years. More is a slip of the pen, and would not fit the store's milliseconds for ever.
_LONGEST = 3650 * 86400.0


def parse_duration(value: object) -> object:
    """`200ms`, `2s`, `15m`, `24h`, `35d` → seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match:
            seconds = float(match.group(1)) * _UNITS[match.group(2)]
            if seconds > _LONGEST:
                message = "is longer than ten years (3650d)"
                raise ValueError(message)
            return seconds
    message = "write a duration with its unit: 200ms, 2s, 15m, 24h or 35d"
    raise ValueError(message)


def written_duration(seconds: float) -> str:
    """Seconds as they are written in the file, in the largest unit that is whole."""
    for unit, size in reversed(_UNITS.items()):
        if seconds >= size and round(seconds / size, 6) % 1 == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def parse_size(value: object) -> object:
    """`64KiB`, `1MiB` → bytes."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match:
            return int(match.group(1)) * _SIZE_UNITS[match.group(2)]
    message = "write a size with its unit: 64KiB or 1MiB"
    raise ValueError(message)


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        message = f"{value!r} is not a name: up to 63 lower-case letters, digits and '-'"
        raise ValueError(message)
    return value


def _method(value: str) -> str:
    if not _METHOD.fullmatch(value):
        message = f"{value!r} is not a method: write it in capitals, like POST"
        raise ValueError(message)
    return value


def _template(value: str) -> str:
    compile_template(value)
    return value


def _json_path(value: str) -> str:
    parse_json_path(value)
    return value


def _status(value: object) -> tuple[int, int]:
    """`402`, `4xx` or `500-599` → an inclusive range."""
    text = str(value)
    if re.fullmatch(r"[1-5]xx", text):
        low = int(text[0]) * 100
        return low, low + 99
    match = re.fullmatch(r"([1-5][0-9][0-9])(?:-([1-5][0-9][0-9]))?", text)
    if match is None or isinstance(value, bool):
        message = "write a status as 402, 4xx or 500-599"
        raise ValueError(message)
    return int(match.group(1)), int(match.group(2) or match.group(1))


def _header_name(value: str) -> str:
    if not _HEADER.fullmatch(value):
        message = f"{value!r} is not the name of a header"
        raise ValueError(message)
    return value


def _header_value(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        message = "a header's value is printable ASCII text"
        raise ValueError(message)
    return value


def _plain(value: object) -> object:
    if isinstance(value, str | int | float):
        return value
    message = "write text, a number, true or false"
    raise ValueError(message)


def _parameter(value: str) -> str:
    if not re.fullmatch("[A-Za-z0-9._-]{1,100}", value):
        message = f"{value!r} is not a parameter: up to 100 letters, digits, '.', '_' and '-'"
        raise ValueError(message)
    return value


def _characters(value: str) -> str:
    try:
        re.compile(f"[{value}]+")
    except re.error as error:
        message = "write the characters as between the brackets of a pattern, like A-Za-z0-9_-"
        raise ValueError(message) from error
    return value


def parse_listen(value: str) -> str:
    """`127.0.0.1:8080` or `[::1]:8080`, checked."""
    match = _LISTEN.fullmatch(value)
    if match is None or int(match.group(1)) > _LAST_PORT:
        message = "write an address to listen on as host:port, like 127.0.0.1:8080 or '[::1]:8080'"
        raise ValueError(message)
    return value


def _origin(value: str) -> str:
    match = _ORIGIN.fullmatch(value)
    if match is None or int(match.group(1) or 0) > _LAST_PORT:
        message = "write the gateway's origin, like https://api.example.com (no path, no user)"
        raise ValueError(message)
    return value


def _store(value: str) -> str:
    scheme = value.partition("://")[0]
    if scheme in _OTHER_SCHEMES:
        raise ValueError(_OTHER_SCHEMES[scheme])
    if value != "memory://" and not re.match(r"(sqlite|postgresql|redis)://.", value):
        message = "write a store as sqlite:///FILE, postgresql://…, redis://… or memory://"
        raise ValueError(message)
    if re.match(r"(postgresql|redis)://[^/@]*:[^/@]*@", value):
        message = "a password does not stand in the policy; give it as HOLDFAST_STORE_PASSWORD"
        raise ValueError(message)
    if value.startswith("sqlite://") and value.rpartition("/")[2] in {"", ".", ".."}:
        message = "name the store's file, like sqlite:///var/holdfast.db"
        raise ValueError(message)
    return value


Duration = Annotated[float, BeforeValidator(parse_duration)]
Positive = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
Name = Annotated[str, AfterValidator(_name)]
Method = Annotated[str, AfterValidator(_method)]
Template = Annotated[str, AfterValidator(_template)]
JsonPathText = Annotated[str, AfterValidator(_json_path)]
StatusRange = Annotated[tuple[int, int], BeforeValidator(_status)]
Listen = Annotated[str, AfterValidator(parse_listen)]
Origin = Annotated[str, AfterValidator(_origin)]
StoreUrl = Annotated[str, AfterValidator(_store)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]
Plain = Annotated[str | int | float | bool, BeforeValidator(_plain)]
# Goes into paths and bodies of look-ups as it is.
Parameter = Annotated[str, AfterValidator(_parameter)]
Ratio = Annotated[float, Field(ge=0, le=1)]


class Model(BaseModel):
    """The base: strict types, unknown keys refused, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# --- policies -----------------------------------------------------------------------------------


class TimeoutsModel(Model):
    """How long connecting, one attempt and everything together may take."""

    connect: Positive = d.CONNECT_TIMEOUT
    attempt: Positive = d.ATTEMPT_TIMEOUT
    total: Positive = d.TOTAL_TIMEOUT


class BackoffModel(Model):
    """The wait before a repeat: doubled each time from `initial`, never more than `max`."""

    initial: Duration = d.BACKOFF_INITIAL
    max: Positive = d.BACKOFF_MAX
    jitter: Literal["full", "none"] = "full"


class RetryModel(Model):
    """How often a session may be sent, and how often Holdfast does so by itself."""

    max_attempts: Annotated[int, Field(ge=1, le=50)] = d.MAX_ATTEMPTS
    automatic_attempts: Annotated[int, Field(ge=1, le=50)] | None = None
    backoff: BackoffModel = BackoffModel()
    respect_retry_after: bool = True


class BudgetModel(Model):
    """Retries as a share of requests."""

    ratio: Ratio = d.BUDGET_RATIO
    min_per_second: Annotated[float, Field(ge=0)] = d.BUDGET_MIN_PER_SECOND
    window: Positive = d.BUDGET_WINDOW


class BreakerModel(Model):
    """When a failing gateway is given a rest."""

    failure_ratio: Annotated[float, Field(gt=0, le=1)] = d.BREAKER_FAILURE_RATIO
    min_calls: Annotated[int, Field(ge=1)] = d.BREAKER_MIN_CALLS
    window: Positive = d.BREAKER_WINDOW
    open_for: Positive = d.BREAKER_OPEN_FOR


class ConcurrencyModel(Model):
    """How many payments are with the gateway at once."""

    max_in_flight: Annotated[int, Field(ge=1)] = d.MAX_IN_FLIGHT
    max_queue: Annotated[int, Field(ge=0)] = d.MAX_QUEUE
    queue_timeout: Duration = d.QUEUE_TIMEOUT


class BodyFieldModel(Model):
    """Where a value stands in a body."""

    json_path: JsonPathText | None = Field(default=None, alias="json")
    form: str | None = None
    xml: JsonPathText | None = None


class MatchModel(Model):
    """Which requests a route is for."""

    methods: Annotated[list[Method], Field(min_length=1)]
    path: Template


class KeyModel(Model):
    """Where the key of a payment goes; exactly one place. `put_in: false`: only the caller may."""

    header: HeaderName | None = None
    json_path: JsonPathText | None = Field(default=None, alias="json")
    form: str | None = None
    nowhere: bool = False
    characters: Annotated[str, AfterValidator(_characters)] = " -~"
    min_length: Annotated[int, Field(ge=1, le=32)] = 1
    max_length: Annotated[int, Field(ge=32, le=255)] = 255
    put_in: bool = True

    @model_validator(mode="after")
    def _one_place(self) -> KeyModel:
        places = [self.header, self.json_path, self.form, self.nowhere or None]
        if sum(place is not None for place in places) != 1:
            message = "say where it goes: exactly one of header, json, form and nowhere"
            raise ValueError(message)
        return self


class IdempotencyModel(Model):
    """What a gateway promises for a repeated key."""

    gateway_class: Annotated[GatewayClass, Field(strict=False)] = Field(alias="class")
    window: Positive
    resend_horizon: Positive | None = None
    resend_lost_answers: bool = False
    key: KeyModel = KeyModel(header="Idempotency-Key")


class IdempotencyOverride(Model):
    """What an operator knows better about a gateway, or is otherwise on one of its routes."""

    gateway_class: Annotated[GatewayClass | None, Field(strict=False)] = Field(
        default=None, alias="class"
    )
    window: Positive | None = None
    resend_horizon: Positive | None = None
    resend_lost_answers: bool | None = None
    key: KeyModel | None = None


class BodyTestModel(Model):
    """A condition on what stands in the answer's body."""

    path: JsonPathText
    is_one_of: list[Plain] | None = Field(default=None, alias="in")
    present: bool = True


class WhenModel(Model):
    """The conditions of a rule; all must hold."""

    status: Annotated[list[StatusRange], Field(min_length=1)]
    header: dict[HeaderName, str] = {}
    json_tests: list[BodyTestModel] = Field(default=[], alias="json")
    form: list[BodyTestModel] = []
    xml: list[BodyTestModel] = []


class RuleModel(Model):
    """How one kind of complete answer is read."""

    when: WhenModel
    result: Annotated[Verdict, Field(strict=False)]


class RouteModel(Model):
    """A route: of a profile (facts) or of a policy file (which may override all of it)."""

    name: Name
    match: MatchModel
    session: Annotated[SessionKind, Field(strict=False)] = SessionKind.EPHEMERAL
    operation: Name = "charge"
    order_lock: Annotated[OrderLock, Field(strict=False)] = OrderLock.NAMED
    new_key: Annotated[NewKey, Field(strict=False)] = NewKey.WARN
    order: BodyFieldModel | None = None
    amount: BodyFieldModel | None = None
    currency: BodyFieldModel | None = None
    lookup: Name | None = None
    idempotency: IdempotencyOverride = IdempotencyOverride()
    results: list[RuleModel] = []
    keep_request: bool = False
    timeouts: TimeoutsModel | None = None
    retry: RetryModel | None = None
    max_body: Size | None = None
    max_answer: Size | None = None


class CredentialModel(Model):
    """Where the credential for look-ups comes from; exactly one. Never the file itself."""

    env: str | None = None
    file: str | None = None
    header: HeaderName = "Authorization"
    sees_all: bool = False


class TlsModel(Model):
    """How the gateway's certificate is checked. It always is."""

    ca_file: str | None = None


class GatewayModel(Model):
    """One gateway and its listener."""

    profile: str = "generic"
    listen: Listen
    upstream: Origin
    parameters: dict[Name, Parameter] = {}
    idempotency: IdempotencyOverride = IdempotencyOverride()
    routes: list[RouteModel] = []
    lookup_credential: CredentialModel | None = None
    tls: TlsModel = TlsModel()
    timeouts: TimeoutsModel | None = None
    retry: RetryModel | None = None
    budget: BudgetModel | None = None
    breaker: BreakerModel | None = None
    concurrency: ConcurrencyModel | None = None


class DefaultsModel(Model):
    """What holds for every gateway and route that does not say otherwise."""

    timeouts: TimeoutsModel = TimeoutsModel()
    retry: RetryModel = RetryModel()
    budget: BudgetModel = BudgetModel()
    breaker: BreakerModel = BreakerModel()
    concurrency: ConcurrencyModel = ConcurrencyModel()
    max_body: Size = d.MAX_BODY_BYTES
    max_answer: Size = d.MAX_ANSWER_BYTES


class SessionModel(Model):
    """How long sessions live."""

    expires_after: Positive = d.EXPIRES_AFTER
    cleanup_every: Positive = d.CLEANUP_EVERY
    replay_for: Positive = d.REPLAY_FOR
    keep_for: Positive = d.KEEP_FOR
    duplicate_wait: Duration = d.DUPLICATE_WAIT
    lease: Positive = d.LEASE


class ListenModel(Model):
    """Holdfast's own listeners."""

    sessions: Listen = d.SESSIONS_LISTEN
    admin: Listen = d.ADMIN_LISTEN


class ShutdownModel(Model):
    """How Holdfast stops: stay reachable while not ready, then let payments finish."""

    ready_delay: Duration = 0.0
    drain: Duration = d.DRAIN_TIMEOUT


class PolicyFile(Model):
    """A whole policy file."""

    listen: ListenModel = ListenModel()
    store: StoreUrl = d.STORE
    key_file: str | None = None
    audit: str | None = None
    spool: str | None = None
    # At least one; the resolver says so, so that a file without it is still looked through.
    gateways: dict[Name, GatewayModel] = {}
    defaults: DefaultsModel = DefaultsModel()
    session: SessionModel = SessionModel()
    shutdown: ShutdownModel = ShutdownModel()


# --- gateway profiles ---------------------------------------------------------------------------


class HintModel(Model):
    """The gateway's own word on retrying."""

    header: HeaderName
    retry: list[str]
    stop: list[str]


class HeaderModel(Model):
    """A header with a value."""

    header: HeaderName
    value: HeaderValue


class LookupMatchModel(Model):
    """What the wanted item looks like."""

    path: JsonPathText
    value: str | None = None
    is_one_of: list[str] | None = Field(default=None, alias="in")


class LookupPageModel(Model):
    """How to ask for the next page."""

    more: JsonPathText
    cursor: JsonPathText
    parameter: str
    max_pages: Annotated[int, Field(ge=1, le=100)] = 10


class AbsenceModel(Model):
    """When finding nothing proves that nothing was charged."""

    after: Positive
    confirmations: Annotated[int, Field(ge=2, le=5)] = 3
    when: WhenModel | None = None


class VoidModel(Model):
    """How whatever there is under a key is voided."""

    target: str
    body: str
    proves: WhenModel
    after: Duration | None = None  # the longest that the gateway may be at a request


class LookupModel(Model):
    """How to find out what became of a request."""

    find: str | None = None
    find_body: str | None = None
    items: JsonPathText | None = None
    match: list[LookupMatchModel] = []
    id: JsonPathText | None = None
    page: LookupPageModel | None = None
    read: str | None = None
    not_found_proves: AbsenceModel | None = None
    cancel: VoidModel | None = None


class RefusalFormModel(Model):
    """How one refusal looks to this gateway's SDK."""

    status: Annotated[int, Field(ge=400, le=599)] | None = None
    error_type: str | None = None


class ErrorTypesModel(Model):
    """What goes for `{type}`: for what the caller did wrong, and for everything else."""

    caller: str = ""
    gateway: str = ""


class ErrorsModel(Model):
    """What this gateway's SDK reads of an answer that Holdfast makes itself."""

    body: dict[str, Any] = {}
    types: ErrorTypesModel = ErrorTypesModel()
    refusals: dict[str, RefusalFormModel] = {}
    headers: list[HeaderModel] = []


class ProfileFile(Model):
    """A whole gateway profile. Each fact names its source in a comment of the file."""

    title: str
    idempotency: IdempotencyModel
    credential_headers: Annotated[list[HeaderName], Field(min_length=1)] = ["Authorization"]
    results: Annotated[list[RuleModel], Field(min_length=1)]
    replayed: WhenModel | None = None
    retry_hint: HintModel | None = None
    routes: list[RouteModel] = []
    timeouts: TimeoutsModel | None = None
    parameters: list[Name] = []
    lookups: dict[Name, LookupModel] = {}
    errors: ErrorsModel = ErrorsModel()
    max_processing_time: Positive = d.MAX_PROCESSING_TIME
    replay_headers: list[HeaderName] = []

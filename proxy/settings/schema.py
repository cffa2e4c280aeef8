"""What may be written in a policy file and in a gateway profile. Unknown keys are refused.

The text below a field is its place in the references and in the schema for editors; what stands
behind `Why:` is the reason for its default (json_schema.py reads both).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from proxy.core.documents import BodyKind
from proxy.core.policy import NewKey, OrderLock, SessionKind
from proxy.core.profile import GatewayClass, Verdict
from proxy.core.signatures import KeyForm
from proxy.core.webhooks import Says
from proxy.settings import defaults as d
from proxy.settings.texts import (
    Characters,
    Duration,
    HeaderName,
    HeaderValue,
    JsonPathText,
    LinkKey,
    Listen,
    Method,
    Name,
    Origin,
    Parameter,
    Plain,
    Positive,
    ProbePath,
    Ratio,
    RetryCondition,
    Size,
    StatusRange,
    StoreUrl,
    Template,
    Url,
)


def _exactly_one(**written: dict[str, Any]) -> ConfigDict:
    """That one of these keys is written, and only one."""
    each: Any = [{"required": [key], "properties": {key: how}} for key, how in written.items()]
    return ConfigDict(json_schema_extra={"oneOf": each})


_WRITTEN = {"type": "string"}


class Model(BaseModel):
    """The base: strict types, unknown keys refused, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# --- policies -----------------------------------------------------------------------------------


class TimeoutsModel(Model):
    """How long connecting, one attempt and everything together may take."""

    connect: Positive = d.CONNECT_TIMEOUT
    """How long TCP and TLS may take. Why: they take well under a second; what takes two is not
    coming.
    """
    attempt: Positive = d.ATTEMPT_TIMEOUT
    """How long one send may take, up to its whole answer. Never longer than `total`. Why: a
    third of the total, so that three fit; card authorisations rarely take longer than 8 s.
    """
    total: Positive = d.TOTAL_TIMEOUT
    """How long all sends and the waits between them may take together. Shorter than
    `session.expires_after`. Why: the requirement; it is also what a shopper waits for at most.
    """


class BackoffModel(Model):
    """The wait before a repeat: doubled each time from `initial`, never more than `max`."""

    initial: Duration = d.BACKOFF_INITIAL
    """The longest wait before the first repeat, doubled for each one after it. Why: below what
    a shopper notices, above a gateway's own hiccup.
    """
    max: Positive = d.BACKOFF_MAX
    """The longest wait, also when the gateway asks for more. Why: it still leaves room inside
    the total.
    """
    jitter: Literal["full", "none"] = "full"
    """`full`: a random share of the wait. `none`: the wait itself. Why: many sidecars that
    failed together do not return in step.
    """


class RetryModel(Model):
    """How often a session may be sent, how often Holdfast does so by itself, and after what."""

    max_attempts: Annotated[int, Field(ge=1, le=50)] = d.MAX_ATTEMPTS
    """How often one payment may be sent in all (1 to 50), by Holdfast and by whoever resumes
    it. Why: the requirement; at 15 % interruptions 3 sends fail together once in 300 payments.
    """
    automatic_attempts: Annotated[int, Field(ge=1, le=50)] | None = None
    """How many of `max_attempts` Holdfast spends by itself: all of them unless written. What is
    left is for `resume`. Never more than `max_attempts`; where only that is lowered, this comes
    down with it.
    """
    backoff: BackoffModel = BackoffModel()
    respect_retry_after: bool = True
    """Wait at least as long as the gateway's `Retry-After` asks, up to `backoff.max`. Why: the
    gateway knows best when it can be asked again.
    """
    on: Annotated[list[RetryCondition], Field(min_length=1)] | None = None
    """Which ends of an attempt Holdfast repeats by itself; without it, all that are safe. The
    nearest list counts as a whole, and `null` takes one back.
    """
    risk: Literal["may_charge_twice"] | None = None
    """`may_charge_twice`: of this route, also what is unsafe in its own `on` is repeated. Customers
    can be charged twice.
    """


class BudgetModel(Model):
    """Retries as a share of what is answered."""

    ratio: Ratio = d.BUDGET_RATIO
    """Retries as a share of the payments that the gateway answers. Why: 20 % and 10 per second are
    what Envoy, Linkerd and Finagle settled on; three tries for everybody would be three times the
    load on a gateway that is down.
    """
    min_per_second: Annotated[float, Field(ge=0)] = d.BUDGET_MIN_PER_SECOND
    """Retries that are free in each second. Where nothing is answered, they are all there are. Why:
    a quiet shop can retry too; of 5 requests in a minute a fifth is one.
    """
    window: Positive = d.BUDGET_WINDOW
    """How much is saved up: what `min_per_second` comes to in so long. Why: long enough to bridge a
    gap between customers, too short to save up a storm.
    """


class BreakerModel(Model):
    """When a failing or crawling gateway is given a rest, and what ends it."""

    failure_ratio: Annotated[float, Field(gt=0, le=1)] = d.BREAKER_FAILURE_RATIO
    """The share of failed sends at which the gateway is given a rest. Declines and rejections
    do not count. Why: at half, more is lost by asking than by waiting.
    """
    min_calls: Annotated[int, Field(ge=1)] = d.BREAKER_MIN_CALLS
    """Of at least so many sends in the window. Why: half of 20 failing is an outage, not bad
    luck; at 15 % faults the chance is below 1 in 10,000.
    """
    window: Positive = d.BREAKER_WINDOW
    """Over how long sends are counted. Why: as long as one payment may take, so that all sends
    of it are counted together.
    """
    open_for: Positive = d.BREAKER_OPEN_FOR
    """How long the gateway is left alone before it is probed. Why: long enough for a gateway to
    come back, short enough that a shopper who tries again within half a minute is served.
    """
    consecutive: Annotated[int, Field(ge=1)] | None = None
    """So many failures in a row open it too, however few calls there were. Off unless written: at
    15 % faults five in a row come once in 13,000 calls.
    """
    slow_call: Positive | None = None
    """A call that takes so long or longer counts as slow, whatever came of it. Off unless written.
    Not longer than every `timeouts.attempt`, or none would be.
    """
    slow_ratio: Annotated[float, Field(gt=0, le=1)] = d.BREAKER_SLOW_RATIO
    """The share of slow calls among `min_calls` in `window` that opens it. Why: as for failures.
    """
    probes: Annotated[int, Field(ge=1, le=20)] = d.BREAKER_PROBES
    """How many probes in a row have to be answered before payments are let through (1 to 20). Why:
    one answer may be luck.
    """
    probe: ProbePath | None = None
    """The path that is asked for; the profile's unless written (`/v1/balance` at Stripe, `/` where
    the profile names none).
    """


class ConcurrencyModel(Model):
    """How many payments are with the gateway at once."""

    max_in_flight: Annotated[int, Field(ge=1)] = d.MAX_IN_FLIGHT
    """Payments that are with the gateway at once. Why: an open payment holds two sockets and
    about 25 KB; 200 fit below the common limit of 1,024 files.
    """
    max_queue: Annotated[int, Field(ge=0)] = d.MAX_QUEUE
    """How many may wait for a place. Why: as many as there are places: each waits for one
    payment before it.
    """
    queue_timeout: Duration = d.QUEUE_TIMEOUT
    """How long they wait, before they are told that nothing was sent. Why: a usual payment
    takes about a second; a queue in which nobody moved for so long does not move.
    """


class OperationModel(Model):
    """Limits of its own for one operation of a gateway."""

    breaker: BreakerModel | None = None
    """As `defaults.breaker`; what is not written is the gateway's."""
    concurrency: ConcurrencyModel | None = None
    """As `defaults.concurrency`, in the same way."""


class BodyFieldModel(Model):
    """Where a value stands in a body."""

    json_path: JsonPathText | None = Field(default=None, alias="json")
    """In a JSON body: `order_id`, `metadata.order_id`, `items[0].id`."""
    form: str | None = None
    """In a form: the field's name, like `metadata[order_id]`."""
    xml: JsonPathText | None = None
    """In XML: the names of its elements, like `transaction.order-id`; where there is none,
    `transaction.order_id` is tried.
    """


class MatchModel(Model):
    """Which requests a route is for."""

    methods: Annotated[list[Method], Field(min_length=1)]
    """Methods in capitals: `[POST]`."""
    path: Template
    """A path, where `{anything}` stands for one segment and `**` for the rest."""


class KeyModel(Model):
    """Where the key of a payment goes; exactly one place. `put_in: false`: only the caller may."""

    model_config = _exactly_one(
        header=_WRITTEN, json=_WRITTEN, form=_WRITTEN, nowhere={"const": True}
    )

    header: HeaderName | None = None
    """A request header: `Idempotency-Key` unless something else is written."""
    json_path: JsonPathText | None = Field(default=None, alias="json")
    """A place in the JSON of the request. Holdfast puts its own only at the top:
    `idempotency_key`, not `payment.key`.
    """
    form: str | None = None
    """A field of the request's form. In a body, Holdfast puts its own only where `Content-Type`
    says that it is such a body.
    """
    nowhere: bool = False
    """`true`: there is no key. Then the class can only be `B_lookup` or `D_none`. Why: nearly
    every gateway takes one.
    """
    characters: Characters = " -~"
    """What it may be made of, as between the brackets of a pattern: `A-Za-z0-9_-`. Why:
    printable ASCII, as a header takes; what a gateway narrows is said in its profile.
    """
    min_length: Annotated[int, Field(ge=1, le=32)] = 1
    """The shortest key the gateway takes (1 to 32). Holdfast's own have 32 characters,
    `0-9a-f`. Why: few gateways ask for more than one character.
    """
    max_length: Annotated[int, Field(ge=32, le=255)] = 255
    """The longest (32 to 255). A key of the caller's that the gateway would not take is
    refused, never rewritten. Why: what Stripe takes, and most others; none is known to take
    more.
    """
    put_in: bool = True
    """`false`: only the caller may name a key, since requests are signed or the key is a name
    of the merchant's own. A request without one is then sent once: nothing the gateway promises
    for keys holds for it. Why: a payment without a key cannot be sent again after a lost
    answer.
    """

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
    """`A_strong`: the key is honoured whatever the first answer was, so an unknown outcome may
    be sent again. `A_weak`: the key is forgotten after an error. `B_lookup`: no useful key, but
    a payment can be looked up. `C_cancel_by_key`: a payment can be voided by its key. `D_none`:
    nothing; never sent again once a byte may have arrived. What may follow a lost answer is
    [below](../../proxy/gateways/README.md#what-follows-a-lost-answer).
    """
    window: Positive
    """How long the gateway keeps a key. Afterwards the same key is a new charge."""
    resend_horizon: Positive | None = None
    """How long after the first send a repeat may still be made; without it, three quarters of
    `window`, since clocks differ and retries take time. Never longer than `window`.
    """
    resend_lost_answers: bool = False
    """Of class `A_weak` only: a request of which no answer at all was seen may be sent again
    under its key when it is brought again, once a look-up has been in vain. The risk that
    stays: an error that the gateway answered, and whose answer was lost, is executed a second
    time. Why: being wrong about it charges twice.
    """
    key: KeyModel = KeyModel(header="Idempotency-Key")
    """Where the key goes; exactly one of the next four. The caller's own key is never touched."""


class IdempotencyOverride(Model):
    """What an operator knows better about a gateway, or is otherwise on one of its routes."""

    gateway_class: Annotated[GatewayClass | None, Field(strict=False)] = Field(
        default=None, alias="class"
    )
    """What you know better than the profile of what the gateway promises for a repeated key:
    `A_strong`, `A_weak`, `B_lookup`, `C_cancel_by_key`, `D_none`. Only `A_strong` lets Holdfast
    send again after a lost answer. A promise the gateway does not make charges customers twice.
    """
    window: Positive | None = None
    """How long the gateway keeps a key; the profile's unless written."""
    resend_horizon: Positive | None = None
    """How long after the first send a repeat may be made; three quarters of a `window` written
    here, else the profile's. Never longer than the window: after it, the same key is a new
    charge.
    """
    resend_lost_answers: bool | None = None
    """Whether a request of which no answer was seen may be sent again at a gateway of class
    `A_weak`, once a look-up has been in vain; else as the profile says. [What is
    risked](../../proxy/gateways/README.md#the-file).
    """
    key: KeyModel | None = None
    """Where the key goes and what it may be, instead of what the profile says: as in [a
    profile](../../proxy/gateways/README.md#the-file).
    """


class BodyTestModel(Model):
    """A condition on what stands in the answer's body."""

    path: JsonPathText
    """Where to look: `status`, `error.type`, `data[*].id`, `errors[0].category`. In XML, names
    of elements: `transaction.status`.
    """
    is_one_of: list[Plain] | None = Field(default=None, alias="in")
    """The value is one of these. Without it: it is there and not null."""
    present: bool = True
    """`false`, without `in`: it is not there, or null. Why: a condition that is written is
    mostly one that must hold.
    """


class WhenModel(Model):
    """The conditions of a rule; all must hold."""

    status: Annotated[list[StatusRange], Field(min_length=1)]
    """A list of statuses: `402`, `4xx` or `500-599`."""
    header: dict[HeaderName, str] = {}
    """Answer headers that must have exactly these values."""
    json_tests: list[BodyTestModel] = Field(default=[], alias="json")
    """Conditions on the answer's JSON. An answer that is not JSON fulfils none of them."""
    form: list[BodyTestModel] = []
    """The same for an answer that is a form."""
    xml: list[BodyTestModel] = []
    """The same for one that is XML."""


class RuleModel(Model):
    """How one kind of complete answer is read."""

    when: WhenModel
    """The rule's conditions; all must hold."""
    result: Annotated[Verdict, Field(strict=False)]
    """`succeeded`: money moved, or is on its way. `accepted`: done, and nothing is charged yet.
    `declined`: executed, and the answer is no. `rejected`: not executed, and never will be with
    these bytes. `not_executed`: not executed, may be tried again (throttled). `in_progress`:
    the same key is being executed right now. `unknown`.
    """


class RouteModel(Model):
    """A route: of a profile (facts) or of a policy file (which may override all of it)."""

    name: Name
    """Lower-case letters, digits and `-`; a label in metrics."""
    match: MatchModel
    """Which requests it is for."""
    session: Annotated[SessionKind, Field(strict=False)] = SessionKind.EPHEMERAL
    """`durable`: this request moves money. It is read whole, journaled before every send,
    repeated only where that is safe, and its answer is kept. `ephemeral`: it is streamed
    through, and only counted. **A new route that moves money must say `durable`.** Why: most of
    what a gateway offers only reads, and what a profile knows to move money says `durable`
    there.
    """
    operation: Name = "charge"
    """What is done to the order. An order is locked per operation: a refund does not wait for
    the charge. Why: most routes that move money take it.
    """
    order_lock: Annotated[OrderLock, Field(strict=False)] = OrderLock.NAMED
    """When a second payment of an order is refused while one is open, unknown or charged.
    `named`: if the backend named the order (`X-Payment-Order-Id`, or a session it created).
    `body`: also if the order was read from the body; one that bears no key of its own is then
    known by it: the same bytes again are the same payment, and after a decline another try.
    `"off"`: never. The lock is on the name and the operation alone, whatever gateway or
    credential: a shopper who tries another way to pay, or a backend with a new API key, still
    pays the same order. Who pays for several merchants through one Holdfast puts the merchant
    into the order's name. Why: only where the
    backend itself named the order is it sure to mean one payment; what is read from a body may
    be split or paid in part.
    """
    new_key: Annotated[NewKey, Field(strict=False)] = NewKey.WARN
    """What becomes of another key for the very same request (method, target, body, credential)
    while an earlier one is open, unknown or charged and no order is locked: the mistake of a
    backend that makes a new key for every try. `warn`: it is a payment of its own, and counted
    (`holdfast_duplicates_total{verdict="new_key"}`). `refuse`: 409 `new-key-for-same-request`.
    `allow`: nobody looks. Remembered by each process for `session.expires_after`, the last
    50,000 requests at most; a promise across replicas and restarts is only the order's lock.
    Why: two equal payments can both be meant, so it is shown before anybody is refused.
    """
    order: BodyFieldModel | None = None
    """Where the order's name stands in the body."""
    amount: BodyFieldModel | None = None
    """Where the amount stands, in the same way. It is shown, and nothing is calculated with it."""
    currency: BodyFieldModel | None = None
    """Where the currency stands."""
    lookup: Name | None = None
    """The profile's look-up by which an unknown outcome of this route is found out."""
    idempotency: IdempotencyOverride = IdempotencyOverride()
    """As `gateways.NAME.idempotency`, for a route of which the gateway promises something else,
    or takes the key elsewhere.
    """
    results: list[RuleModel] = []
    """How this route's complete answers are read, before the profile's rules: as
    [`results`](../../proxy/gateways/README.md#the-file) of a profile.
    """
    keep_request: bool = False
    """Keep the request itself, credential included, in the store while its payment is open:
    sealed like the answers (AES-GCM), and dropped with the payment's end. A resume and a
    look-up then work after a restart without the backend. Not for requests that carry a card's
    security code: those may not be kept even sealed (PCI DSS 3.3.1). Why: what is not kept
    cannot be stolen.
    """
    timeouts: TimeoutsModel | None = None
    """As `defaults.timeouts`, for this route."""
    retry: RetryModel | None = None
    """As `defaults.retry`."""
    max_body: Size | None = None
    """As `defaults.max_body`."""
    max_answer: Size | None = None
    """As `defaults.max_answer`."""


class CredentialModel(Model):
    """Where the credential for look-ups comes from; exactly one. Never the file itself."""

    model_config = _exactly_one(env=_WRITTEN, file=_WRITTEN)

    env: str | None = None
    """The variable that holds the whole header value, like `Bearer rk_…`. Exactly one of `env`
    and `file`.
    """
    file: str | None = None
    """Or the file that does, beside the policy file or absolute."""
    header: HeaderName = "Authorization"
    """The header it goes into. Why: where nearly every gateway looks for it."""
    sees_all: bool = False
    """Whether it sees every payment made through this gateway, in the same mode (live or test).
    Only then does it prove something where it finds nothing ([not_found_proves,
    cancel](../../proxy/gateways/README.md#the-file)); else that takes the credential of the
    request itself. Where this is wrong, a payment that was charged counts as not charged and
    may be charged again. Why: only you can know it, and being wrong about it charges twice.
    """


class SecretModel(Model):
    """Where a secret comes from; exactly one. Never the file itself."""

    env: str | None = None
    """The variable that holds it. Exactly one of `env` and `file`."""
    file: str | None = None
    """Or the file that does, beside the policy file or absolute."""


class WebhookModel(Model):
    """What is agreed with a gateway about its webhooks."""

    secret: SecretModel | None = None
    """What they are signed with. Without it every webhook of a gateway that signs is
    refused, and the log says so once.
    """
    url: Url | None = None
    """The public address that the gateway calls, exactly as it was given to the gateway;
    for those that sign it too (Square).
    """
    forward_to: Url | None = None
    """Your own endpoint for them. It gets each that is the gateway's, bytes and headers as
    they came, and the gateway is told that it arrived only once your endpoint has answered
    2xx.
    """


class TlsModel(Model):
    """How the gateway's certificate is checked. It always is."""

    ca_file: str | None = None
    """A PEM file of authorities that are trusted for this gateway instead of the system's. The
    certificate is always checked.
    """


class GatewayModel(Model):
    """One gateway and its listener."""

    profile: str = "generic"
    """What is known about the gateway: a file in `gateways/` beside the policy file, else one
    that ships ([how to write one](../../proxy/gateways/README.md)). Why: `generic` assumes
    nothing, and so does no harm at any gateway.
    """
    listen: Listen
    """The backend's door to this gateway; one for each, since several SDKs cannot use a path
    prefix.
    """
    upstream: Origin
    """The gateway's origin, without a path; never one of Holdfast's own listeners. The client
    never chooses the host. Where it is changed while a payment is in doubt, that one is not
    sent again: at another address its key means nothing.
    """
    parameters: dict[Name, Parameter] = {}
    """What only you know and the profile's look-ups need, by the names in its `parameters`:
    `{merchant: acme}`.
    """
    idempotency: IdempotencyOverride = IdempotencyOverride()
    routes: list[RouteModel] = []
    """Requests that are treated otherwise. First match wins; then come the profile's own
    routes; what none names is passed through.
    """
    lookup_credential: CredentialModel | None = None
    """The credential with which unknown outcomes are looked up once the request's own is
    forgotten, e.g. after a restart. Read-only is enough. Without it, Holdfast waits for the
    client to repeat, or for a person. It speaks for one account: where several accounts pay
    through one listener, give each a gateway of its own, or leave this out.
    """
    webhook: WebhookModel | None = None
    """What is agreed with the gateway about its [webhooks](../gateways.md#webhooks). Needs
    a profile with `webhooks`.
    """
    tls: TlsModel = TlsModel()
    timeouts: TimeoutsModel | None = None
    """As `defaults.timeouts`, for this gateway."""
    retry: RetryModel | None = None
    """As `defaults.retry`."""
    budget: BudgetModel | None = None
    """As `defaults.budget`."""
    breaker: BreakerModel | None = None
    """As `defaults.breaker`."""
    concurrency: ConcurrencyModel | None = None
    """As `defaults.concurrency`."""
    operations: dict[Name, OperationModel] = {}
    """Operations that are let through apart from all others, by the name that their routes give
    ([`operation`](routes.md)): with places and a breaker of their own, so that refunds cannot
    starve charges. An operation that no durable route has is refused. The retry budget stays the
    gateway's.
    """


class DefaultsModel(Model):
    """What holds for every gateway and route that does not say otherwise."""

    timeouts: TimeoutsModel = TimeoutsModel()
    retry: RetryModel = RetryModel()
    budget: BudgetModel = BudgetModel()
    breaker: BreakerModel = BreakerModel()
    concurrency: ConcurrencyModel = ConcurrencyModel()
    max_body: Size = d.MAX_BODY_BYTES
    """The largest body on a durable route; a larger one is refused with 413 before it is read.
    Why: payment requests are a few KB; anything this big is a mistake or an attack.
    """
    max_answer: Size = d.MAX_ANSWER_BYTES
    """The largest answer that is read. What is larger leaves the outcome unknown. Why: far
    above any answer to a payment; it is there so that no answer fills the memory.
    """


class SessionModel(Model):
    """How long sessions live."""

    expires_after: Positive = d.EXPIRES_AFTER
    """A session of which nothing was charged ends after so long. One whose outcome is unknown
    never ends by time. Why: the requirement.
    """
    cleanup_every: Positive = d.CLEANUP_EVERY
    """How often what was kept long enough is dropped. Why: the requirement; a drop is short,
    and nothing depends on its moment.
    """
    replay_for: Positive = d.REPLAY_FOR
    """How long a stored answer is given again for its key. Why: a day, as most gateways keep
    their own keys.
    """
    keep_for: Positive = d.KEEP_FOR
    """How long a finished session and its key are remembered. Not shorter than `replay_for`.
    Why: longer than any gateway keeps a key (31 days at the longest published), so that an old
    key never becomes a new charge.
    """
    duplicate_wait: Duration = d.DUPLICATE_WAIT
    """How long a second request for a payment in progress waits for its answer, before it is
    told 409. Why: longer than a usual payment, shorter than a person's patience for a second
    click.
    """
    lease: Positive = d.LEASE
    """Where replicas share a store: for how long one that is not heard of is taken for alive.
    After that its payments in flight count as unknown and another replica looks after them.
    Why: longer than a pause a busy machine makes, short enough that a payment whose process
    died is looked after while its shopper still waits.
    """


class ListenModel(Model):
    """Holdfast's own listeners."""

    sessions: Listen = d.SESSIONS_LISTEN
    """The session API: what backends and browsers ask about a payment. Why: on loopback nothing
    is open to other machines before there are tokens.
    """
    admin: Listen = d.ADMIN_LISTEN
    """`/healthz`, `/readyz`, `/metrics`, and
    [`/-/reload`](../policies.md#changing-it-while-it-runs). Why: on loopback, as
    `listen.sessions`; of its own, so that it can stay closed to whoever pays.
    """


class ShutdownModel(Model):
    """How Holdfast stops: stay reachable while not ready, then let payments finish."""

    ready_delay: Duration = 0.0
    """After SIGTERM: stay open this long while `/readyz` already says no, for load balancers
    that look every few seconds. Why: a sidecar has no load balancer before it, and would only
    stop later.
    """
    drain: Duration = d.DRAIN_TIMEOUT
    """Then: no new sends, and so long for payments that are with the gateway. What is not done
    by then is recorded as interrupted. Why: one attempt and a bit.
    """


class PolicyFile(Model):
    """A whole policy file."""

    listen: ListenModel = ListenModel()
    store: StoreUrl = d.STORE
    """Where sessions are kept. `sqlite:///FILE` is beside the policy file, `sqlite:////FILE`
    absolute; its folder is made. `postgresql://…` and `redis://…` are servers that [replicas
    share](../../proxy/stores/README.md#postgres). `memory://` forgets everything at the end:
    for trying things out, never for payments. Why: a file needs no server, and one machine is
    where most begin.
    """
    key_file: str | None = None
    """The file with the 256-bit keys, beside the policy file or absolute; one a line, 64
    hexadecimal digits each. The first, the install key, keys the fingerprints, the gateways'
    keys and the client tokens and stays for ever; the last seals stored answers, and every one
    opens what it sealed ([`holdfast keys`](../cli.md#holdfast-keys)). Without it, the store's
    name with `.key` behind it. Made at the first start with one key and mode 0600; a file that
    is there with a line that is no key stops the start, and the line is named.
    """
    audit: str | None = None
    """The [audit trail](../audit.md), beside the policy file or absolute. Without it, the
    store's name with `.audit` behind it; none where the store is not a file. Made with mode
    0600.
    """
    spool: str | None = None
    """The file for outcomes that the store cannot take ([when the disk
    fails](../../proxy/stores/README.md#the-spool)), beside the policy file or absolute. Without
    it, the store's name with `.spool` behind it; where the store is a server, `holdfast.spool`
    beside `key_file` or else beside the policy file; for `memory://` none. One process has it:
    replicas on one host each name their own.
    """
    # At least one; the resolver says so, so that a file without it is still looked through.
    gateways: dict[Name, GatewayModel] = {}
    """At least one, by name: lower-case letters, digits and `-`. The name stands in metrics,
    logs and sessions.
    """
    defaults: DefaultsModel = DefaultsModel()
    session: SessionModel = SessionModel()
    shutdown: ShutdownModel = ShutdownModel()


# --- gateway profiles ---------------------------------------------------------------------------


class HintModel(Model):
    """The gateway's own word on retrying."""

    header: HeaderName
    """Its name."""
    retry: list[str]
    """Values that ask for a repeat."""
    stop: list[str]
    """Values that forbid one."""


class HeaderModel(Model):
    """A header with a value."""

    header: HeaderName
    """Its name."""
    value: HeaderValue
    """Its value."""


class LookupMatchModel(Model):
    """What the wanted item looks like."""

    path: JsonPathText
    """A place in the candidate."""
    value: str | None = None
    """What stands there; `{gateway_key}`, `{order}` and `{amount}` as in `find`."""
    is_one_of: list[str] | None = Field(default=None, alias="in")
    """Or: one of these stands there. Exactly one of `value` and `in`."""


class LookupPageModel(Model):
    """How to ask for the next page."""

    more: JsonPathText
    """Where the answer says `true` if there is more."""
    cursor: JsonPathText
    """The place in the last candidate that the next page begins after."""
    parameter: str
    """The query parameter that takes it."""
    max_pages: Annotated[int, Field(ge=1, le=100)] = 10
    """Where to stop looking. Why: a thousand payments around one send, at the usual 100 a page."""


class AbsenceModel(Model):
    """When finding nothing proves that nothing was charged."""

    after: Positive
    """How long after the last send: the longest that the gateway may work on a request, and as
    long again until its list shows it. At least `max_processing_time`. Each confirmation comes
    as long after the one before.
    """
    confirmations: Annotated[int, Field(ge=2, le=5)] = 3
    """How often it must be confirmed (2 to 5). Why: one empty list may come from a replica that
    lags.
    """
    when: WhenModel | None = None
    """Without `find`: the answer by which the gateway says that there is no such payment,
    written like `results[].when`. Name more than a status: a 404 can also come from a wrong
    path.
    """


class VoidModel(Model):
    """How whatever there is under a key is voided."""

    target: str
    """The POST that does it; `{gateway_key}` is the key."""
    body: str
    """Its JSON; `{gateway_key}` stands inside quotes."""
    proves: WhenModel
    """The answer that proves that nothing is charged, written like `results[].when`. "Too late
    to cancel" is none.
    """
    after: Duration | None = None  # the longest that the gateway may be at a request
    """How long after the last send it is asked for; if it is not said, `max_processing_time`.
    What is still on its way could arrive after it; `0s` only where the gateway refuses a key
    that was cancelled.
    """


class LookupModel(Model):
    """How to find out what became of a request."""

    find: str | None = None
    """The GET that lists candidates. `{since}` and `{until}` are epoch seconds around the
    sends, `{gateway_key}` is the key, `{order}` and `{amount}` what the request's body says.
    """
    find_body: str | None = None
    """With it, the list is asked for by POST, of this JSON or XML."""
    items: JsonPathText | None = None
    """Where the candidates stand in its answer: `data[*]`. Required with `find`, as are
    `match`, `id` and `read`.
    """
    match: list[LookupMatchModel] = []
    """What the wanted candidate looks like; all must hold. `find` or one of these must name
    `{gateway_key}` or `{order}`.
    """
    id: JsonPathText | None = None
    """Where the candidate names the payment."""
    page: LookupPageModel | None = None
    """How the list goes on; without it, its first page is all there is."""
    read: str | None = None
    """The GET that shows the payment as it is now. Its answer is read by `results`. With `find`
    it names `{id}`; without, `{gateway_key}` or `{order}`.
    """
    not_found_proves: AbsenceModel | None = None
    """When finding nothing proves that nothing was charged. Without it, it never does."""
    cancel: VoidModel | None = None
    """How whatever there is under the key is voided."""


class SignatureModel(Model):
    """How a gateway signs its webhooks: in a header, in a field of a form, or in each event."""

    header: HeaderName | None = None
    """The header with the signature."""
    form: str | None = None
    """Or the field of a form with pairs of a name and a signature, over `payload`."""
    json_path: JsonPathText | None = Field(default=None, alias="json")
    """Or the place in each event, over its `fields`."""
    part: str | None = None
    """Of a header like `t=…,v1=…`: the name of its signatures. One that fits is enough."""
    timestamp: str | None = None
    """And the name of the time that was signed, in epoch seconds."""
    tolerance: Positive = d.WEBHOOK_TOLERANCE
    """How far that may be from now. Why: what Stripe's SDKs take."""
    over: str = "{body}"
    """What a header's signature is made over: `{body}`, `{timestamp}`, `{url}` and text
    between them. `{url}` is the policy's `webhook.url`. Why: most sign the body and nothing
    else.
    """
    fields: list[JsonPathText] = []
    """What is signed of an event, with `:` between the values. Why: a signature in a header
    needs none.
    """
    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    """Of the HMAC: `sha1`, `sha256`, `sha512`. Why: what most gateways use."""
    encoding: Literal["hex", "base64"] = "hex"
    """How it is written: `hex` or `base64`. Why: what most gateways use."""
    key: Annotated[KeyForm, Field(strict=False)] = KeyForm.TEXT
    """How its key is made from the secret: `text` as it is, `hex` from its hexadecimal
    digits, `sha1` its digest. Why: what most gateways do.
    """


class TieModel(Model):
    """Where an event says which payment it is about."""

    key: JsonPathText | None = None
    """Where an event names the gateway key of the request it is about."""
    order: list[JsonPathText] = []
    """Where it names the order; the first place that has one. Why: some events name none."""
    amount: JsonPathText | None = None
    """Where it names the amount; where that differs from the request's, it is another payment."""
    at: JsonPathText | None = None
    """When it happened: epoch seconds or RFC 3339. Required with `order`."""
    reference: JsonPathText
    """Where it names the payment as the gateway calls it."""


class EventTestModel(Model):
    """A condition on an event."""

    path: JsonPathText
    """A place in the event."""
    is_one_of: Annotated[list[Plain], Field(min_length=1, alias="in")]
    """What may stand there."""


class EventRuleModel(Model):
    """What one kind of event says, or the payment that it shows."""

    when: list[EventTestModel] = []
    """Conditions; all must hold. Why: without one it is about every event."""
    says: Annotated[Says, Field(strict=False)] = Says.LOOK_UP
    """`succeeded`: it was charged. `declined`: the gateway said no, to the key that the
    event names. `look_up`: something has happened, so ask. Why: asking is never wrong.
    """
    object_path: JsonPathText | None = Field(default=None, alias="object")
    """Instead: where the event shows the payment, to be read by `results` like an answer
    with status 200.
    """
    operation: Name = "charge"
    """Of an order's payments, those with this `operation` are meant. Why: most events are
    about charges.
    """


class WebhooksModel(Model):
    """How a gateway tells of payments by itself."""

    signature: SignatureModel | None = None
    """How it signs; one of `header`, `form` and `json`. Without it nothing it says is
    proof, only a reason to look.
    """
    body: Annotated[BodyKind, Field(strict=False)] = BodyKind.JSON
    """What a webhook's body is: `json`, `form` (with the query's parameters), or `xml` (in
    Base64, in a field of a form). Why: what most gateways send.
    """
    payload: str | None = None
    """Where `body` is `xml`: the form's field."""
    each: JsonPathText | None = None
    """Where the events stand, like `events[*]`; else the whole body is one."""
    tie: TieModel
    """Where an event says which payment it is about."""
    events: Annotated[list[EventRuleModel], Field(min_length=1)]
    """What kinds of events say; the first whose `when` holds. What none names is ignored."""
    answer: str = ""
    """The text that the gateway wants to read. Why: most read only the status."""


class RefusalFormModel(Model):
    """How one refusal looks to this gateway's SDK."""

    status: Annotated[int, Field(ge=400, le=599)] | None = None
    """The status instead of the usual one."""
    error_type: str | None = None
    """The `error.type` instead of the usual one."""


class ErrorTypesModel(Model):
    """What goes for `{type}`: for what the caller did wrong, and for everything else."""

    caller: str = ""
    """`{type}` of what the caller did wrong."""
    gateway: str = ""
    """`{type}` of everything else."""


class ErrorsModel(Model):
    """What this gateway's SDK reads of an answer that Holdfast makes itself."""

    body: dict[str, Any] = {}
    """What the gateway's SDK reads of an answer that Holdfast makes itself; it stands beside
    the fields of the problem (RFC 9457), and wins over one of the same name. A value that is
    `"{type}"`, `"{code}"`, `"{message}"` or `"{status}"` is filled in.
    """
    types: ErrorTypesModel = ErrorTypesModel()
    refusals: dict[str, RefusalFormModel] = {}
    """Refusals that must look different to the gateway's SDK, by code
    ([docs/problems.md](../problems.md)).
    """
    headers: list[HeaderModel] = []
    """Headers on final answers, so that the SDK does not start over."""


class LinksModel(Model):
    """Absolute links in answers that are turned to Holdfast."""

    origins: list[Origin] = []
    """The origins by which the gateway names itself: `https://api.example.com`. The `upstream` of
    the policy is one without being listed.
    """
    keys: Annotated[list[LinkKey], Field(min_length=1)] = ["href"]
    """The keys of a JSON answer, at any depth, whose text is a link. Why: HAL and most others call
    it so.
    """
    headers: list[HeaderName] = []
    """Answer headers that hold a link: `Location`, `Link`."""


class ProfileFile(Model):
    """A whole gateway profile. Each fact names its source in a comment of the file."""

    title: str
    """The gateway's name for people."""
    idempotency: IdempotencyModel
    """What the gateway promises for a repeated key."""
    credential_headers: Annotated[list[HeaderName], Field(min_length=1)] = ["Authorization"]
    """The request headers that say whose account it is. Keys of one account never meet those of
    another, and look-ups are made with these headers of the request. Why: where nearly every
    gateway looks for it.
    """
    results: Annotated[list[RuleModel], Field(min_length=1)]
    """How complete answers are read: a list of rules, the first that holds decides."""
    replayed: WhenModel | None = None
    """Which answers the gateway has given before and gives again, written like
    `results[].when`. A marked error is looked up instead of asked for once more.
    """
    retry_hint: HintModel | None = None
    """The header by which the gateway itself says whether to retry; it outranks the status."""
    routes: list[RouteModel] = []
    """The requests that are something special; each key as in a policy file's routes
    ([docs/policies.md](../policies.md)), first match wins. `idempotency` and `results` of a
    route hold for it before those of the gateway.
    """
    timeouts: TimeoutsModel | None = None
    """As `defaults.timeouts` of a policy, which they stand over: where the gateway's own SDK
    gives up sooner than Holdfast would. What the policy writes for the gateway or a route
    stands over these.
    """
    parameters: list[Name] = []
    """Names that look-ups need and only the merchant knows (an account, a location):
    `{merchant}` there. The policy must give them as `gateways.NAME.parameters`.
    """
    lookups: dict[Name, LookupModel] = {}
    """How to find out, by reading, what became of a request; by name, for the routes' `lookup`."""
    webhooks: WebhooksModel | None = None
    """How the gateway tells of payments by itself
    ([below](../../proxy/gateways/README.md#webhooks)).
    """
    errors: ErrorsModel = ErrorsModel()
    max_processing_time: Positive = d.MAX_PROCESSING_TIME
    """How long the gateway may still be at a request whose answer was lost. Until then only a
    charge counts as evidence, "not charged" does not; and for as long the connection stays open
    for a late answer. Why: longer than any gateway's SDK waits (80 s at the longest).
    """
    replay_headers: list[HeaderName] = []
    """Answer headers that are kept for a replay, beside Content-Type, Content-Encoding,
    Content-Language and Location. Never name Set-Cookie.
    """
    links: LinksModel | None = None
    """Absolute links in answers that are turned to Holdfast,
    [below](../../proxy/gateways/README.md#links-in-answers). Without it, answers go back byte for
    byte.
    """
    probe: ProbePath = "/"
    """A cheap path that the gateway answers while it works, whatever it says: what is asked (GET,
    with the look-up credential if there is one) to find out whether it is back
    ([breaker](../policies/breaker.md)). Why: every HTTP server answers it somehow.
    """

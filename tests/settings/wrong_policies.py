"""Wrong policy files, and what a person is told about each: line, column, key, and what is wrong.

A case is its name, the file, and behind `=>` all that is told. A line `GATEWAY` stands for one line
with a whole gateway, `<TAB>` for a tab.
"""

from __future__ import annotations

import pytest

GATEWAY = (
    'gateways: {g: {profile: stripe, listen: "127.0.0.1:8080", upstream: "https://gw.example"}}\n'
)

_CASES = r"""
#### typos, at every level
## top level key
GATEWAY
sesion: {}
=> 2:1: sesion: unknown key; did you mean 'session'?

## unknown key far off
GATEWAY
zzz: 1
=> 2:1: zzz: unknown key; known here: audit, defaults, gateways, key_file, listen, session, shutdown, spool, store

## listen key
GATEWAY
listen: {session: 127.0.0.1:8081}
=> 2:10: listen.session: unknown key; did you mean 'sessions'?

## timeouts key
GATEWAY
defaults:
  timeouts:
    atempt: 10s
=> 4:5: defaults.timeouts.atempt: unknown key; did you mean 'attempt'?

## retry key
GATEWAY
defaults: {retry: {max_atempts: 3}}
=> 2:20: defaults.retry.max_atempts: unknown key; did you mean 'max_attempts'?

## backoff key
GATEWAY
defaults: {retry: {backoff: {inital: 1s}}}
=> 2:30: defaults.retry.backoff.inital: unknown key; did you mean 'initial'?

## budget key
GATEWAY
defaults: {budget: {rate: 0.2}}
=> 2:21: defaults.budget.rate: unknown key; did you mean 'ratio'?

## breaker key
GATEWAY
defaults: {breaker: {failure_rate: 0.5}}
=> 2:22: defaults.breaker.failure_rate: unknown key; did you mean 'failure_ratio'?

## concurrency key
GATEWAY
defaults: {concurrency: {max_inflight: 5}}
=> 2:26: defaults.concurrency.max_inflight: unknown key; did you mean 'max_in_flight'?

## session key
GATEWAY
session: {expire_after: 15m}
=> 2:11: session.expire_after: unknown key; did you mean 'expires_after'?

## shutdown key
GATEWAY
shutdown: {drain_timeout: 5s}
=> 2:12: shutdown.drain_timeout: unknown key; did you mean 'drain'?

## gateway key
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    upsteam: x
=> 5:5: gateways.g.upsteam: unknown key; did you mean 'upstream'?

## route key
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [POST], path: /a}, sesion: durable}
=> 6:55: gateways.g.routes[0].sesion: unknown key; did you mean 'session'?

## match key
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {method: [POST], path: /a}}
=> 6:19: gateways.g.routes[0].match.methods: is missing
=> 6:27: gateways.g.routes[0].match.method: unknown key; did you mean 'methods'?

## idempotency key
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    idempotency: {clas: A_strong}
=> 5:19: gateways.g.idempotency.clas: unknown key; did you mean 'class'?

## python name of a key
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    idempotency: {gateway_class: A_strong}
=> 5:19: gateways.g.idempotency.gateway_class: unknown key; did you mean 'class'?

## body field key
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [POST], path: /a}, order: {jsn: id}}
=> 6:63: gateways.g.routes[0].order.jsn: unknown key; did you mean 'json'?

## at the wrong level
GATEWAY
timeouts: {total: 20s}
expires_after: 10m
=> 2:1: timeouts: unknown key here; it goes under defaults or gateways.NAME or gateways.NAME.routes[]
=> 3:1: expires_after: unknown key here; it goes under session

## from another tool
GATEWAY
defaults: {breaker: {slidingWindowSize: 10s, slowCallDurationThreshold: 2s}}
=> 2:22: defaults.breaker.slidingWindowSize: unknown key; did you mean 'window'?
=> 2:46: defaults.breaker.slowCallDurationThreshold: unknown key; did you mean 'slow_call'?

## indentation lost
gateways:
  g:
  listen: "127.0.0.1:8080"
  upstream: "https://gw.example"
=> 2:3: gateways.g: should be keys with values, not empty
=> 3:3: gateways.listen: should be keys with values, not the text '127.0.0.1:8080'; as a key of one of the gateways it is indented further
=> 4:3: gateways.upstream: should be keys with values, not the text 'https://gw.example'; as a key of one of the gateways it is indented further

## a secret instead of its name
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    lookup_credential: Bearer rk_live_1
=> 5:5: gateways.g.lookup_credential: should be {env: NAME}, the variable that holds it; no secret stands here

## a secret as its name
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    lookup_credential: {env: rk_live_1}
=> 5:5: gateways.g.lookup_credential: the environment variable that `env` names is not set

## key with other case
GATEWAY
Session: {}
=> 2:1: Session: unknown key; did you mean 'session'?

## key with dash
GATEWAY
defaults: {max-body: 1MiB}
=> 2:12: defaults.max-body: unknown key; did you mean 'max_body'?

## tls key
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    tls: {verify: false}
=> 5:11: gateways.g.tls.verify: unknown key; known here: ca_file

#### durations, sizes, numbers
## duration without unit
GATEWAY
session: {expires_after: 15}
=> 2:11: session.expires_after: write a duration with its unit: 200ms, 2s, 15m, 24h or 35d

## duration float
GATEWAY
session: {expires_after: 1.5}
=> 2:11: session.expires_after: write a duration with its unit: 200ms, 2s, 15m, 24h or 35d

## duration unit
GATEWAY
session: {expires_after: 15min}
=> 2:11: session.expires_after: write a duration with its unit: 200ms, 2s, 15m, 24h or 35d

## duration space
GATEWAY
session: {expires_after: 15 m}
=> 2:11: session.expires_after: write a duration with its unit: 200ms, 2s, 15m, 24h or 35d

## duration two
GATEWAY
session: {expires_after: 1h30m}
=> 2:11: session.expires_after: write a duration with its unit: 200ms, 2s, 15m, 24h or 35d

## duration negative
GATEWAY
session: {duplicate_wait: -5s}
=> 2:11: session.duplicate_wait: write a duration with its unit: 200ms, 2s, 15m, 24h or 35d

## duration sexagesimal
GATEWAY
session: {expires_after: 1:30}
=> 2:11: session.expires_after: write a duration with its unit: 200ms, 2s, 15m, 24h or 35d

## duration zero
GATEWAY
defaults: {timeouts: {connect: 0s}}
=> 2:23: defaults.timeouts.connect: should be greater than 0

## duration too long
GATEWAY
session: {keep_for: 9999999d}
=> 2:11: session.keep_for: is longer than ten years (3650d)

## duration null
GATEWAY
session:
  cleanup_every:
=> 3:3: session.cleanup_every: write a duration with its unit: 200ms, 2s, 15m, 24h or 35d

## duration list
GATEWAY
session: {cleanup_every: [5m]}
=> 2:11: session.cleanup_every: write a duration with its unit: 200ms, 2s, 15m, 24h or 35d

## size without unit
GATEWAY
defaults: {max_body: 1048576}
=> 2:12: defaults.max_body: write a size with its unit: 64KiB or 1MiB

## size unit
GATEWAY
defaults: {max_body: 1MB}
=> 2:12: defaults.max_body: write a size with its unit: 64KiB or 1MiB

## size zero
GATEWAY
defaults: {max_body: 0KiB}
=> 2:12: defaults.max_body: should be greater than 0

## attempts zero
GATEWAY
defaults: {retry: {max_attempts: 0}}
=> 2:20: defaults.retry.max_attempts: should be greater than or equal to 1

## attempts many
GATEWAY
defaults: {retry: {max_attempts: 51}}
=> 2:20: defaults.retry.max_attempts: should be less than or equal to 50

## attempts text
GATEWAY
defaults: {retry: {max_attempts: '3'}}
=> 2:20: defaults.retry.max_attempts: should be a whole number, not the text '3'

## attempts fraction
GATEWAY
defaults: {retry: {max_attempts: 2.5}}
=> 2:20: defaults.retry.max_attempts: should be a whole number, not the number 2.5

## attempts bool
GATEWAY
defaults: {retry: {max_attempts: true}}
=> 2:20: defaults.retry.max_attempts: should be a whole number, not true

## ratio above one
GATEWAY
defaults: {budget: {ratio: 20}}
=> 2:21: defaults.budget.ratio: should be less than or equal to 1

## ratio percent
GATEWAY
defaults: {budget: {ratio: 20%}}
=> 2:21: defaults.budget.ratio: should be a number, not the text '20%'

## ratio infinite
GATEWAY
defaults: {budget: {min_per_second: .inf}}
=> 2:21: defaults.budget.min_per_second: should be a number, not the text '.inf'

## ratio negative
GATEWAY
defaults: {budget: {min_per_second: -1}}
=> 2:21: defaults.budget.min_per_second: should be greater than or equal to 0

## breaker slow ratio alone
GATEWAY
defaults: {breaker: {slow_ratio: 0.5}}
=> 2:22: defaults.breaker.slow_ratio: means nothing without slow_call

## breaker slow call
GATEWAY
defaults: {breaker: {slow_call: 11s}}
=> 2:22: defaults.breaker.slow_call: is longer than any attempt may take (10s), so no call would be slow

## breaker consecutive
GATEWAY
defaults: {breaker: {consecutive: 0}}
=> 2:22: defaults.breaker.consecutive: should be greater than or equal to 1

## breaker probes
GATEWAY
defaults: {breaker: {probes: 0}}
=> 2:22: defaults.breaker.probes: should be greater than or equal to 1

## breaker probe
GATEWAY
defaults: {breaker: {probe: v1/balance}}
=> 2:22: defaults.breaker.probe: write the path to ask for, starting with '/' and without blanks

## operation nobody has
gateways:
  g:
    profile: stripe
    listen: 127.0.0.1:8080
    upstream: https://gw.example
    operations: {refnd: {concurrency: {max_in_flight: 20}}}
=> 6:18: gateways.g.operations.refnd: no durable route here has this operation; did you mean 'refund'?

## operation key
gateways:
  g:
    profile: stripe
    listen: 127.0.0.1:8080
    upstream: https://gw.example
    operations: {refund: {budget: {ratio: 0.1}}}
=> 6:27: gateways.g.operations.refund.budget: unknown key here; it goes under defaults or gateways.NAME

## operation slow call
gateways:
  g:
    profile: stripe
    listen: 127.0.0.1:8080
    upstream: https://gw.example
    operations: {refund: {breaker: {slow_call: 20s, slow_ratio: 0.2}}}
=> 6:37: gateways.g.operations.refund.breaker.slow_call: is longer than any attempt may take (10s), so no call would be slow

## breaker zero
GATEWAY
defaults: {breaker: {failure_ratio: 0}}
=> 2:22: defaults.breaker.failure_ratio: should be greater than 0

## min calls
GATEWAY
defaults: {breaker: {min_calls: 0}}
=> 2:22: defaults.breaker.min_calls: should be greater than or equal to 1

## queue
GATEWAY
defaults: {concurrency: {max_queue: -1}}
=> 2:26: defaults.concurrency.max_queue: should be greater than or equal to 0

## bool yes
GATEWAY
defaults: {retry: {respect_retry_after: yes}}
=> 2:20: defaults.retry.respect_retry_after: should be true or false, not the text 'yes'

## jitter
GATEWAY
defaults: {retry: {backoff: {jitter: ful}}}
=> 2:30: defaults.retry.backoff.jitter: 'ful' is not one of 'full' or 'none'; did you mean 'full'?

#### shapes
## section is text
GATEWAY
session: 15m
=> 2:1: session: should be keys with values, not the text '15m'

## section is empty
GATEWAY
session:
=> 2:1: session: should be keys with values, not empty

## section is list
GATEWAY
defaults: [timeouts]
=> 2:1: defaults: should be keys with values, not a list

## gateways is a list
gateways:
  - {profile: stripe}
=> 1:1: gateways: should be keys with values, not a list

## gateways is empty
gateways:
=> 1:1: gateways: should be keys with values, not empty

## gateways is {}
gateways: {}
=> 1:1: gateways: name at least one gateway

## no gateways
store: memory://
=> 1:1: gateways: is missing

## gateway is text
gateways:
  g: stripe
=> 2:3: gateways.g: should be keys with values, not the text 'stripe'

## routes is a map
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes: {name: a}
=> 5:5: gateways.g.routes: should be a list, [a, b] or `- ` before each item, not keys with values

## methods is text
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: POST, path: /a}}
=> 6:27: gateways.g.routes[0].match.methods: should be a list, [a, b] or `- ` before each item, not the text 'POST'

## methods is empty
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [], path: /a}}
=> 6:27: gateways.g.routes[0].match.methods: should be a list of at least one, not an empty list

#### addresses
## listen port only
gateways:
  g:
    listen: 8080
    upstream: "https://gw.example"
=> 3:5: gateways.g.listen: should be text, not the number 8080

## listen without port
gateways:
  g:
    listen: 127.0.0.1
    upstream: "https://gw.example"
=> 3:5: gateways.g.listen: write an address to listen on as host:port, like 127.0.0.1:8080 or '[::1]:8080'

## listen port too large
gateways:
  g:
    listen: 127.0.0.1:70000
    upstream: "https://gw.example"
=> 3:5: gateways.g.listen: write an address to listen on as host:port, like 127.0.0.1:8080 or '[::1]:8080'

## listen url
gateways:
  g:
    listen: http://127.0.0.1:8080
    upstream: "https://gw.example"
=> 3:5: gateways.g.listen: write an address to listen on as host:port, like 127.0.0.1:8080 or '[::1]:8080'

## listen v6 without brackets
gateways:
  g:
    listen: "::1:8080"
    upstream: "https://gw.example"
=> 3:5: gateways.g.listen: write an address to listen on as host:port, like 127.0.0.1:8080 or '[::1]:8080'

## listen any
gateways:
  g:
    listen: "*:8080"
    upstream: "https://gw.example"
=> 3:5: gateways.g.listen: write an address to listen on as host:port, like 127.0.0.1:8080 or '[::1]:8080'

## listen missing
gateways:
  g:
    upstream: "https://gw.example"
=> 2:3: gateways.g.listen: is missing

## upstream missing
gateways:
  g:
    listen: "127.0.0.1:8080"
=> 2:3: gateways.g.upstream: is missing

## upstream with path
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: https://gw.example/v1
=> 4:5: gateways.g.upstream: write the gateway's origin, like https://api.example.com (no path, no user)

## upstream with slash
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: https://gw.example/
=> 4:5: gateways.g.upstream: write the gateway's origin, like https://api.example.com (no path, no user)

## upstream with user
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: https://key@gw.example
=> 4:5: gateways.g.upstream: write the gateway's origin, like https://api.example.com (no path, no user)

## upstream without scheme
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: gw.example
=> 4:5: gateways.g.upstream: write the gateway's origin, like https://api.example.com (no path, no user)

## upstream port
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: https://gw.example:99999
=> 4:5: gateways.g.upstream: write the gateway's origin, like https://api.example.com (no path, no user)

## same listener
gateways:
  g:
    listen: 127.0.0.1:8081
    upstream: "https://gw.example"
=> 3:5: gateways.g.listen: 127.0.0.1:8081 is already used by listen.sessions (127.0.0.1:8081)

## same listener by name
gateways:
  g:
    listen: localhost:8082
    upstream: "https://gw.example"
=> 3:5: gateways.g.listen: localhost:8082 is already used by listen.admin (127.0.0.1:8082)

## two gateways one listener
gateways:
  a: {listen: "127.0.0.1:8080", upstream: "https://a.example"}
  b: {listen: "127.0.0.1:8080", upstream: "https://b.example"}
=> 3:7: gateways.b.listen: 127.0.0.1:8080 is already used by gateways.a.listen (127.0.0.1:8080)

## open to the world
gateways:
  g:
    listen: 0.0.0.0:8080
    upstream: "https://gw.example"
=> 3:5: gateways.g.listen: 0.0.0.0:8080 can be reached from other machines, so tokens are required: set HOLDFAST_BACKEND_TOKEN and HOLDFAST_OPERATOR_TOKEN (or …_FILE), or listen on 127.0.0.1

## open api
GATEWAY
listen: {sessions: '[::]:8081'}
=> 2:10: listen.sessions: [::]:8081 can be reached from other machines, so tokens are required: set HOLDFAST_BACKEND_TOKEN and HOLDFAST_OPERATOR_TOKEN (or …_FILE), or listen on 127.0.0.1

#### stores and files
## store scheme
GATEWAY
store: mysql://x
=> 2:1: store: write a store as sqlite:///FILE, postgresql://…, redis://… or memory://

## store scheme of libpq
GATEWAY
store: postgres://db/holdfast
=> 2:1: store: write the scheme out: postgresql://…

## store with TLS
GATEWAY
store: rediss://db
=> 2:1: store: write redis://…, and put a tunnel between: TLS is not spoken to this store

## store option misspelt
GATEWAY
store: postgresql://db/holdfast?sslmod=verify-full
key_file: key
=> 2:1: store: there is no option 'sslmod'; did you mean 'sslmode'?

## store option unknown
GATEWAY
store: redis://a:1,b:2/mymaster?sentinels
key_file: key
=> 2:1: store: there is no option 'sentinels'; did you mean 'sentinel'?

## store option of another store
GATEWAY
store: redis://db/0?sslmode=require
key_file: key
=> 2:1: store: there is no option 'sslmode'; known here: sentinel

## store of replicas without a key
GATEWAY
store: postgresql://db/holdfast
=> 2:1: store: replicas share one key: name its file as key_file, or give HOLDFAST_KEY

## store with a password
GATEWAY
store: postgresql://holdfast:secret@db/holdfast
key_file: holdfast.key
=> 2:1: store: a password does not stand in the policy; give it as HOLDFAST_STORE_PASSWORD

## store without a file
GATEWAY
store: sqlite:///
=> 2:1: store: name the store's file, like sqlite:///var/holdfast.db

## store folder
GATEWAY
store: sqlite:///var/
=> 2:1: store: name the store's file, like sqlite:///var/holdfast.db

## store path
GATEWAY
store: holdfast.db
=> 2:1: store: write a store as sqlite:///FILE, postgresql://…, redis://… or memory://

## ca file
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    tls: {ca_file: missing.pem}
=> 5:11: gateways.g.tls.ca_file: cannot be read: No such file or directory

#### names and words
## gateway name
gateways:
  My_Gateway: {listen: "127.0.0.1:8080", upstream: "https://a.example"}
=> 2:3: gateways.My_Gateway: 'My_Gateway' is not a name: up to 63 lower-case letters, digits and '-'

## profile typo
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    profile: strip
=> 5:5: gateways.g.profile: there is no profile 'strip'; did you mean 'stripe'?

## profile unknown
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    profile: acme
=> 5:5: gateways.g.profile: there is no profile 'acme'; known here: adyen, amazon-pay, braintree, checkout, generic, gocardless, klarna, mollie, paypal, paystack, razorpay, square, stripe

## profile case
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    profile: Stripe
=> 5:5: gateways.g.profile: there is no profile 'Stripe'; did you mean 'stripe'?

## profile path
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    profile: ../x
=> 5:5: gateways.g.profile: there is no profile '../x'; known here: adyen, amazon-pay, braintree, checkout, generic, gocardless, klarna, mollie, paypal, paystack, razorpay, square, stripe

## class typo
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    idempotency: {class: A_strog}
=> 5:19: gateways.g.idempotency.class: 'A_strog' is not one of 'A_strong', 'A_weak', 'B_lookup', 'C_cancel_by_key' or 'D_none'; did you mean 'A_strong'?

## class lower
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    idempotency: {class: a_strong}
=> 5:19: gateways.g.idempotency.class: 'a_strong' is not one of 'A_strong', 'A_weak', 'B_lookup', 'C_cancel_by_key' or 'D_none'; did you mean 'A_strong'?

## session kind
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [POST], path: /a}, session: durabel}
=> 6:55: gateways.g.routes[0].session: 'durabel' is not one of 'durable' or 'ephemeral'; did you mean 'durable'?

## order lock
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [POST], path: /a}, order_lock: none}
=> 6:55: gateways.g.routes[0].order_lock: 'none' is not one of 'named', 'body' or 'off'

## method case
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [post], path: /a}}
=> 6:37: gateways.g.routes[0].match.methods[0]: 'post' is not a method: write it in capitals, like POST

## route name
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: Pay Now, match: {methods: [POST], path: /a}}
=> 6:10: gateways.g.routes[0].name: 'Pay Now' is not a name: up to 63 lower-case letters, digits and '-'

## route without name
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {match: {methods: [POST], path: /a}}
=> 6:9: gateways.g.routes[0].name: is missing

## route without match
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a}
=> 6:9: gateways.g.routes[0].match: is missing

## path relative
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [POST], path: a}}
=> 6:44: gateways.g.routes[0].match.path: 'a' is not a path template: it must start with '/'

## path query
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [POST], path: '/a?b=1'}}
=> 6:44: gateways.g.routes[0].match.path: '/a?b=1' is not a path template: '{name}' stands for one segment and '**' for the rest of the path

## path star
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [POST], path: '/a/*'}}
=> 6:44: gateways.g.routes[0].match.path: '/a/*' is not a path template: '{name}' stands for one segment and '**' for the rest of the path

## json path
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [POST], path: /a}, order: {json: 'a..b'}}
=> 6:63: gateways.g.routes[0].order.json: 'a..b' is not a path: nothing fits at character 3

## lookup unknown
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [POST], path: /a}, lookup: payment_intent}
=> 6:55: gateways.g.routes[0].lookup: 'payment_intent' is not a name: up to 63 lower-case letters, digits and '-'

## lookup typo
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    profile: stripe
    routes:
      - {name: a, match: {methods: [POST], path: /a}, session: durable, lookup: payment-intents}
=> 7:73: gateways.g.routes[0].lookup: the profile has no look-up 'payment-intents'; did you mean 'payment-intent'?

## two routes
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [POST], path: /a}}
      - {name: b, match: {methods: [POST], path: /b}}
      - {name: a, match: {methods: [PUT], path: /a}}
=> 8:10: gateways.g.routes[2].name: two routes are named 'a'

## route behind a wider one
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: any, match: {methods: [POST, PUT], path: "/pay/**"}, session: durable}
      - {name: other, match: {methods: [GET], path: /pay/1/refund}}
      - {name: refund, match: {methods: [POST], path: "/pay/{id}/refund"}, session: durable}
=> 8:24: gateways.g.routes[2].match: route 'any' before it takes all of its requests, so it would never apply

## payment settings without durable
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [POST], path: /a}, order_lock: body, keep_request: true}
=> 6:55: gateways.g.routes[0].order_lock: means nothing unless the route says `session: durable`
=> 6:73: gateways.g.routes[0].keep_request: means nothing unless the route says `session: durable`

## repeats without durable
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: mandate, match: {methods: [POST], path: /m}, retry: {max_attempts: 2}}
      - {name: list, match: {methods: [GET], path: /m}, retry: {max_attempts: 2}}
=> 6:61: gateways.g.routes[0].retry: means nothing unless the route says `session: durable`

## path of another language
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [POST], path: /a}, order: {json: $.order.id, xml: /order/id}}
=> 6:63: gateways.g.routes[0].order.json: '$.order.id' is not a path: names with dots between them, like transaction.status
=> 6:81: gateways.g.routes[0].order.xml: '/order/id' is not a path: names with dots between them, like transaction.status

#### between settings
## first wait longer than the longest
GATEWAY
defaults: {retry: {backoff: {initial: 6s}}}
=> 2:30: defaults.retry.backoff.initial: is longer than max (5s)

## attempt longer than total
GATEWAY
defaults: {timeouts: {attempt: 40s}}
=> 2:23: defaults.timeouts.attempt: is longer than total (30s), so it would never apply

## attempt longer than inherited total
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [POST], path: /a}, timeouts: {attempt: 31s}}
=> 6:66: gateways.g.routes[0].timeouts.attempt: is longer than total (30s), so it would never apply

## total longer than session
GATEWAY
defaults: {timeouts: {total: 20m}}
=> 2:23: defaults.timeouts.total: is not shorter than session.expires_after (15m)

## route total longer than session
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: a, match: {methods: [POST], path: /a}, timeouts: {total: 15m}}
=> 6:66: gateways.g.routes[0].timeouts.total: is not shorter than session.expires_after (15m)

## session shorter than total
GATEWAY
session: {expires_after: 30s}
=> 2:11: session.expires_after: is not longer than the default of timeouts.total (30s)

## automatic above max
GATEWAY
defaults: {retry: {automatic_attempts: 4}}
=> 2:20: defaults.retry.automatic_attempts: is more than max_attempts (3)

## automatic above inherited max
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    retry: {automatic_attempts: 5}
=> 5:13: gateways.g.retry.automatic_attempts: is more than max_attempts (3)

## a condition that could charge twice
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - name: payment
        match: {methods: [POST], path: "/**"}
        session: durable
        retry: {on: [connect, attempt_timeout, rate_limited]}
=> 9:31: gateways.g.routes[0].retry.on[1]: could charge twice: after attempt_timeout nobody knows whether the customer was charged, and g (D_none) promises nothing for a repeated key; leave it out, or write `risk: may_charge_twice` beside it

## a condition that one of the gateways makes unsafe
gateways:
  safe: {profile: stripe, listen: "127.0.0.1:8080", upstream: "https://gw.example"}
  weak: {listen: "127.0.0.1:8090", upstream: "https://gw.example", idempotency: {class: A_weak}}
defaults: {retry: {on: [not_sent, in_progress]}}
=> 4:35: defaults.retry.on[1]: could charge twice: after in_progress nobody knows whether the customer was charged, and weak (A_weak) forgets a key after an error; leave it out, or write `risk: may_charge_twice` beside the `on` of a route of this file

## statuses that could charge twice
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    idempotency: {class: C_cancel_by_key}
    retry: {on: [{status: [429]}, {status: [402, 4xx]}]}
=> 6:35: gateways.g.retry.on[1]: could charge twice: after a 408 nobody knows whether the customer was charged, and g (C_cancel_by_key) only voids by key; leave it out, or write `risk: may_charge_twice` beside the `on` of a route of this file

## a hint that the profile does not know
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    retry: {on: [gateway_says_retry]}
=> 5:18: gateways.g.retry.on[0]: profile generic has no retry_hint, so it would never apply

## a condition that is none
GATEWAY
defaults: {retry: {on: [notsent, {status: [5xx, 99]}, {statuses: [500]}, 500]}}
=> 2:25: defaults.retry.on[0]: write one of not_sent, connect, reset_before_answer, attempt_timeout, answer_broken, in_progress, rate_limited, not_executed, gateway_says_retry, or statuses as {status: [502, 5xx]}
=> 2:34: defaults.retry.on[1]: write a status as 402, 4xx or 500-599
=> 2:55: defaults.retry.on[2]: write one of not_sent, connect, reset_before_answer, attempt_timeout, answer_broken, in_progress, rate_limited, not_executed, gateway_says_retry, or statuses as {status: [502, 5xx]}
=> 2:74: defaults.retry.on[3]: write one of not_sent, connect, reset_before_answer, attempt_timeout, answer_broken, in_progress, rate_limited, not_executed, gateway_says_retry, or statuses as {status: [502, 5xx]}

## no condition at all
GATEWAY
defaults: {retry: {on: []}}
=> 2:20: defaults.retry.on: should be a list of at least one, not an empty list

## a condition alone
GATEWAY
defaults: {retry: {on: not_sent}}
=> 2:20: defaults.retry.on: should be a list, [a, b] or `- ` before each item, not the text 'not_sent'

## a risk for everything
gateways:
  g: {listen: "127.0.0.1:8080", upstream: "https://gw.example", retry: {risk: may_charge_twice}}
defaults: {retry: {risk: may_charge_twice}}
=> 2:73: gateways.g.retry.risk: a risk is taken by a route of the policy file: write it there, beside its `on`
=> 3:20: defaults.retry.risk: a risk is taken by a route of the policy file: write it there, beside its `on`

## a risk by another name
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: payment, match: {methods: [POST], path: "/**"}, retry: {on: [attempt_timeout], risk: yes}}
=> 6:77: gateways.g.routes[0].retry.on[0]: could charge twice: after attempt_timeout nobody knows whether the customer was charged, and g (D_none) promises nothing for a repeated key; leave it out, or write `risk: may_charge_twice` beside it
=> 6:95: gateways.g.routes[0].retry.risk: 'yes' is not one of 'may_charge_twice'

## a risk of nothing named
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    retry: {on: [not_sent]}
    routes:
      - {name: payment, match: {methods: [POST], path: "/**"}, retry: {risk: may_charge_twice}}
=> 7:72: gateways.g.routes[0].retry.risk: name after what it is taken, as `on` beside it

## a risk where there is none
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    routes:
      - {name: payment, match: {methods: [POST], path: "/p"}, retry: {on: [not_sent, {status: [429]}], risk: may_charge_twice}}
      - {name: search, match: {methods: [POST], path: "/s"}, retry: {on: [attempt_timeout], risk: may_charge_twice}}
=> 6:104: gateways.g.routes[0].retry.risk: nothing in `on` is a risk here (class D_none); leave it out
=> 7:62: gateways.g.routes[1].retry: means nothing unless the route says `session: durable`
=> 7:93: gateways.g.routes[1].retry.risk: nothing in `on` is a risk here (the route is not durable); leave it out

## keep shorter than replay
GATEWAY
session: {keep_for: 1h}
=> 2:11: session.keep_for: keep_for (1h) is shorter than replay_for (1d)

## replay longer than keep
GATEWAY
session: {replay_for: 40d}
=> 2:11: session.replay_for: keep_for (35d) is shorter than replay_for (40d)

## horizon
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    idempotency: {class: A_strong, window: 1h, resend_horizon: 2h}
=> 5:48: gateways.g.idempotency.resend_horizon: is longer than the gateway keeps a key; a repeat after that is a new charge

## credential from nowhere
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    lookup_credential: {header: X}
=> 5:5: gateways.g.lookup_credential: name exactly one of env and file

## credential from two
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    lookup_credential: {env: A, file: b}
=> 5:5: gateways.g.lookup_credential: name exactly one of env and file

## credential env
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    lookup_credential: {env: NOT_SET}
=> 5:5: gateways.g.lookup_credential: the environment variable NOT_SET is not set

## credential file
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    lookup_credential: {file: nope.txt}
=> 5:25: gateways.g.lookup_credential.file: cannot read the secret file: No such file or directory

## credential in yaml
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    lookup_credential: {value: sk_live_x}
=> 5:5: gateways.g.lookup_credential: name exactly one of env and file
=> 5:25: gateways.g.lookup_credential.value: unknown key; known here: env, file, header, sees_all

## credential header
gateways:
  g:
    listen: "127.0.0.1:8080"
    upstream: "https://gw.example"
    lookup_credential: {env: SET, header: 'X Y'}
=> 5:35: gateways.g.lookup_credential.header: 'X Y' is not the name of a header

## webhook key
gateways:
  stripe:
    profile: stripe
    listen: '127.0.0.1:8080'
    upstream: 'https://gw.example'
    webhook: {forwrad_to: 'https://shop.example'}
=> 6:15: gateways.stripe.webhook.forwrad_to: unknown key; did you mean 'forward_to'?

## webhook secret in yaml
gateways:
  stripe:
    profile: stripe
    listen: '127.0.0.1:8080'
    upstream: 'https://gw.example'
    webhook: {secret: whsec_1}
=> 6:15: gateways.stripe.webhook.secret: should be {env: NAME}, the variable that holds it; no secret stands here

## webhook of a gateway that has none
gateways:
  g: {profile: generic, listen: '127.0.0.1:8080', upstream: 'https://gw.example', webhook: {}}
=> 2:83: gateways.g.webhook: the profile does not say how this gateway's webhooks are read

## webhook forwarded to ourselves
gateways:
  stripe:
    profile: stripe
    listen: '127.0.0.1:8080'
    upstream: 'https://gw.example'
    webhook: {forward_to: 'http://127.0.0.1:8081/webhooks/stripe'}
=> 6:15: gateways.stripe.webhook.forward_to: http://127.0.0.1:8081/webhooks/stripe is listen.sessions (127.0.0.1:8081), Holdfast itself

#### YAML
## twice
GATEWAY
store: memory://
store: memory://
=> 3:1: store: written twice (first on line 2)

## gateway twice
gateways:
  g: {listen: '127.0.0.1:1', upstream: 'http://a'}
  g: {listen: '127.0.0.1:2', upstream: 'http://a'}
=> 3:3: gateways.g: written twice (first on line 2)

## tag
GATEWAY
store: !env STORE
=> 2:1: store: write a store as sqlite:///FILE, postgresql://…, redis://… or memory://
=> 2:8: store: tags are not read here: !env

## merge
GATEWAY
x: &x {replay_for: 1h}
session: {<<: *x}
=> 2:1: x: unknown key; known here: audit, defaults, gateways, key_file, listen, session, shutdown, spool, store
=> 3:11: session: keys are plain names; lists, maps and merge keys (<<) are not read here

## broken
GATEWAY
session: {expires_after: 15m
=> 3:1: not YAML: while parsing a flow mapping expected ',' or '}', but got '<stream end>' (begun on line 2)

## tab
GATEWAY
session:
<TAB>expires_after: 15m
=> 3:1: not YAML: while scanning for the next token found character '\t' that cannot start any token

## list
- gateways
=> 1:1: a file of settings has keys with values: `key: value`

## text
gateways
=> 1:1: a file of settings has keys with values: `key: value`

## empty
# later
=> 1:1: the file is empty

## two documents
GATEWAY
---
store: memory://
=> 2:1: not YAML: expected a single document in the stream but found another document (begun on line 1)

"""  # noqa: E501 -- messages as they are printed


def wrong_policies() -> list[object]:
    """Each case as parameters for a test: the file and the lines that are told."""
    cases: list[object] = []
    for case in _CASES.split("\n## ")[1:]:
        name, _, rest = case.partition("\n")
        lines = [line for line in rest.split("\n") if not line.startswith("#### ")]
        told = [line.removeprefix("=> ") for line in lines if line.startswith("=> ")]
        text = "".join(f"{line}\n" for line in lines if line and not line.startswith("=> "))
        text = text.replace("GATEWAY\n", GATEWAY).replace("<TAB>", "\t")
        assert told, name
        cases.append(pytest.param(text, told, id=name.replace(" ", "-")))
    return cases

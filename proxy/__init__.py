"""Holdfast: a payment resilience sidecar. This page is the architecture; the flow starts at
`flow/pipeline.py`.

Rooms, from the inside out:

- `core/`       what a payment session is and what may follow what: pure values and functions
- `gateways/`   what is known about each gateway, as data
- `ports.py`    what the flow needs from the outside, as protocols
- `flow/`       the walk of one request: pipeline, intake, admission, attempts, answer
- `stores/`     where sessions are kept · `upstream/` the way to the gateways
- `telemetry/`  events → metrics and log lines · `settings/` YAML → policies
- `system.py` clock and dice · `keyring.py` the install's secret · `audit.py` the audit trail ·
  `tasks.py` background tasks
- `spool.py`    outcomes that the store could not take, until it can
- `background/` the janitor (time), the reconciler and the prober (ask the gateway)
- `web/`        HTTP in: the gateway listeners, the session API, webhooks, health and metrics
- `app.py`      wires it all; `cli.py` starts it; `demo/` is the simulated gateway and its traffic

One rule: a room may import what stands lower in this list of layers, never higher; rooms on one
layer are strangers (`pyproject.toml`, `[tool.importlinter]`, holds it).

Words: a *session* is one payment; an *attempt* is one send, counted from 1; a *retry* is attempt 2
and later; the *outcome* is what is known of the money; an *interruption* is a stop without a
definite answer; a *refusal* is Holdfast's own no, a *decline* is the gateway's; an *open* breaker
refuses; the *janitor* tidies by time, the *reconciler* asks the gateway what
became of a payment, the *prober* whether it is back.
"""

__version__ = "0.1.0"

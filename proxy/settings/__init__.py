"""YAML and environment in, frozen policies and profiles out; every mistake named at once.

`load.py` is the way in. `schema.py` says what may be written, what it does, and why a default is
what it is; `defaults.py` what holds when nothing is written; `json_schema.py` tells it to editors.
`texts.py` is how a duration, a path or an address is written; `yaml_lines.py` keeps line and column
for the messages. `resolve.py` turns a policy into values, `facts.py` a profile, with `lookups.py`,
`webhooks.py`, `retries.py` and `routes.py` for a part each.
"""

"""The pure core: what a payment session is and what may follow what.

Rule 1: the standard library and what reads or holds values (msgspec, orjson, xmltodict); nothing
that waits, reads a clock, rolls dice, logs or does I/O.
Rule 2: `now` and jitter come in as arguments; verdicts go out as values that carry their reason.
Rule 3: everyone else reads the classified `AttemptResult`; nobody else looks at a status code.
"""

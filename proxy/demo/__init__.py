"""The demonstration: a simulated faulty gateway, traffic with and without Holdfast, a live table.

`faults.py` decides what goes wrong (seeded), `ledger.py` holds what was charged, `simulator.py` is
a gateway without a language, `gateway.py` speaks Stripe's and `dialects/` the others', `traffic.py`
is the shop, `show.py` the table, `run.py` puts them together.
"""

"""The demonstration: a simulated faulty gateway, traffic with and without Holdfast, a live table.

`faults.py` decides what goes wrong (seeded), `gateway.py` is the Stripe-shaped gateway with a
ledger, `traffic.py` the shop, `show.py` the table, `run.py` puts them together.
"""

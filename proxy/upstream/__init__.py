"""The way to the gateways. `client.py` sends with aiohttp, `bodies.py` are the bodies on its way;
`scripted.py` answers from a script.

Whatever client is used must pass `tests/upstream/test_wire_conformance.py` unchanged.
"""

"""The way to the gateways. `lean.py` sends what moves money, `writing.py` has the bytes of its
requests and `reading.py` reads the answers; `client.py` sends with aiohttp what streams,
`bodies.py` being the bodies on its way; `faults.py` says for both what went wrong; `scripted.py`
answers from a script.

Whatever client is used must pass `tests/upstream/test_wire_conformance.py` unchanged.
"""

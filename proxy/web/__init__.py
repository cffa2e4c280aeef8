"""HTTP in. `forward.py` takes requests for gateways, `sessions_api.py` those about sessions,
`admin.py` health and metrics; `listeners.py` opens and closes the doors.
"""

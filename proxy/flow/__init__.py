"""The walk of one request, in order. `pipeline.py` is where it starts and where all branches are.

intake (who is this payment?) → admission (may it go now?) → attempts (intent, send, outcome,
repeat?) → answer (what the backend hears). `journal.py` is how every one of them makes a session
move; `commands.py` is the same for people and `reconcile.py` for the gateway's own word.
"""

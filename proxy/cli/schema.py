"""`holdfast schema`: what may be written, for editors."""

from __future__ import annotations

import argparse

from proxy.settings.json_schema import policy_schema, printed, profile_schema


def schema(options: argparse.Namespace) -> int:
    """Print the schema of a policy file, or of a gateway profile."""
    print(printed(profile_schema() if options.profile else policy_schema()), end="")
    return 0

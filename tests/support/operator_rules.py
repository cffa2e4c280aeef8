"""The alert rules as the Prometheus Operator takes them: `deploy/prometheus/rules.yml`, wrapped.

Run as a module it writes the file: ./dev run python -m tests.support.operator_rules
"""

from __future__ import annotations

from textwrap import indent

from tests.support.tools import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
WRAPPED = ROOT / "deploy" / "kubernetes" / "monitoring" / "prometheusrule.yaml"
HEAD = """\
# deploy/prometheus/rules.yml, wrapped for the Prometheus Operator. Do not edit it here:
# ./dev run python -m tests.support.operator_rules
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: holdfast
  labels:
    app.kubernetes.io/name: holdfast
spec:
"""


def wrapped() -> str:
    """The whole file."""
    return HEAD + indent(RULES.read_text(encoding="utf-8"), "  ")


if __name__ == "__main__":
    WRAPPED.write_text(wrapped(), encoding="utf-8")
    print(f"wrote {WRAPPED.relative_to(ROOT)}")

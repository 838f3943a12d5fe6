"""What the rules found, as a linter tells it: one line each, JSON, GitHub annotations, or SARIF."""

from fxgrad.render.findings.finding import Finding, findings_of, is_grave, sorted_findings
from fxgrad.render.findings.formats import formatted

__all__ = ["Finding", "findings_of", "formatted", "is_grave", "sorted_findings"]

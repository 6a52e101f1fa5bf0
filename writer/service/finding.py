"""One thing that `arena-writer doctor` looked at."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `verdict` is ok, note (a start works without it) or fail."""

    verdict: str
    subject: str
    found: str
    facts: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        return f"{self.verdict:4}  {self.subject:9}  {self.found}"

    def as_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "subject": self.subject, "found": self.found, **self.facts}


def failure(verdict: str, subject: str, error: BaseException) -> Finding:
    name = type(error).__name__
    return Finding(verdict, subject, f"{name}: {error}", {"error": name})

"""What a check found in a dataset."""

from typing import Literal

from zk0.work.records import Record


class DataFinding(Record):
    """What one check found in one dataset."""

    dataset: str
    """The dataset's name."""
    check: str
    """The check's name, as docs/data.md has it."""
    verdict: Literal["ok", "warning", "error"]
    """error: training on it would fail or be wrong; warning: a person should look at it."""
    seen: str
    """What was seen, with figures."""
    remedy: str = ""
    """What to do; empty where all is well."""

    def __str__(self) -> str:
        """One line for messages and logs."""
        return f"dataset {self.dataset!r}: {self.check}: {self.seen}" + (f"; {self.remedy}" if self.remedy else "")


class DataReport(Record):
    """What all checks found in all datasets of a config."""

    findings: list[DataFinding]
    """In the order of the config's datasets, and of the checks."""
    frames: dict[str, int]
    """Frames of every dataset whose metadata can be read, by name."""

    def of(self, verdict: Literal["ok", "warning", "error"]) -> list[DataFinding]:
        """The findings of one verdict."""
        return [finding for finding in self.findings if finding.verdict == verdict]

"""The table of `zk0 check-data`."""

from rich.table import Table
from rich.text import Text

from zk0.data.findings import DataReport

_VERDICTS = {"ok": "green", "warning": "yellow", "error": "bold red"}


def findings_table(found: DataReport) -> Table:
    """Tabulate what every check found in every dataset, with what to do about it."""
    table = Table()
    table.add_column("dataset", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("seen", overflow="fold", ratio=3)
    table.add_column("remedy", overflow="fold", ratio=2)
    last = ""
    for finding in found.findings:
        if last and finding.dataset != last:
            table.add_section()
        verdict = Text(finding.verdict, style=_VERDICTS[finding.verdict])
        table.add_row(finding.dataset, finding.check, verdict, Text(finding.seen), Text(finding.remedy))
        last = finding.dataset
    return table

"""What a campaign found: kept as JSON lines, told as a table, written as Markdown."""

import json
import os
import platform
import statistics
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from benchmarks.chaos.commands import COMMAND, KINDS
from benchmarks.chaos.phases import PHASES
from benchmarks.chaos.victims import VICTIMS

HEADING = "## A hundred kills"
METHOD = """\
Victims and phases come from a deck that the seed shuffles. A kill is aimed by watching the run directory (inotify), and
counted under the phase that it hit: told by the temporary files, the results and the lines of run.log that were there
when the killed process was gone. A kill in a step of the commit came before that file was whole. Nothing is done by
hand but what `deployments/zk0.service` does, `zk0 serve` started again five seconds after its death; and some runs are
a `zk0 run` that is repeated after its death, or left to `zk0 serve`. When a run has ended, its tensors, policy and
metrics are compared with an undisturbed run's, every result must have been written once and none begun again, no
process of it may live, and Prefect may believe no flow or task run alive. Commands beside a run (`zk0 compare`, `zk0
export`, `zk0 check-data --fix-to`, `zk0 run` with `continue_from`) are killed at a moment drawn from the time that they
take, and given again until they end: what they made must be what an undisturbed one makes. Ten seconds after the kill
nothing of theirs may live but a fit or an evaluation, which is adopted, and ten seconds after the end nothing."""
Rows = list[tuple[str, list[str]]]


class Records:
    """The runs of a campaign and their kills, in a file that outlives the command."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path, self._seed = path, seed
        lines = path.read_text().splitlines() if path.is_file() else []
        self.runs: list[dict[str, Any]] = [json.loads(text) for text in lines]

    @property
    def mine(self) -> list[dict[str, Any]]:
        """The runs of this seed; those of others are in the table too."""
        return [run for run in self.runs if run["seed"] == self._seed]

    @property
    def mine_of_runs(self) -> list[dict[str, Any]]:
        """Without the commands beside them."""
        return [run for run in self.mine if run["way"] != COMMAND]

    @property
    def kills(self) -> list[dict[str, Any]]:
        return [kill for run in self.runs for kill in run["kills"]]

    @property
    def all_well(self) -> bool:
        return not any(run["wrong"] for run in self.runs)

    def remaining(self, cards: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The cards that are not played yet."""
        played = Counter((kill["victim"], kill["aimed_at"]) for run in self.mine_of_runs for kill in run["kills"])
        left = []
        for card in cards:
            played[card] -= 1
            if played[card] < 0:
                left.append(card)
        return left

    def add(self, run: dict[str, Any]) -> None:
        run = {**run, "seed": self._seed, "ended_at": datetime.now(UTC).isoformat(timespec="seconds")}
        self.runs.append(run)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(run) + "\n")


def tables(records: Records) -> Group:
    """For the terminal."""
    parts = []
    for title, (head, rows) in _content(records).items():
        table = Table(*head, title=title)
        for name, cells in rows:
            table.add_row(name, *cells)
        parts.append(table)
    return Group(*parts)


def markdown(records: Records) -> str:
    """The section of a document."""
    runs, kills = records.runs, records.kills
    bad = [run for run in runs if run["wrong"]]
    seeds = sorted({run["seed"] for run in runs})
    first, last = min(run["ended_at"] for run in runs)[:10], max(run["ended_at"] for run in runs)[:10]
    when = first if first == last else f"{first} to {last}"
    half = sum(1 for kill in kills if kill["half_written"])
    parts = [
        HEADING,
        "",
        "```",
        "uv run python -m benchmarks.chaos --kills 100 --runs 20 --seed 1 --log chaos.jsonl",
        "```",
        "",
        (
            f"{when}, {os.cpu_count()} cores, {platform.system()}: {len(kills)} kills (SIGKILL) in "
            f"{len(runs)} runs; {len(runs) - len(bad)} runs ended with the tensors, the policy and the metrics of an "
            f"undisturbed run, with no finished work done twice and nothing left over. "
            f"{half} kills left a file half written. "
            f"({'; '.join(_share([run for run in runs if run['seed'] == seed]) for seed in seeds)}.)"
        ),
    ]
    parts += ["", METHOD]
    for title, (head, rows) in _content(records).items():
        parts += ["", f"**{title}**", "", f"| {' | '.join(head)} |", _alignment(rows)]
        parts += [f"| {' | '.join((name, *cells))} |" for name, cells in rows]
    parts += ["", *(f"- {run['run']}: {'; '.join(run['wrong'])}" for run in bad)]
    return "\n".join(parts).rstrip() + "\n"


def _alignment(rows: Rows) -> str:
    columns = list(zip(*(cells for _, cells in rows), strict=True))
    right = [all(cell.replace(".", "").isdigit() for cell in column if cell) for column in columns]
    return "|---" + "".join("|---:" if number else "|---" for number in right) + "|"


def _share(runs: list[dict[str, Any]]) -> str:
    return f"{sum(len(run['kills']) for run in runs)} in {len(runs)} runs with seed {runs[0]['seed']}"


def write_section(path: Path, section: str) -> None:
    """Put the section into a document, in the place of an older one; the rest of the document stays."""
    text = path.read_text() if path.is_file() else "# Reliability\n"
    before, _, after = text.partition(HEADING)
    rest = after[after.find("\n## ") + 1 :] if "\n## " in after else ""
    path.write_text(f"{before.rstrip()}\n\n{section}" + (f"\n{rest}" if rest else ""))


def _content(records: Records) -> dict[str, tuple[list[str], Rows]]:
    return {
        "Who was killed in which phase": _hits(records.kills),
        "Seconds until it was back": _times(records.kills),
        "Runs": _outcomes(records.runs),
    }


def _hits(kills: list[dict[str, Any]]) -> tuple[list[str], Rows]:
    count = Counter((kill["phase"], kill["victim"]) for kill in kills)
    rows: Rows = []
    for phase in (*PHASES, *KINDS, None):
        cells = [sum(n for (p, v), n in count.items() if v == victim and phase in (p, None)) for victim in VICTIMS]
        rows.append((phase or "all", [*(str(n or "") for n in cells), str(sum(cells))]))
    return ["phase", *VICTIMS, "all"], rows


def _times(kills: list[dict[str, Any]]) -> tuple[list[str], Rows]:
    rows: Rows = []
    for victim in VICTIMS:
        took = [kill["back_s"] for kill in kills if kill["victim"] == victim and kill["back_s"] is not None]
        if took:
            rows.append((victim, [f"{statistics.median(took):.1f}", f"{max(took):.1f}", str(len(took))]))
    return ["killed", "median", "longest", "measured"], rows


def _outcomes(runs: list[dict[str, Any]]) -> tuple[list[str], Rows]:
    rows: Rows = []
    groups = sorted({(run["config"], run["way"]) for run in runs})
    for config, way in groups:
        here = [run for run in runs if (run["config"], run["way"]) == (config, way)]
        well = sum(not run["wrong"] for run in here)
        killed = sum(len(run["kills"]) for run in here)
        digests = ", ".join(sorted({run["digest"][:12] for run in here}))
        rows.append((config, [way, str(len(here)), str(killed), str(well), digests]))
    return ["config", "started as", "runs", "kills", "as undisturbed", "digest"], rows

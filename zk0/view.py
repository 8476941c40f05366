"""What a run looks like on a terminal: the live view, `zk0 status` and the closing table of base against result."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from zk0 import memory
from zk0.figures import Json, in_brackets, interval, mapping, number, success_text
from zk0.progress import ClientProgress, RunProgress, failures, read_progress
from zk0.records import DataReport
from zk0.scores import QUICK, comparable, mode

_STYLES = {
    "training": "cyan",
    "evaluating": "cyan",
    "rolling out": "cyan",
    "preparing": "cyan",
    "running": "cyan",
    "done": "green",
    "finished": "green",
    "failed": "bold red",
    "interrupted": "yellow",
}
_VERDICTS = {"ok": "green", "warning": "yellow", "error": "bold red"}
_REFRESH_S = 0.5


def status_view(run_dir: str | Path, ui_url: str | None = None, pid: int | None = None) -> RenderableType:
    """Draw how a run stands, for the live view and `zk0 status`.

    Args:
        run_dir: the run directory.
        ui_url: the run's page in the Prefect UI.
        pid: the process that advances the run, whose memory is shown; read from run.lock when None.
    """
    progress = read_progress(run_dir)
    pid = pid or progress.pid
    facts = [f"elapsed {_duration(progress.elapsed_s)}"]
    if progress.state != "finished":
        facts.append(f"left {_duration(progress.eta_s)}")
    if pid is not None:
        facts.append(_memory_text(memory.snapshot(pid)))
    if progress.best is not None:
        best = progress.best
        on = ", on the quick frames" if best.frames == QUICK else ""
        facts.append(f"best round {best.server_round} ({best.label}: {best.value:.4g}{on})")
    lines: list[RenderableType] = [_headline(progress), _client_table(progress)]
    if progress.environments:
        lines.append(_environment_table(progress))
    lines.append(Text("  ".join(facts), style="dim"))
    lines += [
        Text(f"videos {name}: {folder}", "dim", no_wrap=True, overflow="ignore")
        for name, folder in _video_folders(progress)
    ]
    if ui_url:
        lines.append(Text(ui_url, style="dim"))
    return Group(*lines)


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


def closing_view(run_dir: str | Path) -> RenderableType:
    """`summary_table`, and `success_table` where the run has simulated environments."""
    success = success_table(run_dir)
    return summary_table(run_dir) if success is None else Group(summary_table(run_dir), success)


def success_table(run_dir: str | Path) -> Table | None:
    """Tabulate success in closed loop in round 0 and in the newest round that has it; None without environments."""
    progress = read_progress(run_dir)
    lines = [line for line in progress.rounds if mapping(line.get("rollout"))]
    if not progress.environments or not lines:
        return None
    first, last = lines[0], lines[-1]
    table = Table(title="success in closed loop, with Wilson's 95 % interval")
    table.add_column("environment", no_wrap=True)
    for line in (first, last):
        table.add_column(f"round {line['server_round']}", justify="right")
    for environment in progress.environments:
        cells = [Text(success_text(mapping(line["rollout"]).get(environment.name)) or "-") for line in (first, last)]
        table.add_row(environment.name, *cells)
    if len(progress.environments) > 1:
        table.add_row(
            "all episodes", *(Text(success_text(line.get("summary"))) for line in (first, last)), style="bold"
        )
    return table


def summary_table(run_dir: str | Path) -> Table:
    """Tabulate round 0, the base policy, beside the last committed round, for every dataset.

    Args:
        run_dir: the run directory.

    Returns:
        A row per client's hold-out, their mean (over those evaluated in both rounds) and a row per unseen setting. The
        change is in percent of round 0's, with its 95 % interval.
    """
    progress = read_progress(run_dir)
    last = int(progress.rounds[-1]["server_round"]) if progress.rounds else 0
    both_ends, frames = comparable([progress.rounds[index] for index in (0, -1)] if progress.rounds else [])
    on = "every n-th frame of held-out episodes (quick)" if frames == QUICK else "held-out episodes"
    table = Table(title=f"{progress.name}: round 0 (the base) -> round {last}, on {on}")
    table.add_column("dataset", no_wrap=True)
    for heading in ("action\nerror, deg", "change", "gripper\nerror, 0-100", "loss"):
        table.add_column(heading, justify="right", no_wrap=heading != "change")  # a narrow terminal breaks no pair
    if not progress.rounds:
        return table
    base, final = (mapping(line.get("evaluate")) for line in both_ends)
    by_name, by_clients = _change_intervals(both_ends[1])
    seen = [client.name for client in progress.clients if not client.unseen]
    unseen = [client.name for client in progress.clients if client.unseen]
    for name in seen:
        table.add_row(name, *_compare(mapping(base.get(name)), mapping(final.get(name)), by_name.get(name)))
    both = [name for name in seen if name in base and name in final]
    table.add_row("mean of clients", *_compare(_mean(base, both), _mean(final, both), by_clients), style="bold")
    table.add_section()
    for name in unseen:
        row = _compare(mapping(base.get(name)), mapping(final.get(name)), by_name.get(name))
        table.add_row(f"{name} (unseen)", *row)
    return table


class LiveView:
    """Shows a run while it goes on: a live table on a terminal, else one line per event.

    A context manager; it reads the run directory twice a second in a thread of its own, and no fault in what it reads
    reaches the run. On leaving, by an exception or Ctrl-C too, the terminal is as it was.
    """

    def __init__(self, run_dir: str | Path, ui_url: str | None = None, console: Console | None = None) -> None:
        """Prepare the view; nothing is shown before it is entered.

        Args:
            run_dir: the run directory; need not exist yet.
            ui_url: the run's page in the Prefect UI.
            console: where to draw, stdout when None.
        """
        self._run_dir = Path(run_dir)
        self._ui_url = ui_url
        self._console = console or Console()
        self._live = Live(
            console=self._console, get_renderable=self._render, refresh_per_second=1 / _REFRESH_S, transient=True
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._print_events, name="zk0-view", daemon=True)

    def __enter__(self) -> Self:
        """Start showing."""
        if self._console.is_terminal:
            self._live.start(refresh=True)
        else:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Show the last state and stop."""
        if self._console.is_terminal:
            self._live.stop()
            self._console.print(self._render())
        else:
            self._stop.set()
            self._thread.join()

    def _render(self) -> RenderableType:
        return status_view(self._run_dir, self._ui_url, os.getpid())

    def _print_events(self) -> None:
        before: RunProgress | None = None
        last_look = False
        while not last_look:
            last_look = self._stop.wait(_REFRESH_S if before else 0)  # one look more after the end of the run
            now = read_progress(self._run_dir)
            for line in events(before, now):
                self._say(line)
            before = now

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def events(before: RunProgress | None, now: RunProgress) -> Iterator[str]:
    """Name what happened between two readings, a line each.

    Args:
        before: the earlier reading, None at the start.
        now: the later one.
    """
    if before is None:
        if now.rounds:
            yield f"{now.name}: goes on after round {now.rounds[-1]['server_round']} of {now.num_rounds}"
    else:
        known = {line["server_round"] for line in before.rounds}
        for line in now.rounds:
            if line["server_round"] not in known:
                yield from _round_lines(now, line)
    old = {client.name: client.phase for client in before.clients} if before else {}
    same_round = before is not None and before.server_round == now.server_round
    for client in now.clients:
        quiet = client.phase in ("waiting", "failed") or (same_round and old.get(client.name) == client.phase)
        if now.state != "finished" and not quiet:
            yield f"round {now.server_round} of {now.num_rounds}  {client.name}: {_phase_text(client)}"
    doing = {environment.name: environment.phase for environment in before.environments} if before else {}
    for environment in now.environments:
        news = not same_round or doing.get(environment.name) != environment.phase
        if now.state != "finished" and news and environment.phase in ("rolling out", "done"):
            yield f"round {now.server_round} of {now.num_rounds}  {environment.name}: {environment.phase}"
    # A run that starts holds its lock only a moment later; "interrupted" is news only of one that was running.
    stopped = now.state == "interrupted" and before is not None and before.state == "running"
    if stopped or (now.state == "finished" and (before is None or before.state != now.state)):
        yield f"{now.name}: {now.state} after {_duration(now.elapsed_s)}"


def _round_lines(progress: RunProgress, line: Json) -> Iterator[str]:
    summary = mapping(line.get("summary"))
    parts = [f"round {line['server_round']} of {progress.num_rounds} committed"]
    spread = in_brackets(mapping(summary.get("interval_95")).get("action_error_deg"), 2)
    how = ", on the quick frames" if mode(line) == QUICK else ""
    parts.append(f"action error {_figure(summary.get('action_error_deg'), 2)}{spread} deg{how}")
    if summary.get("unseen_action_error_deg") is not None:
        parts.append(f"unseen {_figure(summary['unseen_action_error_deg'], 2)} deg")
    if success := success_text(summary):
        parts.append(f"success {success}")
    if summary.get("train_loss") is not None:
        parts.append(f"train loss {_figure(summary['train_loss'], 4)}")
    parts.append(f"took {_duration(number(line.get('duration_s')))}, left {_duration(progress.eta_s)}")
    yield "  ".join(parts)
    for name, failure in failures(line).items():
        yield f"round {line['server_round']} of {progress.num_rounds}  {name}: failed, {failure}"
    for change in mapping(line.get("adaptive")).get("changes", ()):
        yield f"round {line['server_round']} of {progress.num_rounds}  adaptive: {change}"


def _headline(progress: RunProgress) -> Table:
    line = Table.grid(padding=(0, 2))
    line.add_row(
        Text(progress.name, style="bold"),
        Text(progress.state, style=_STYLES.get(progress.state, "")),
        f"round {progress.server_round} of {progress.num_rounds}",
        ProgressBar(total=max(progress.num_rounds, 1), completed=max(len(progress.rounds) - 1, 0), width=30),
    )
    return line


def _client_table(progress: RunProgress) -> Table:
    table = Table(expand=False)
    table.add_column("client", no_wrap=True)
    table.add_column("phase")
    table.add_column("train loss", justify="right")
    table.add_column("action error, deg [95 %]", justify="right")
    for client in progress.clients:
        quick = " quick" if client.evaluation == QUICK else ""
        table.add_row(
            f"{client.name} (unseen)" if client.unseen else client.name,
            Text(_phase_text(client), style=_STYLES.get(client.phase, "")),
            _figure(client.loss, 4),
            Text(_figure(client.action_error_deg, 2) + in_brackets(client.action_error_interval, 2) + quick),
        )
    return table


def _environment_table(progress: RunProgress) -> Table:
    table = Table(expand=False)
    table.add_column("environment", no_wrap=True)
    table.add_column("phase")
    table.add_column("success [95 %]", justify="right")
    table.add_column("in round", justify="right")
    for environment in progress.environments:
        failed = f", {environment.failure}" if environment.phase == "failed" else ""
        table.add_row(
            environment.name,
            Text(environment.phase + failed, style=_STYLES.get(environment.phase, "")),
            Text(success_text(environment.success) or "-"),
            "-" if environment.server_round is None else str(environment.server_round),
        )
    return table


def _video_folders(progress: RunProgress) -> Iterator[tuple[str, Path]]:
    for environment in progress.environments:
        if environment.videos:
            yield environment.name, Path(environment.videos[0]).parent


def _phase_text(client: ClientProgress) -> str:
    if client.phase == "failed":
        return f"failed, {client.failure}"
    if client.step is not None and client.steps:
        return f"{client.phase} {client.step} of {client.steps}"
    return client.phase


def _memory_text(now: memory.Snapshot) -> str:
    text = f"RAM {memory.gib(now.tree_rss_bytes)}, host {now.ram_percent:.0f}%"
    if now.vram_allocated_bytes is None or now.vram_total_bytes is None:
        return text
    return f"{text}, VRAM {memory.gib(now.vram_allocated_bytes)} of {memory.gib(now.vram_total_bytes)}"


def _compare(base: Json, final: Json, spread: list[float] | None = None) -> tuple[str, Text, str, str]:
    """Cells of two evaluations of the same frames; `spread` is the interval of the change, in shares."""

    def pair(key: str, digits: int) -> str:
        return f"{_figure(base.get(key), digits)} -> {_figure(final.get(key), digits)}"

    before, after = number(base.get("action_error_deg")), number(final.get("action_error_deg"))
    change = f"{(after - before) / before:+.1%}" if before and after is not None else "-"
    if change != "-":
        change += in_brackets([100 * bound for bound in spread or ()], 0).replace(
            ", ", ","
        )  # one word, if it must wrap
    return pair("action_error_deg", 2), Text(change), pair("gripper_error", 1), pair("loss", 3)


def _change_intervals(line: Json) -> tuple[dict[str, list[float] | None], list[float] | None]:
    """Interval of the action error's change since round 0, in shares: by dataset, and of the clients' mean."""
    change = mapping(line.get("change"))

    def of(by_error: object) -> list[float] | None:
        return interval(mapping(mapping(by_error).get("action_error_deg")).get("relative_interval_95"))

    return {name: of(item) for name, item in mapping(change.get("datasets")).items()}, of(change.get("clients"))


def _mean(evaluated: Json, names: list[str]) -> Json:
    """Average every figure over the datasets; one that any of them lacks is left out."""
    items = [mapping(evaluated[name]) for name in names]
    keys = [key for key in items[0] if all(number(item.get(key)) is not None for item in items)] if items else []
    return {key: sum(item[key] for item in items) / len(items) for key in keys}


def _figure(value: object, digits: int) -> str:
    known = number(value)
    return "-" if known is None else f"{known:.{digits}f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

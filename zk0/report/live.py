"""The live view of a run in a terminal, and its plain lines where there is none."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

from zk0.metrics import units
from zk0.metrics.scores import QUICK, mode
from zk0.metrics.units import ACTION_ERROR
from zk0.metrics.values import Json, mapping, number
from zk0.report.terminal import status_view
from zk0.report.text import duration, error_text, figure, phase_text, success_text
from zk0.runs.progress import failures, read_progress
from zk0.runs.standing import RunProgress

_REFRESH_S = 0.5


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
    same_round = before is not None and before.server_round == now.server_round
    committed, moves = list(_commits(before, now)), list(_moves(before, now, same_round))
    yield from (*moves, *committed) if same_round else (*committed, *moves)  # the last round stays when it is done
    # A run that starts holds its lock only a moment later; "interrupted" is news only of one that was running.
    stopped = now.state == "interrupted" and before is not None and before.state == "running"
    if stopped or (now.state == "finished" and (before is None or before.state != now.state)):
        yield f"{now.name}: {now.state} after {duration(now.elapsed_s)}"


def _commits(before: RunProgress | None, now: RunProgress) -> Iterator[str]:
    if before is None:
        if now.rounds:
            yield f"{now.name}: goes on after round {now.rounds[-1]['server_round']} of {now.num_rounds}"
        return
    known = {line["server_round"] for line in before.rounds}
    for line in now.rounds:
        if line["server_round"] not in known:
            yield from _round_lines(now, line)


def _moves(before: RunProgress | None, now: RunProgress, same_round: bool) -> Iterator[str]:
    """What clients and environments have begun or done since."""
    if now.state == "finished":
        return
    old = {client.name: client.phase for client in before.clients} if before else {}
    for client in now.clients:
        quiet = client.phase in ("waiting", "failed") or (same_round and old.get(client.name) == client.phase)
        if not quiet:
            yield f"round {now.server_round} of {now.num_rounds}  {client.name}: {phase_text(client)}"
    doing = {environment.name: environment.phase for environment in before.environments} if before else {}
    for environment in now.environments:
        news = not same_round or doing.get(environment.name) != environment.phase
        if news and environment.phase in ("rolling out", "done"):
            yield f"round {now.server_round} of {now.num_rounds}  {environment.name}: {environment.phase}"


def _round_lines(progress: RunProgress, line: Json) -> Iterator[str]:
    summary = mapping(line.get("summary"))
    parts = [f"round {line['server_round']} of {progress.num_rounds} committed"]
    how = ", on the quick frames" if mode(line) == QUICK else ""
    parts.append(f"action error {error_text(summary, ACTION_ERROR, spread=True)}{how}")
    if units.value(summary, f"unseen_{ACTION_ERROR}") is not None:
        parts.append(f"unseen {error_text(summary, f'unseen_{ACTION_ERROR}')}")
    if success := success_text(summary):
        parts.append(f"success {success}")
    if summary.get("train_loss") is not None:
        parts.append(f"train loss {figure(summary['train_loss'], 4)}")
    parts.append(f"took {duration(number(line.get('duration_s')))}, left {duration(progress.eta_s)}")
    yield "  ".join(parts)
    for name, failure in failures(line).items():
        yield f"round {line['server_round']} of {progress.num_rounds}  {name}: failed, {failure}"
    for change in mapping(line.get("adaptive")).get("changes", ()):
        yield f"round {line['server_round']} of {progress.num_rounds}  adaptive: {change}"

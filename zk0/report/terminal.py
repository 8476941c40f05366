"""What a run looks like on a terminal: the live view, `zk0 status` and the closing table of base against result."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from zk0.memory.usage import Snapshot, gib, snapshot
from zk0.metrics import units
from zk0.metrics.scores import QUICK, comparable
from zk0.metrics.units import ACTION_ERROR, GRIPPER_ERROR, headed
from zk0.metrics.values import Json, interval, mapping, number
from zk0.report.text import duration, error_text, figure, in_brackets, phase_text, shared_unit, success_text
from zk0.runs.progress import read_progress
from zk0.runs.standing import RunProgress

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


def status_view(run_dir: str | Path, ui_url: str | None = None, pid: int | None = None) -> RenderableType:
    """Draw how a run stands, for the live view and `zk0 status`.

    Args:
        run_dir: the run directory.
        ui_url: the run's page in the Prefect UI.
        pid: the process that advances the run, whose memory is shown; read from run.lock when None.
    """
    progress = read_progress(run_dir)
    pid = pid or progress.pid
    facts = [f"elapsed {duration(progress.elapsed_s)}"]
    if progress.state != "finished":
        facts.append(f"left {duration(progress.eta_s)}")
    if pid is not None:
        facts.append(_memory_text(snapshot(pid)))
    if progress.best is not None:
        best = progress.best
        on = ", on the quick frames" if best.frames == QUICK else ""
        facts.append(f"best round {best.server_round} ({best.label}: {best.value:.4g}{on})")
    lines: list[RenderableType] = [_headline(progress), _client_table(progress)]
    if progress.stopped is not None:
        words = f"{progress.stopped.words}; nothing goes on with it by itself: zk0 resume {progress.name}"
        lines.insert(1, Text(words, style="yellow"))
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


def closing_view(run_dir: str | Path) -> RenderableType:
    """`summary_table`, `success_table` where there are environments, what privacy was spent, and who took no part."""
    success, progress = success_table(run_dir), read_progress(run_dir)
    tables = [summary_table(run_dir), *([] if success is None else [success])]
    spent = _privacy_text(progress)
    missing = [Text(f"{item}; {item.why}" if item.why else str(item), "yellow") for item in progress.absent]
    return Group(*tables, *([Text(spent)] if spent else []), *missing)


def _privacy_text(progress: RunProgress) -> str:
    """What differential privacy has spent; nothing without any."""
    spent = mapping(progress.rounds[-1].get("privacy")) if progress.rounds else {}
    epsilon, delta = number(spent.get("epsilon")), number(spent.get("delta"))
    return "" if epsilon is None or delta is None else f"privacy spent: epsilon {epsilon:.4g} at delta {delta:g}"


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
    table = Table(title=Text(f"{progress.name}: round 0 (the base) -> round {last}, on {on}", "table.title"))
    table.add_column("dataset", no_wrap=True)
    base, final = (mapping(line.get("evaluate")) for line in both_ends or [{}, {}])
    of = {name: shared_unit([*base.values(), *final.values()], name) for name in (ACTION_ERROR, GRIPPER_ERROR)}
    action, gripper = headed("action\nerror", of[ACTION_ERROR]), headed("gripper\nerror", of[GRIPPER_ERROR])
    for heading in (action, "change", gripper, "loss"):
        table.add_column(heading, justify="right", no_wrap=heading != "change")  # a narrow terminal breaks no pair
    if not progress.rounds:
        return table
    by_name, by_clients = _change_intervals(both_ends[1])
    seen = [client.name for client in progress.clients if not client.unseen]
    unseen = [client.name for client in progress.clients if client.unseen]
    for name in seen:
        table.add_row(name, *_compare(mapping(base.get(name)), mapping(final.get(name)), of, by_name.get(name)))
    both = [name for name in seen if name in base and name in final]
    table.add_row("mean of clients", *_compare(_mean(base, both), _mean(final, both), of, by_clients), style="bold")
    table.add_section()
    for name in unseen:
        row = _compare(mapping(base.get(name)), mapping(final.get(name)), of, by_name.get(name))
        table.add_row(f"{name} (unseen)", *row)
    return table


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
    known = [client for client in progress.clients if client.action_error is not None]
    unit = units.shared(client.unit for client in known)
    table.add_column(f"{headed('action error', unit)} [95 %]", justify="right")
    for client in progress.clients:
        own = f" {client.unit}" if client in known and client.unit not in (None, unit) else ""
        quick = " quick" if client.evaluation == QUICK else ""
        table.add_row(
            f"{client.name} (unseen)" if client.unseen else client.name,
            Text(phase_text(client), style=_STYLES.get(client.phase, "")),
            figure(client.loss, 4),
            Text(figure(client.action_error) + in_brackets(client.action_error_interval) + own + quick),
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


def _memory_text(now: Snapshot) -> str:
    text = f"RAM {gib(now.tree_rss_bytes)}, host {now.ram_percent:.0f}%"
    if now.vram_allocated_bytes is None or now.vram_total_bytes is None:
        return text
    return f"{text}, VRAM {gib(now.vram_allocated_bytes)} of {gib(now.vram_total_bytes)}"


def _compare(
    base: Json, final: Json, of: Mapping[str, str | None], spread: list[float] | None = None
) -> tuple[str, Text, str, str]:
    """Cells of two evaluations of the same frames.

    Args:
        base: figures of the one.
        final: figures of the other.
        of: error -> the unit that its heading says.
        spread: the interval of the change, in shares.
    """

    def pair(name: str) -> str:
        after = error_text(final, name, unit=of[name])
        return f"{error_text(base, name, unit=of[name] or units.unit_of(final, name))} -> {after}"

    before, after = units.value(base, ACTION_ERROR), units.value(final, ACTION_ERROR)
    change = f"{(after - before) / before:+.1%}" if before and after is not None else "-"
    if change != "-":
        change += in_brackets([100 * bound for bound in spread or ()], 0).replace(
            ", ", ","
        )  # one word, if it must wrap
    losses = f"{figure(base.get('loss'), 3)} -> {figure(final.get('loss'), 3)}"
    return pair(ACTION_ERROR), Text(change), pair(GRIPPER_ERROR), losses


def _change_intervals(line: Json) -> tuple[dict[str, list[float] | None], list[float] | None]:
    """Interval of the action error's change since round 0, in shares: by dataset, and of the clients' mean."""
    change = mapping(line.get("change"))

    def of(by_error: object) -> list[float] | None:
        return interval(mapping(units.get(by_error, ACTION_ERROR)).get("relative_interval_95"))

    return {name: of(item) for name, item in mapping(change.get("datasets")).items()}, of(change.get("clients"))


def _mean(evaluated: Json, names: list[str]) -> Json:
    """Average the figures over the datasets; one that any of them lacks is left out."""
    items = [mapping(evaluated[name]) for name in names]
    whole = [
        name
        for name in (ACTION_ERROR, GRIPPER_ERROR, "loss")
        if all(number(units.get(i, name)) is not None for i in items)
    ]
    means = {units.over(items, name)[0]: units.mean(items, name) for name in whole}
    return {**means, "units": {GRIPPER_ERROR: shared_unit(items, GRIPPER_ERROR)}}

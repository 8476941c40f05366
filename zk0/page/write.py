"""The page: everything that is known of a run, put into one HTML file."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from zk0.files import atomic
from zk0.layout import REPORT_FILE, client_folder
from zk0.memory.samples import read_samples
from zk0.metrics.values import Json
from zk0.page import drawings, facts
from zk0.page.story import BAD, RUN, Event, Story, read_story
from zk0.report.bars import bar_figure
from zk0.report.charts import line_figures
from zk0.report.joints import joint_figures
from zk0.report.text import duration
from zk0.runs.progress import read_progress
from zk0.runs.standing import RunProgress
from zk0.runs.store import RunStore

NOT_LINES = ("peak-memory", "orchestrator-memory", "fit-duration")
"""Charts by round of what the page draws over time."""
STATES = {"finished": "finished", "running": "running", "interrupted": "interrupted", "starting": "not begun"}


def write_page(store: RunStore, target: Path | None = None) -> Path:
    """Write the report of a run, whether it is finished, goes on, or is dead.

    Args:
        store: the run.
        target: the file; `report.html` in the run directory when None.

    Raises:
        StorageError: the run cannot be read, or the file not be written.
    """
    path = target or store.folder / REPORT_FILE
    atomic.write_bytes(path, page(store).encode())
    return path


def page(store: RunStore) -> str:
    """The report of a run as HTML."""
    progress = read_progress(store.folder)
    rounds = progress.rounds
    story = read_story(store, rounds, running=progress.state == "running")
    environment = Environment(
        loader=PackageLoader("zk0.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    title, table = facts.result(store, rounds) if rounds else ("No round is committed yet", None)
    with drawings.look():
        drawn = {name: _drawn(figure, name) for name, figure in _figures(store, rounds, story)}
        compared = facts.comparison(store)
        bars = ""
        if compared is not None and compared[1]:
            chart = bar_figure("Action error on held-out episodes, mean over the clients", compared[2], compared[1])
            bars = _drawn(chart, "comparison")
    return environment.get_template("report.html.j2").render(
        name=store.info.name,
        state=STATES[progress.state],
        headline=_headline(progress, rounds),
        title=title,
        result=table,
        success=facts.success(store, rounds),
        films=facts.films(store, rounds),
        charts=drawn,
        comparison=compared[0] if compared else None,
        bars=bars,
        counts=_counts(story.events),
        events=[_row(event, f"{store.folder}/") for event in story.events],
        clients=[client.name for client in store.config.clients],
        data=facts.data(store),
        about=facts.about(store),
        config=facts.config_text(store.info.config),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        folder=str(store.folder),
    )


def _drawn(figure: Figure, name: str) -> Markup:
    return Markup(drawings.svg(figure, name))  # noqa: S704 - Matplotlib escapes the words that it draws


def _figures(store: RunStore, rounds: Sequence[Json], story: Story) -> Iterator[tuple[str, Figure]]:
    """Name -> figure: the name says where on the page it stands."""
    unseen = [dataset.name for dataset in store.config.evaluation.datasets]
    names = [*(client.name for client in store.config.clients), *unseen]
    if (when := drawings.gantt(story)) is not None:
        yield "when", when
    if (memory := drawings.memory_figure(_samples(store, story))) is not None:
        yield "memory", memory
    for name, figure in line_figures(rounds, unseen):
        if name not in NOT_LINES:
            yield f"curve-{name}", drawings.below(figure)
    if not rounds:
        return
    yield "curve-duration", drawings.duration_figure(rounds)
    for name, first, last in facts.evaluations(store, rounds):
        if (joints := drawings.joints_figure(first, last, name)) is not None:
            yield f"joint-{name}", joints
    for name, figure in joint_figures(store.folder, rounds, names):
        yield f"course-{name}", figure


def _samples(store: RunStore, story: Story) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """The run's samples of memory, and those of the clients' rounds that are kept."""
    found: dict[str, list[dict[str, Any]]] = {RUN: read_samples(store.folder)}
    for who in story.lives:
        own = [sample for number in story.kept for sample in read_samples(client_folder(store.folder, number, who))]
        if who != RUN and own:
            found[who] = sorted(own, key=lambda sample: float(sample.get("at", 0)))
    return found


def _headline(progress: RunProgress, rounds: Sequence[Json]) -> list[str]:
    words = [f"round {progress.server_round} of {progress.num_rounds}", f"{len(rounds)} committed"]
    words.append(f"worked {duration(progress.elapsed_s)}")
    if progress.best is not None:
        best = progress.best
        words.append(f"best round {best.server_round} ({best.label}: {best.value:.4g})")
    words += [str(absence) for absence in progress.absent]
    return words


def _counts(events: Sequence[Event]) -> list[tuple[str, int]]:
    counted: dict[str, int] = {}
    for event in events:
        if event.kind in BAD or event.kind in ("smaller batch", "retried", "went on"):
            counted[event.kind] = counted.get(event.kind, 0) + 1
    return list(counted.items())


def _row(event: Event, folder: str) -> dict[str, Any]:
    """An event's cells; files of the run are named from its directory."""
    at = "" if event.at is None else f"{datetime.fromtimestamp(event.at, UTC):%Y-%m-%d %H:%M:%S}"
    number = "" if event.server_round is None else str(event.server_round)
    return {
        "at": at,
        "round": number,
        "who": event.who,
        "kind": event.kind,
        "text": event.text.replace(folder, ""),
        "bad": event.kind in BAD,
    }

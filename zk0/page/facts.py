"""The words and tables of the page, from the run directory."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from loguru import logger

from zk0.errors import StorageError
from zk0.files import atomic, untrusted
from zk0.layout import COMPARE_FOLDER, COMPARISON_FILE
from zk0.metrics import units
from zk0.metrics.scores import QUICK, comparable
from zk0.metrics.units import ACTION_ERROR, GRIPPER_ERROR, WORDS, headed
from zk0.metrics.values import Json, interval, mapping, mappings, number
from zk0.report.bars import Bar
from zk0.report.text import change_of, error_text, figure, in_brackets, shared_unit, success_text
from zk0.runs.progress import videos
from zk0.runs.store import RunStore

MOST_VIDEO_BYTES = 24 * 2**20
"""Of all videos in a page: a browser opens it at once, and a mail takes it."""


class Table(NamedTuple):
    """Rows of words."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    emphasised: frozenset[int] = frozenset()
    """Rows that are what the table is about."""


class Video(NamedTuple):
    """A film of an episode in simulation."""

    title: str
    source: str
    """A data: address; empty where it is too large for the page."""
    path: str


def result(store: RunStore, rounds: Sequence[Json]) -> tuple[str, Table]:
    """Every dataset's errors in round 0 and in the newest round, on the same frames; and a title."""
    (base, line), frames = comparable([rounds[0], rounds[-1]])
    evaluated = [mapping(item.get("evaluate")) for item in (base, line)]
    of = {
        name: shared_unit([*evaluated[0].values(), *evaluated[1].values()], name)
        for name in (ACTION_ERROR, GRIPPER_ERROR)
    }
    quick = ", on the quick frames" if frames == QUICK else ""
    title = f"Round 0 (the base) -> round {line['server_round']}, on held-out episodes{quick}"
    heads = (
        "dataset",
        headed("action error", of[ACTION_ERROR]),
        "change",
        headed("gripper error", of[GRIPPER_ERROR]),
        "loss",
    )
    rows = []
    for dataset in [*store.config.clients, *store.config.evaluation.datasets]:
        first, last = (mapping(item.get(dataset.name)) for item in evaluated)
        name = dataset.name if dataset in store.config.clients else f"{dataset.name} (unseen)"
        rows.append((name, *_pairs(first, last, of, change_of(line, dataset.name, ACTION_ERROR))))
    means = [_summary(mapping(item.get("summary"))) for item in (base, line)]
    rows.append(("mean of clients", *_pairs(means[0], means[1], of, change_of(line, None, ACTION_ERROR))))
    return title, Table(heads, rows, frozenset((len(rows) - 1,)))


def success(store: RunStore, rounds: Sequence[Json]) -> Table | None:
    """Success in closed loop in round 0 and in the newest round that has it; None without any."""
    lines = [line for line in rounds if mapping(line.get("rollout"))]
    if not lines:
        return None
    ends = (lines[0], lines[-1])
    heads = ("environment", *(f"round {line['server_round']}" for line in ends))
    names = [environment.name for environment in store.config.evaluation.environments]
    rows = [(name, *(success_text(mapping(line["rollout"]).get(name)) or "-" for line in ends)) for name in names]
    if len(names) > 1:
        rows.append(("all episodes", *(success_text(line.get("summary")) for line in ends)))
    return Table(heads, rows)


def films(store: RunStore, rounds: Sequence[Json]) -> list[Video]:
    """The videos of round 0 and of the newest round that has any, as far as they are kept and the page has room."""
    lines = [int(line["server_round"]) for line in rounds if mapping(line.get("rollout"))]
    left, found = MOST_VIDEO_BYTES, []
    for environment in store.config.evaluation.environments:
        for server_round in dict.fromkeys((*lines[:1], *lines[-1:])):
            for index, path in enumerate(videos(store.folder, server_round, environment.name)):
                data = _read(path, left)
                left -= len(data)
                source = f"data:video/mp4;base64,{base64.b64encode(data).decode()}" if data else ""
                title = f"{environment.name}, round {server_round}, episode {index + 1}"
                found.append(Video(title, source, str(path)))
    return found


def comparison(store: RunStore) -> tuple[Table, list[Bar], str] | None:
    """What `zk0 compare` found: a table, its bars and their unit; None where it was not asked."""
    path = store.folder / COMPARE_FOLDER / COMPARISON_FILE
    if not atomic.is_there(path):
        return None
    record = mapping(atomic.read_json(path))
    rows, bars = [], []
    for arm in mappings(record.get("arms")):
        mean, spread = number(arm.get("mean")), interval(arm.get("interval_95"))
        beside = mapping(arm.get("beside_federated"))
        name = str(arm.get("name"))
        rows.append(
            (
                name,
                figure(mean) + in_brackets(spread),
                figure(beside.get("mean")) + in_brackets(beside.get("interval_95")),
            )
        )
        if mean is not None:
            low, high = spread or (mean, mean)
            bars.append(Bar(name, mean, low, high, name == "federated"))
    unit = str(record.get("unit") or "") or None
    return Table(("trained", headed("action error", unit), "beside federated"), rows), bars, WORDS.get(unit, "")


def data(store: RunStore) -> Table:
    """Where every dataset is from, and the digest of its files."""
    rows = []
    for dataset in [*store.config.clients, *store.config.evaluation.datasets]:
        revision = f"@{dataset.revision}" if dataset.revision else ""
        rows.append((dataset.name, f"{dataset.repo_id}{revision}", store.info.data.get(dataset.name, "-")))
    return Table(("dataset", "repository", "SHA-256 of its files"), rows)


def about(store: RunStore) -> Table:
    """Identity and versions."""
    info = store.info
    facts = {
        "id": info.id,
        "created": info.created_at,
        "seed": str(info.seed),
        "digest of the config": info.config_digest,
    }
    return Table(("", ""), [*facts.items(), *info.versions.items()])


def config_text(config: Mapping[str, Any]) -> str:
    """The config, to read."""
    return json.dumps(config, indent=2, ensure_ascii=False)


def evaluations(store: RunStore, rounds: Sequence[Json]) -> Iterator[tuple[str, Json, Json]]:
    """Dataset, its figures in round 0 and in the newest round."""
    (base, line), _ = comparable([rounds[0], rounds[-1]])
    for dataset in [*store.config.clients, *store.config.evaluation.datasets]:
        first, last = (mapping(mapping(item.get("evaluate")).get(dataset.name)) for item in (base, line))
        yield dataset.name, first, last


def _summary(found: Json) -> Json:
    """A summary says a gripper's unit nowhere: it is that of the column."""
    return {**found, "units": {}}


def _pairs(first: Json, last: Json, of: Mapping[str, str | None], change: str) -> tuple[str, str, str, str]:
    old, new = units.value(first, ACTION_ERROR), units.value(last, ACTION_ERROR)
    share = f"{(new - old) / old:+.1%}" if old and new is not None else "-"
    words = f"{share} ({change})" if change else share
    errors = [
        f"{error_text(first, name, unit=of[name])} -> {error_text(last, name, unit=of[name], spread=True)}"
        for name in (ACTION_ERROR, GRIPPER_ERROR)
    ]
    return errors[0], words, errors[1], f"{figure(first.get('loss'), 3)} -> {figure(last.get('loss'), 3)}"


def _read(path: Path, most: int) -> bytes:
    """A file, or nothing where it is larger than the room or cannot be read."""
    try:
        with atomic.storage_errors(path, "read"):
            return untrusted.read(path, most)
    except StorageError as error:
        logger.warning("not in the report: {}", error)
        return b""

"""A run in Markdown, and its tables: for pages that somebody else shows."""

from collections.abc import Iterator, Sequence
from typing import Any

from zk0.config import RunConfig
from zk0.layout import CHARTS_FOLDER, CLIENT_LOG, CLIENTS_FOLDER, ROUNDS_FOLDER, RUN_LOG
from zk0.metrics import units
from zk0.metrics.scores import QUICK, best_round, comparable
from zk0.metrics.units import ACTION_ERROR, OPENING, WORDS, headed
from zk0.metrics.values import Json, mapping, mappings, number
from zk0.report.text import change_of, error_text, figure, in_brackets, shared_unit, significant, success_text
from zk0.runs.progress import failures, videos
from zk0.runs.store import RunStore

MIB = 2**20
NOTHING = ""
"""A dash would become a bullet: the UI takes a cell for Markdown."""


def round_table(config: RunConfig, server_round: int, rounds: Sequence[Json]) -> list[dict[str, Any]]:
    """One row per client, unseen setting and simulated environment: what the round made of it first, then what it took.

    The error before and after are of the same frames: of the quick ones, where one of the two rounds has no others.
    A column that has nothing in any row is left out, but for those that say what the round came to.
    """
    lines = {line["server_round"]: line for line in rounds}
    line = mapping(lines.get(server_round))
    (before, evaluated), frames = comparable([mapping(lines.get(server_round - 1)), line])
    unit = _unit(before, evaluated)
    rows = []
    for dataset in [*config.clients, *config.evaluation.datasets]:
        name = dataset.name
        after = mapping(mapping(evaluated.get("evaluate")).get(name))
        earlier = mapping(mapping(before.get("evaluate")).get(name))
        sat_out = [past for past, entry in lines.items() if past <= server_round and _sat_out(entry, name)]
        rows.append(
            {
                "client": name if dataset in config.clients else f"{name} (unseen)",
                headed("error before", unit): _error(earlier, unit),
                headed("error after", unit): _error(after, unit),
                headed("change", unit): _difference(earlier, after),
                "success": NOTHING,
                **_attempts(line, name),
                "rounds sat out": ", ".join(map(str, sat_out)) or NOTHING,
                headed("95 % interval", unit): in_brackets(units.get(after.get("interval_95"), ACTION_ERROR)).strip(),
                headed("change since round 0", unit): change_of(line, name, ACTION_ERROR),
                "frames": frames if after else NOTHING,
                "held-out loss": _figure(after.get("loss"), 4),
                **_costs(mapping(mapping(line.get("train")).get(name))),
            }
        )
    return _without_empty_columns([*rows, *_environments(config, line, rows[0])])


def _attempts(line: Json, name: str) -> dict[str, Any]:
    """How often a client, or an environment, was tried in a round, and what failed."""
    fit = mapping(mapping(line.get("train")).get(name))
    before = fit.get("failed_attempts")
    of_failures = {str(item.get("client")): item.get("attempts") for item in mappings(line.get("failures"))}
    return {
        "attempts": fit.get("attempts") or of_failures.get(name) or NOTHING,
        "failure": failures(line).get(name, NOTHING),
        "retried after": ", ".join(map(str, before if isinstance(before, list) else ())) or NOTHING,
    }


def _costs(figures: Json) -> dict[str, Any]:
    """The bookkeeping of a fit, or of a rollout, which has some of it."""
    return {
        "training loss": _figure(figures.get("loss"), 4),
        "examples": figures.get("num_examples", NOTHING),
        "steps": figures.get("steps", NOTHING),
        "learning rate": _exponent(figures.get("lr")),
        "micro-batch": figures.get("micro_batch_size", NOTHING),
        "duration, s": _figure(figures.get("duration_s"), 1),
        "peak RAM, MiB": _figure(figures.get("peak_ram_bytes"), 0, MIB),
        "peak RAM, %": _figure(figures.get("peak_ram_percent"), 1),
        "peak VRAM, MiB": _figure(figures.get("peak_vram_bytes"), 0, MIB),
        "peak VRAM, %": _figure(figures.get("peak_vram_percent"), 1),
        "sent, MiB": _figure(figures.get("update_bytes"), 2, MIB),
    }


def _environments(config: RunConfig, line: Json, like: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for every simulated environment, with the columns of one that is there."""
    for name in (environment.name for environment in config.evaluation.environments):
        figures = mapping(mapping(line.get("rollout")).get(name))
        own = {"client": f"{name} (simulated)", "success": success_text(figures), **_attempts(line, name)}
        yield dict.fromkeys(like, NOTHING) | own | _costs(figures)


def _without_empty_columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first = [*rows[0]][: [*rows[0]].index("attempts") + 1]
    kept = [column for column in rows[0] if column in first or any(row[column] != NOTHING for row in rows)]
    return [{column: row[column] for column in kept} for row in rows]


def _difference(before: Json, after: Json) -> str:
    """How far a round moved an error; nothing where that cannot be said."""
    old, new = units.value(before, ACTION_ERROR), units.value(after, ACTION_ERROR)
    same = units.unit_of(before, ACTION_ERROR) == units.unit_of(after, ACTION_ERROR)
    return NOTHING if old is None or new is None or not same else significant(new - old, "+")


def summary(store: RunStore, rounds: Sequence[Json]) -> str:
    """Markdown: round 0, the base, beside the newest round, and where everything lies."""
    newest = int(rounds[-1]["server_round"]) if rounds else 0
    parts = [
        f"# {store.info.name}",
        f"Round {newest} of {store.config.federation.num_rounds} is committed.{_best(store, rounds)}",
        "",
        *outcome(store, rounds),
        *_videos(store, rounds),
        "",
        "## Where it is",
        "",
        f"- run directory: `{store.folder}` ([open](file://{store.folder}))",
        f"- log of the run: `{store.folder / RUN_LOG}` ([open](file://{store.folder / RUN_LOG}))",
        f"- log of a client: `{store.folder / ROUNDS_FOLDER}/<round>/{CLIENTS_FOLDER}/<client>/{CLIENT_LOG}`",
        f"- charts: `{store.folder / CHARTS_FOLDER}`",
        f"- from a terminal: `zk0 status {store.info.name} --outputs {store.folder.parent}`",
    ]
    decided = [(line, change) for line in rounds for change in mapping(line.get("adaptive")).get("changes", ())]
    lists = {
        "Adaptive schedules": [f"round {line['server_round']}: {change}" for line, change in decided],
        "Clients that sat out a round": [
            f"round {line['server_round']}: {name}, {why}" for line in rounds for name, why in _lost(line)
        ],
        "Files found damaged": store.damage,
    }
    for title, items in lists.items():
        if items:
            parts += ["", f"## {title}", "", *(f"- {text}" for text in items)]
    return "\n".join(parts)


def outcome(store: RunStore, rounds: Sequence[Json]) -> list[str]:
    """Markdown: round 0 beside the newest one that is given, by dataset, by joint and in closed loop."""
    newest = int(rounds[-1]["server_round"]) if rounds else 0
    (base, line), frames = comparable([rounds[0], rounds[-1]] if rounds else [{}, {}])
    how = ", on the quick frames" if frames == QUICK else ""
    unit = _unit(base, line)
    words = f" in {WORDS[unit]}" if unit else ", each in its dataset's unit"
    ends = " | ".join(headed(title, unit) for title in ("base", f"round {newest}"))
    return [
        f"Action errors are mean absolute errors{words}{how}, with the 95 % interval over held-out episodes.",
        "",
        f"| held out | {ends} | change | base loss | loss |",
        "|---|---:|---:|---:|---:|---:|",
        *_summary_rows(store.config, base, line, unit),
        *_joint_rows(store.config, base, line),
        *_success_rows(store, rounds),
        *_privacy(line),
    ]


def _privacy(line: Json) -> list[str]:
    """What differential privacy has spent so far."""
    spent = mapping(line.get("privacy"))
    if number(spent.get("epsilon")) is None:
        return []
    return ["", f"Privacy spent: epsilon {_figure(spent['epsilon'], 4)} at delta {spent.get('delta')}."]


def _best(store: RunStore, rounds: Sequence[Json]) -> str:
    best = best_round(store.info.config, rounds)
    if best is None:
        return ""
    on = ", on the quick frames" if best.frames == QUICK else ""
    return f" The best so far is round {best.server_round} ({best.label}: {best.value:.4g}{on}), which is kept."


def _datasets(config: RunConfig, base: Json, line: Json) -> Iterator[tuple[str, str, Json, Json]]:
    """Name, label, figures of round 0 and figures of the newest round, of every dataset."""
    first, last = mapping(base.get("evaluate")), mapping(line.get("evaluate"))
    for dataset in [*config.clients, *config.evaluation.datasets]:
        label = dataset.name if dataset in config.clients else f"{dataset.name} (unseen)"
        yield dataset.name, label, mapping(first.get(dataset.name)), mapping(last.get(dataset.name))


def _unit(*lines: Json) -> str | None:
    """The unit of the action error of every dataset in these rounds; None where they differ."""
    return shared_unit([item for line in lines for item in mapping(line.get("evaluate")).values()], ACTION_ERROR)


def _error(figures: Json, unit: str | None, *, spread: bool = False) -> str:
    """The action error; nothing where there is none."""
    if units.value(figures, ACTION_ERROR) is None:
        return NOTHING
    return error_text(figures, ACTION_ERROR, spread=spread, unit=unit)


def _summary_rows(config: RunConfig, base: Json, line: Json, unit: str | None) -> Iterator[str]:
    for name, label, first, last in _datasets(config, base, line):
        old, new = units.value(first, ACTION_ERROR), units.value(last, ACTION_ERROR)
        errors = [_error(item, unit, spread=True) for item in (first, last)]
        change = f"{(new - old) / old:+.1%}" if old and new is not None else "-"
        if known := change_of(line, name, ACTION_ERROR):
            own = units.unit_of(last, ACTION_ERROR)
            change += f" ({known} {own})" if own else f" ({known})"
        losses = f"{_figure(first.get('loss'), 4)} | {_figure(last.get('loss'), 4)}"
        yield f"| {label} | {errors[0]} | {errors[1]} | {change} | {losses} |"


def _joint_rows(config: RunConfig, base: Json, line: Json) -> Iterator[str]:
    """Every joint's error in round 0 and the newest, with its interval; a table for each set of joints."""
    tables: dict[tuple[tuple[str, str | None], ...], list[str]] = {}
    for _, label, first, last in _datasets(config, base, line):
        joints = units.joint_units(last)
        spread = mapping(mapping(last.get("interval_95")).get("joint_error"))
        before, after = mapping(first.get("joint_error")), mapping(last.get("joint_error"))
        cells = [
            f"{_three(before.get(joint))} -> {_three(after.get(joint))}{in_brackets(spread.get(joint))}"
            for joint in joints
        ]
        if joints:
            tables.setdefault(tuple(joints.items()), []).append(f"| {label} | {' | '.join(cells)} |")
    for named, rows in tables.items():
        unit = units.shared(own for _, own in named if own != OPENING)
        grippers = f" (a gripper: {OPENING})" if any(own == OPENING for _, own in named) else ""
        yield from ("", f"## By joint{f', in {WORDS[unit]}' if unit else ''}{grippers}", "")
        names = [headed(name, None if own in (unit, OPENING) else own) for name, own in named]
        yield f"| held out | {' | '.join(names)} |"
        yield "|---|" + "---:|" * len(names)
        yield from rows


def _success_rows(store: RunStore, rounds: Sequence[Json]) -> Iterator[str]:
    """Success in closed loop in round 0 and in the newest round that has it."""
    lines = [line for line in rounds if mapping(line.get("rollout"))]
    if not lines:
        return
    first, last = (mapping(line["rollout"]) for line in (lines[0], lines[-1]))
    names = [environment.name for environment in store.config.evaluation.environments]
    newest = int(lines[-1]["server_round"])
    yield from ("", "## Success in closed loop, with Wilson's 95 % interval", "")
    yield f"| environment | round {lines[0]['server_round']} | round {newest} |"
    yield "|---|---:|---:|"
    for name in names:
        yield f"| {name} | {success_text(first.get(name))} | {success_text(last.get(name))} |"
    if len(names) > 1:
        yield f"| all episodes | {success_text(lines[0].get('summary'))} | {success_text(lines[-1].get('summary'))} |"


def _videos(store: RunStore, rounds: Sequence[Json]) -> Iterator[str]:
    """Where the videos of the newest round with rollouts are."""
    newest = next((int(line["server_round"]) for line in reversed(rounds) if mapping(line.get("rollout"))), 0)
    names = [environment.name for environment in store.config.evaluation.environments]
    kept = [path for name in names for path in videos(store.folder, newest, name)]
    if kept:
        yield ""
        yield from (f"- video of round {newest}: `{path}` ([open](file://{path}))" for path in kept)


def round_message(config: RunConfig, server_round: int, rounds: Sequence[Json]) -> str:
    """A committed round in one line: its error, success, and who sat it out."""
    line = next((line for line in rounds if line["server_round"] == server_round), {})
    lost = [f"{name} sat out ({why})" for name, why in _lost(line)]
    figures = mapping(line.get("summary"))
    head = f"round {server_round} of {config.federation.num_rounds} committed"
    if error := _error(figures, None, spread=True):
        head += f", action error {error}"
    if success := success_text(figures):
        head += f", success {success}"
    return "; ".join([head, *lost])


def _lost(line: Json) -> Iterator[tuple[str, str]]:
    for name, why in failures(line).items():
        if _sat_out(line, name):
            yield name, why


def _sat_out(line: Json, name: str) -> bool:
    """Whether a client was to train in the round and gave nothing."""
    failed = mappings(line.get("failures"))
    return any(item.get("client") == name and item.get("kind") == "train" for item in failed)


def _figure(value: object, digits: int, unit: int = 1) -> str:
    known = number(value)
    return NOTHING if known is None else f"{known / unit:.{digits}f}"


def _three(value: object) -> str:
    return NOTHING if number(value) is None else figure(value)


def _exponent(value: object) -> str:
    known = number(value)
    return NOTHING if known is None else f"{known:.2e}"

"""How a run stands, read from its run directory alone, so that any process can tell."""

import json
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zk0.errors import StorageError
from zk0.files import atomic, untrusted
from zk0.layout import (
    FINAL,
    LOCK_FILE,
    METRICS_LINES,
    PROGRESS_FILE,
    RUN_FILE,
    VIDEOS_FOLDER,
    client_folder,
    result_file,
    worker_lock_file,
)
from zk0.memory.usage import snapshot
from zk0.metrics import scores, units
from zk0.metrics.attendance import absences
from zk0.metrics.units import ACTION_ERROR
from zk0.metrics.values import Json, interval, mapping, mappings, number
from zk0.runs import lock, will
from zk0.runs.rounds import metric_lines
from zk0.runs.standing import ClientProgress, EnvironmentProgress, Phase, RunProgress

MOST_STEPS = 2**53
"""A greater number is no number of steps, and cannot be reckoned with."""
SUCCESS = ("successes", "episodes", "success_rate", "interval_95")
"""Figures of a rollout that are shown."""
_PHASE_OF_KIND: dict[str, Phase] = {
    "init": "preparing",
    "statistics": "preparing",
    "train": "training",
    "evaluate": "evaluating",
}


def read_progress(run_dir: str | Path) -> RunProgress:
    """Read how a run stands.

    Files may appear, vanish or be half written meanwhile: what cannot be read counts as not there.

    Args:
        run_dir: the run directory; need not exist yet.
    """
    folder = Path(run_dir)
    identity = _read_json(folder / RUN_FILE)
    config = mapping(identity.get("config"))
    rounds = _read_rounds(folder)
    num_rounds = _whole(mapping(config.get("federation")).get("num_rounds")) or 0
    committed = int(rounds[-1]["server_round"]) if rounds else -1
    complete = committed >= num_rounds > 0
    finished = complete and _is_folder(folder / FINAL)
    holder = None if finished else _holder(folder)
    running = holder is not None
    current = committed if complete else committed + 1
    clients = tuple(_read_clients(folder, config, rounds, current, complete))
    in_round_s = _round_age(folder) if running else 0.0
    return RunProgress(
        name=folder.name,
        state="finished" if finished else "running" if running else "interrupted" if identity else "starting",
        server_round=current,
        num_rounds=num_rounds,
        elapsed_s=sum(number(line.get("duration_s")) or 0.0 for line in rounds) + in_round_s,
        eta_s=0.0 if complete else _eta(rounds, num_rounds - committed, in_round_s, clients),
        pid=None if holder is None else _local_pid(holder),
        clients=clients,
        best=scores.best_round(config, rounds),
        rounds=rounds,
        environments=tuple(_read_environments(folder, config, rounds, current, complete)),
        stopped=None if finished or running else will.shown(folder),
        absent=tuple(absences(_names(config.get("clients")), rounds)),
    )


def status_json(run_dir: str | Path) -> dict[str, Any]:
    """Give a run's standing as plain data, for `zk0 status --json`.

    Args:
        run_dir: the run directory.

    Returns:
        `name`, `state` (starting, running, interrupted, finished), `server_round`, `num_rounds`, `committed_rounds`,
        `elapsed_s`, `eta_s` (or null), `pid` (or null), `memory` (Snapshot's fields, or null when no process runs),
        `best` (Best's fields, or null), `stopped` (Will's fields, or null), `clients` (ClientProgress' fields, the
        error's unit in its key), `environments` (EnvironmentProgress' fields), `absent` (Absence's fields: clients
        without an update in any committed round) and `rounds` (the lines of metrics.jsonl).
    """
    progress = read_progress(run_dir)
    now = snapshot(progress.pid) if progress.pid else None
    return {
        "name": progress.name,
        "state": progress.state,
        "server_round": progress.server_round,
        "num_rounds": progress.num_rounds,
        "committed_rounds": len(progress.rounds),
        "elapsed_s": progress.elapsed_s,
        "eta_s": progress.eta_s,
        "pid": progress.pid,
        "memory": asdict(now) if now else None,
        "best": asdict(progress.best) if progress.best else None,
        "stopped": progress.stopped.model_dump() if progress.stopped else None,
        "clients": [units.keyed(asdict(client), client.unit) for client in progress.clients],
        "environments": [asdict(environment) for environment in progress.environments],
        "absent": [asdict(absence) for absence in progress.absent],
        "rounds": [dict(line) for line in progress.rounds],
    }


def _read_json(path: Path) -> Json:
    try:
        return mapping(json.loads(untrusted.read(path)))
    except (OSError, ValueError, RecursionError):  # not there, no longer there, or half written; not JSON, not UTF-8
        return {}


def _read_rounds(folder: Path) -> tuple[Json, ...]:
    """The committed rounds, by number."""
    with suppress(StorageError):
        return tuple(line for _, line in sorted(metric_lines(folder).items()))
    return ()


def _holder(folder: Path) -> Json | None:
    """Who advances the run; None when nobody does."""
    with suppress(StorageError):
        return lock.holder(folder)
    return None


def _local_pid(holder: Json) -> int | None:
    return _whole(holder.get("pid")) if holder.get("host") == socket.gethostname() else None


def _round_age(folder: Path) -> float:
    """Seconds that this round has been worked on: since the last commit, or since this process took the lock."""
    times = [_modified(folder / name) for name in (LOCK_FILE, METRICS_LINES)]
    started = max((moment for moment in times if moment is not None), default=None)
    return max(0.0, time.time() - started) if started is not None else 0.0


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _read_clients(
    folder: Path, config: Json, rounds: tuple[Json, ...], current: int, complete: bool
) -> Iterator[ClientProgress]:
    last = rounds[-1] if rounds else {}
    groups = ((config.get("clients"), False), (mapping(config.get("evaluation")).get("datasets"), True))
    for datasets, unseen in groups:
        for name in _names(datasets):
            failure = failures(last).get(name)
            phase, progress = _phase(client_folder(folder, current, name), unseen)
            if complete:
                phase, progress = "done", {}
            if failure and phase in ("waiting", "done"):
                phase = "failed"
            loss = number(progress.get("loss")) if phase == "training" else None
            evaluated = _last_evaluation(rounds, name)
            yield ClientProgress(
                name=name,
                unseen=unseen,
                phase=phase,
                step=_whole(progress.get("step")),
                steps=_whole(progress.get("steps")),
                loss=_last_loss(rounds, name) if loss is None else loss,
                action_error=units.value(evaluated, ACTION_ERROR),
                unit=units.unit_of(evaluated, ACTION_ERROR),
                action_error_interval=interval(units.get(evaluated.get("interval_95"), ACTION_ERROR)),
                evaluation=evaluated.get("evaluation"),
                failure=failure,
            )


def _read_environments(
    folder: Path, config: Json, rounds: tuple[Json, ...], current: int, complete: bool
) -> Iterator[EnvironmentProgress]:
    lost = failures(rounds[-1] if rounds else {})
    for name in _names(mapping(config.get("evaluation")).get("environments")):
        work = client_folder(folder, current, name)
        begun: Phase = "rolling out" if _is_there(work / worker_lock_file("rollout")) else "waiting"
        phase: Phase = "done" if complete or _is_there(work / result_file("rollout")) else begun
        if name in lost and phase in ("waiting", "done"):
            phase = "failed"
        line = next((line for line in reversed(rounds) if name in mapping(line.get("rollout"))), None)
        if line is None:
            yield EnvironmentProgress(name, phase, failure=lost.get(name))
            continue
        server_round = int(line["server_round"])
        yield EnvironmentProgress(
            name,
            phase,
            server_round,
            {key: mapping(line["rollout"][name]).get(key) for key in SUCCESS},
            tuple(map(str, videos(folder, server_round, name))),
            lost.get(name),
        )


def videos(folder: Path, server_round: int, environment: str) -> list[Path]:
    """The videos of a rollout, in the order of their episodes; none where the round is pruned or has none."""
    with suppress(StorageError):
        found = atomic.listed(client_folder(folder, server_round, environment) / VIDEOS_FOLDER, "*.mp4")
        return sorted(found, key=lambda path: (len(path.name), path.name))
    return []


def _phase(work: Path, unseen: bool) -> tuple[Phase, Json]:
    """Tell from the files of one client's folder what it is at; a result outlives the progress file beside it."""
    progress = _read_json(work / PROGRESS_FILE)
    kind = str(progress.get("kind"))
    if kind in _PHASE_OF_KIND and not _is_there(work / result_file(kind)):
        return _PHASE_OF_KIND[kind], progress
    if _is_there(work / result_file("evaluate")):
        return "done", {}
    return ("trained" if not unseen and _is_there(work / result_file("train")) else "waiting"), {}


def _is_there(path: Path) -> bool:
    with suppress(StorageError):
        return atomic.is_there(path)
    return False


def _is_folder(path: Path) -> bool:
    with suppress(StorageError):
        return atomic.is_folder(path)
    return False


def failures(line: Json) -> dict[str, str]:
    """Client -> cause and message, of a line of metrics.jsonl."""
    items = mappings(line.get("failures"))
    return {str(item.get("client")): f"{item.get('cause')}: {item.get('message')}" for item in items}


def _last_loss(rounds: tuple[Json, ...], name: str) -> float | None:
    fits = (mapping(mapping(line.get("train")).get(name)) for line in reversed(rounds))
    return next((loss for fit in fits if (loss := number(fit.get("loss"))) is not None), None)


def _last_evaluation(rounds: tuple[Json, ...], name: str) -> Json:
    evaluations = (mapping(mapping(line.get("evaluate")).get(name)) for line in reversed(rounds))
    return next((item for item in evaluations if units.value(item, ACTION_ERROR) is not None), {})


def _names(datasets: object) -> list[str]:
    return [str(mapping(item).get("name")) for item in datasets] if isinstance(datasets, list) else []


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and abs(value) < MOST_STEPS else None


def _eta(
    rounds: tuple[Json, ...], rounds_left: int, in_round_s: float, clients: Iterable[ClientProgress]
) -> float | None:
    """Estimate the seconds to go from the mean training round; before there is one, from the steps of this round."""
    durations = [number(line.get("duration_s")) or 0.0 for line in rounds if line["server_round"] > 0]
    if durations:
        return max(0.0, rounds_left * sum(durations) / len(durations) - in_round_s)
    shares = [_share(client) for client in clients if not client.unseen]
    done = sum(shares) / len(shares) if shares else 0.0
    if not rounds or done <= 0:  # round 0 has no steps to count
        return None
    return max(0.0, (rounds_left / done - 1) * in_round_s)


def _share(client: ClientProgress) -> float:
    if client.phase == "training" and client.step is not None and client.steps:
        return client.step / client.steps
    return 1.0 if client.phase in ("trained", "evaluating", "done") else 0.0

"""What must hold when a run has ended, whatever was killed."""

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

from benchmarks.chaos.phases import Progress
from benchmarks.chaos.victims import CLIENT, FLOW, FORKSERVER, SERVE, SERVER, WORKER, Table
from benchmarks.service import ServedCommandLine

LIVE = ["RUNNING", "PENDING", "SCHEDULED", "CANCELLING", "PAUSED"]
SETTLE_S = 45.0
"""What ends with a run may take so long: processes, and what Prefect believes."""


def outcome(folder: Path) -> dict[str, Any]:
    """What a run came to, without what depends on time: digests of its tensors and policy, and its metrics by round."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    newest = folder / "rounds" / f"{lines[-1]['server_round']:04d}" / "global.safetensors"
    policy = sorted((folder / "final").glob("*.safetensors"))
    return {
        "rounds": [line["server_round"] for line in lines],
        "digests": [line["global_sha256"] for line in lines],
        "metrics": [line["summary"] for line in lines],
        "tensors": hashlib.sha256(newest.read_bytes()).hexdigest(),
        "policy": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in policy},
    }


def problems(run: Progress, wanted: dict[str, Any], service: ServedCommandLine, table: Table) -> list[str]:
    """Everything that is not as it must be, one line each."""
    found = outcome(run.folder)
    wrong = [f"{key}: {found[key]} instead of {wanted[key]}" for key in wanted if found[key] != wanted[key]]
    wrong += _done_twice(run)
    wrong += [f"left over: {path.relative_to(run.folder)}" for path in run.folder.rglob(".*.tmp")]
    return wrong + _when_settled(lambda: [*orphans(table), *_believed_alive(service)])


def orphans(table: Table) -> list[str]:
    """Processes that should have ended with the run, and second ones of what there is one of."""
    table.look()
    ended = {part: table.pids(part) for part in (FLOW, CLIENT, FORKSERVER)}
    wrong = [f"orphan {part}: {sorted(pids)}" for part, pids in ended.items() if pids]
    starters = [process for process in table.processes if process.part in (SERVE, SERVER, WORKER)]
    for part in (SERVE, SERVER, WORKER):
        pids = {process.pid for process in starters if process.part == part}
        roots = [process.pid for process in starters if process.part == part and process.parent not in pids]
        if len(roots) != 1:
            wrong.append(f"{len(roots)} of {part}: {roots}")
    return wrong


def _done_twice(run: Progress) -> list[str]:
    """Finished work that was overwritten, or begun again although it was finished."""
    wrong = [f"{what} finished {len(seen)} times" for what, seen in run.finished.items() if len(seen) > 1]
    for log in run.folder.glob("rounds/*/clients/*/client.log"):
        done: set[str] = set()
        for kind, event in re.findall(r" - (train|evaluate|init|statistics) (starts|done) in ", log.read_text()):
            if kind in done:
                wrong.append(f"{log.parent.relative_to(run.folder)}: {kind} {event} after it was done")
            if event == "done":
                done.add(kind)
    return wrong


def _believed_alive(service: ServedCommandLine) -> list[str]:
    """Flow and task runs that Prefect has as under way although nothing is."""
    state = {"state": {"type": {"any_": LIVE}}, "expected_start_time": {"before_": _soon()}}
    flows = [item for item in service.post("/flow_runs/filter", {"flow_runs": state}) if not item["auto_scheduled"]]
    tasks = service.post("/task_runs/filter", {"task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}})
    return [f"Prefect has {item['name']} as {item['state_name']}" for item in (*flows, *tasks)]


def _when_settled(look: Any) -> list[str]:
    deadline = time.monotonic() + SETTLE_S
    while (wrong := look()) and time.monotonic() < deadline:
        time.sleep(1.0)
    return list(wrong)


def _soon() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))

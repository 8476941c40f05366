"""Every read of a resume through every errno, one at a time.

A resume is done in parts (`--only`): what a start asks of the folder of runs, what the orchestrator reads before it
does anything, its whole way to the last commit, a worker's way from a checkpoint to its result, and the export. Each
part is done again and again on a fresh run directory, and each time another look at that directory (open, read, stat,
listing, link, lock, mapping; of every process and library) fails by an errno. It must end as an undisturbed one, or by
one sentence with exit code 4; then the same again, undisturbed, must end as if nothing had been. A round set aside, a
fit done again, a new run, a checkpoint that is gone, another error, and a time over 60 s are faults (exit code 1).
"""

import argparse
import errno
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from loguru import logger

from benchmarks.hiccups.scenarios import WHOLE, Scenario, is_refusal
from benchmarks.hiccups.shim import STATE_VARIABLE, Shim, restart_with_shim

ERRNOS = ("EIO", "ESTALE", "ETIMEDOUT", "ENOMEM", "EMFILE", "EACCES")
LIMIT_S = 60.0
MEMORY = "/dev/shm"  # noqa: S108 - a folder of our own is made there
QUIET = ("run.lock", "run.log", "memory.jsonl", "client.log", "progress.json")
"""Files that say nothing of the run's state."""


@dataclass
class Tally:
    """What came of the cases of one scenario and errno."""

    looks: int = 0
    went_on: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


def main() -> int:
    options = _options()
    if STATE_VARIABLE not in os.environ:
        memory = MEMORY if os.access(MEMORY, os.W_OK) else None  # a real disk takes its time for every fsync
        scratch = options.folder or Path(tempfile.mkdtemp(prefix="zk0-hiccups-", dir=memory))
        os.environ["ZK0_CACHE"] = str(scratch / "shaken" / "cache")
        restart_with_shim("benchmarks.hiccups", scratch)
    logger.remove()
    shim, kept = Shim(), Shim().folder.parent
    names = options.only or [scenario.name for scenario in WHOLE]
    found: dict[str, dict[str, Tally]] = {}
    for scenario in WHOLE:
        if scenario.name in names:
            pristine = kept / f"pristine-{scenario.name.replace(' ', '-')}"
            found[scenario.name] = shaken(shim, scenario, pristine, options)
    if not options.folder:
        shutil.rmtree(kept)
    print(table(found))
    return int(any(tally.faults for tallies in found.values() for tally in tallies.values()))


def shaken(shim: Shim, scenario: Scenario, pristine: Path, options: argparse.Namespace) -> dict[str, Tally]:
    """Every look of a scenario through every errno; gives the tallies by errno."""
    outputs = shim.folder / "outputs"
    shutil.rmtree(shim.folder, ignore_errors=True)
    shim.folder.mkdir(parents=True)
    scenario.make(outputs)
    shutil.copytree(shim.folder, pristine, symlinks=True, dirs_exist_ok=True)
    wanted = scenario.act(outputs)
    errnos, every = options.errno, options.every
    distinct = different(shim, scenario, outputs, pristine) if options.distinct else None
    tallies = {}
    for name in errnos:
        tally = tallies[name] = Tally()
        started = time.monotonic()
        for number in numbers(errnos.index(name), every, distinct):
            fresh(pristine, shim.folder)
            told = len(tally.faults)
            if not one(shim, scenario, outputs, wanted, number, name, tally):
                break
            if tally.faults[told:]:
                print(*tally.faults[told:], flush=True)
        seconds = time.monotonic() - started
        counts = f"{tally.looks} looks: {tally.went_on} went on, {tally.refused} refused, {len(tally.faults)} faults"
        print(f"{scenario.name}, {name}: {counts} ({seconds:.0f} s)", flush=True)
    return tallies


def numbers(place: int, every: int, distinct: list[int] | None) -> Iterable[int]:
    """The looks that an errno is tried at.

    Args:
        place: of the errno among all. With `every`, each has looks of its own: six errnos and every sixth look are each
            look once.
        every: every n-th alone.
        distinct: those alone; every look when None.
    """
    first = place % every
    return distinct[first::every] if distinct is not None else count(first + 1, every)


def different(shim: Shim, scenario: Scenario, outputs: Path, pristine: Path) -> list[int]:
    """The first of all looks that are the same call at the same path from the same lines of Python."""
    fresh(pristine, shim.folder)
    seen: dict[str, int] = {}
    looks = shim.watched(lambda: scenario.act(outputs))
    for number, look in enumerate(looks, 1):
        seen.setdefault(look, number)
    print(f"{scenario.name}: {len(looks)} looks, {len(seen)} of them different", flush=True)
    return sorted(seen.values())


def one(shim: Shim, scenario: Scenario, outputs: Path, wanted: str, number: int, name: str, tally: Tally) -> bool:
    """One case; gives whether there was a look of that number."""
    before, started = state_of(outputs), time.monotonic()
    shim.arm(number, getattr(errno, name))
    error: BaseException | None = None
    came = ""
    try:
        came = scenario.act(outputs)
    except Exception as fault:  # noqa: BLE001 - whatever it is, it is judged
        error = fault
    _, what = shim.disarm()
    if not what:
        return False
    tally.looks += 1
    case = f"{scenario.name}: {name} at look {number}, {what}"
    if time.monotonic() - started > LIMIT_S:
        tally.faults.append(f"{case}: took {time.monotonic() - started:.0f} s")
    elif error is None:
        tally.went_on += 1
        if came != wanted:
            tally.faults.append(f"{case}: went on to another end: {came[:300]}")
    elif not is_refusal(error):
        tally.faults.append(f"{case}: {type(error).__name__}: {str(error)[:300]}")
    else:
        tally.refused += 1
        if said := harm(before, outputs) or ("" if scenario.left_alone(outputs) else "the checkpoint is gone"):
            tally.faults.append(f"{case}: {said}")
        elif (again := undisturbed(scenario, outputs)) != wanted:
            tally.faults.append(f"{case}: the next start ends otherwise: {again[:300]}")
    return True


def undisturbed(scenario: Scenario, outputs: Path) -> str:
    try:
        return str(scenario.act(outputs))
    except Exception as error:  # noqa: BLE001 - it is told
        return f"{type(error).__name__}: {error}"


def state_of(outputs: Path) -> dict[str, bytes]:
    """Every file of the runs that says something of their state."""
    files = [path for path in outputs.rglob("*") if path.is_file() and path.name not in QUIET]
    return {
        path.relative_to(outputs).as_posix(): path.read_bytes() for path in files if not path.name.endswith(".lock")
    }


def harm(before: dict[str, bytes], outputs: Path) -> str:
    """What a refused resume has lost or changed of what was there; empty where nothing."""
    after = state_of(outputs)
    runs = {name.split("/")[0] for name in before}
    if more := {name.split("/")[0] for name in after} - runs:
        return f"a new run: {more}"
    if aside := [name for name in after if ".damaged-" in name or ".odd-" in name or name.endswith("damage.log")]:
        return f"set aside: {aside[0]}"
    lost = [name for name in before if name not in after and "/checkpoint/" not in name]
    if lost:
        return f"gone: {lost[0]}"
    grown = ("metrics.jsonl", "attempts.jsonl")
    for name, content in before.items():
        same = after.get(name, content) == content or (name.endswith(grown) and after[name].startswith(content))
        if not same and not name.startswith(
            tuple(f"{run}/{part}" for run in runs for part in ("charts", "rounds/0002"))
        ):
            return f"changed: {name}"
    results = Counter(name.rsplit("/", 1)[-1] for name in before if "/rounds/0002/clients/" in name)
    for name, content in before.items():
        if name.endswith(("train.json", "evaluate.json", "update.safetensors")) and after[name] != content and results:
            return f"done again: {name}"
    return ""


def fresh(pristine: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(pristine, folder, symlinks=True)


def table(found: dict[str, dict[str, Tally]]) -> str:
    lines = ["| part of a resume | errno | reads | went on | exit 4 | faults |", "|---|---|---:|---:|---:|---:|"]
    for name, tallies in found.items():
        for errno_, tally in tallies.items():
            lines.append(
                f"| {name} | {errno_} | {tally.looks} | {tally.went_on} | {tally.refused} | {len(tally.faults)} |"
            )
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.hiccups", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", help="look up, take up, go on, fit, export; all when left out")
    parser.add_argument("--errno", nargs="+", default=list(ERRNOS), help="which errnos")
    parser.add_argument("--every", type=int, default=1, help="every n-th look alone")
    parser.add_argument("--distinct", action="store_true", help="once from the same lines of code at the same path")
    parser.add_argument("--folder", type=Path, help="a folder of its own, which stays; else a temporary one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

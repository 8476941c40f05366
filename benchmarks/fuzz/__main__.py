"""Mutate the files of a run, one at a time, and let everybody read them who ever does.

A file is drawn, and what becomes of it: bytes flipped, lost or added; another thing in its place (FIFO, link, folder,
four TiB of nothing); a record with a hostile value, sealed again; a safetensors header that lies. Then a start looks
for runs, an orchestrator takes the run up to its aggregated tensors, a fit goes on from its checkpoint, the cache is
read, and tables, summaries and charts are made. An error that is none of zk0's, more than the time allowed, and what is
taken for something that it is not, are faults (exit code 1).
"""

import argparse
import contextlib
import faulthandler
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType

from loguru import logger

from benchmarks.hiccups.scenarios import trained

LIMIT_S = 120.0
MEMORY = "/dev/shm"  # noqa: S108 - a folder of our own is made there


FAULTS = ("hang", "corrupt", "uncaught")


class Hang(BaseException):
    """It took too long."""


def main() -> int:
    options = _options()
    scratch = Path(tempfile.mkdtemp(prefix="zk0-fuzz-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    os.environ["ZK0_CACHE"] = str(scratch / "outputs" / "cache")
    logger.remove()
    try:
        return fuzz(options, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def fuzz(options: argparse.Namespace, scratch: Path) -> int:
    from benchmarks.fuzz import doors
    from benchmarks.fuzz.mutations import mutate

    outputs, pristine = scratch / "outputs", scratch / "pristine"
    folder = outputs / "shaken"
    make_run(options.run, outputs)
    doors.furnish(folder, random.Random(options.seed))
    checkpoint = doors.Checkpoint(folder)
    truth = doors.learn(folder)
    doors.furnish(folder, random.Random(options.seed))  # `learn` took the lock, which ends what a person wanted
    shutil.copytree(outputs, pristine, symlinks=True)
    files = sorted(path.relative_to(outputs) for path in outputs.rglob("*") if path.is_file())
    chosen = [file for file in files if fnmatch(file.name, options.files)]
    print(f"{len(chosen)} files, {options.mutations} mutations, seed {options.seed}", flush=True)
    tally: Counter[str] = Counter()
    faults: list[str] = []
    signal.signal(signal.SIGALRM, _hang)
    started = time.monotonic()
    for number in range(options.first, options.first + options.mutations):
        rng = random.Random(f"{options.seed}-{number}")
        shutil.rmtree(outputs)
        shutil.copytree(pristine, outputs, symlinks=True)
        path = outputs / rng.choice(chosen)
        how = mutate(path, rng)
        case = f"mutation {number}, {path.relative_to(outputs)}, {how}"
        lied = how.startswith("lie")
        draw = path.name in doors.DRAWN and rng.random() < options.draw
        for name, door in (
            ("start", lambda: doors.start(folder, truth)),
            ("show", lambda: doors.show(folder, truth, draw=draw)),  # noqa: B023 - called here
            ("checkpoint", lambda: doors.restore(folder, checkpoint)),
            ("cache", lambda: doors.read_cache(truth, lied=lied)),  # noqa: B023
            ("go on", lambda: doors.go_on(folder, truth, lied=lied)),  # noqa: B023
        ):
            outcome = through(door, case, name, faults)
            tally[f"{name}: {outcome}"] += 1
            if outcome in FAULTS:
                print(f"FAULT {faults[-1]}", flush=True)
        tally["drawn"] += draw
        if (number + 1) % 500 == 0:
            print(f"{number + 1}: {len(faults)} faults ({time.monotonic() - started:.0f} s)", flush=True)
    for name, count in sorted(tally.items()):
        print(f"{name}: {count}")
    print(f"{options.mutations} mutations: {len(faults)} faults")
    return 1 if faults else 0


def make_run(given: Path | None, outputs: Path) -> None:
    """The run that is mutated: a copy of the one that was given, before its last commit, or a new one."""
    if given is None:
        trained(outputs)
    else:
        folder = Path(shutil.copytree(given, outputs / "shaken"))
        (max((folder / "rounds").iterdir()) / "manifest.json").unlink(missing_ok=True)
    logger.remove()  # a run has set up its own
    logging.disable()


def through(door: Callable[[], None], case: str, name: str, faults: list[str]) -> str:
    """Read through one door; gives `whole`, or the class of the error that refused it."""
    from benchmarks.fuzz.doors import Corrupt
    from zk0.errors import Zk0Error

    try:
        with in_time():
            door()
    except Zk0Error as error:
        if "\n" in str(error) and "runs there" not in str(error):
            faults.append(f"{case}, {name}: a refusal of more than one line: {str(error)[:300]}")
        return type(error).__name__
    except Hang:
        faults.append(f"{case}, {name}: more than {LIMIT_S} s\n{traceback.format_exc()[-1500:]}")
        return "hang"
    except Corrupt as error:
        faults.append(f"{case}, {name}: {error}")
        return "corrupt"
    except Exception as error:  # noqa: BLE001 - what is looked for
        faults.append(f"{case}, {name}: {type(error).__name__}: {str(error)[:200]}\n{traceback.format_exc()[-1500:]}")
        return "uncaught"
    return "whole"


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """End what takes too long; where not even that helps, this process, with its traceback."""
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    faulthandler.dump_traceback_later(6 * LIMIT_S, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


def _hang(_: int, __: FrameType | None) -> None:
    raise Hang


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation, to do one again")
    parser.add_argument("--run", type=Path, help="a finished run with charts of the joints; else one is trained")
    parser.add_argument("--files", default="*", help="the names of those that are mutated, such as 'metrics.json*'")
    parser.add_argument("--draw", type=float, default=0.3, help="share of the mutations that concern charts, drawn")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

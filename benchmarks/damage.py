"""Damage every file of a run directory, one at a time and in four ways, and resume: `python -m benchmarks.damage`.

A run is killed in its second round, between a finished fit and one with a checkpoint. Then, for every file of its
directory, a fresh copy has that file truncated, one bit of it flipped, the file deleted, or made unreadable, and
`zk0 resume` is given the copy. Each time the run must end with the bytes of an undisturbed run, or be refused with a
message that names the file and go on once the file is put back. A traceback, another result or a damage that nobody
names is a failure (exit code 1).

The command line's own entry point is called in this process, which saves the imports of every case.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import tomli_w
from rich.console import Console
from rich.table import Table

from benchmarks.service import free_port

NAME = "damaged"
REFUSED = (2, 4)
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24
CONFIG = {
    "seed": 7,
    "federation": {"num_rounds": 2, "min_train_clients": 2},
    "clients": [
        {"name": name, "repo_id": f"zk0/{name}", "root": f"asset:datasets/{name}"} for name in ("kitchen", "workshop")
    ],
    "policy": {"path": "asset:base", "device": "cpu"},
    "peft": {"r": 4, "lora_alpha": 8},
    "training": {"steps": 3, "batch_size": 4, "lr": 1e-3},
    "evaluation": {"frame_stride": 48, "holdout_episodes": 1},
    "executor": {"max_parallel": 1, "max_retries": 0, "retry_delay_s": 0.0},
    "checkpoint": {"every_steps": 1},
}


def truncate(path: Path, _: random.Random) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def delete(path: Path, _: random.Random) -> None:
    path.unlink()


def make_unreadable(path: Path, _: random.Random) -> None:
    path.chmod(0)


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "truncated": truncate,
    "one bit flipped": flip_a_bit,
    "deleted": delete,
    "unreadable": make_unreadable,
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one damage."""

    file: str
    damage: str
    exit_code: int
    said: str
    """The warning or the refusal that names the file; empty where nothing did."""
    fault: str
    """Why this is not as it must be; empty where it is."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="so many cases, drawn by the seed; all when left out")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of the flipped bits")
    parser.add_argument("--log", type=Path, help="add every outcome to this file, and skip those that are in it")
    parser.add_argument("--out", type=Path, help="write the table as Markdown to this file")
    options = parser.parse_args()
    lose_the_right_to_read_everything()
    with tempfile.TemporaryDirectory(prefix="zk0-damage-") as scratch, prefect_server(Path(scratch)):
        outcomes = damage_all(Path(scratch), options.sample, random.Random(options.seed), options.log)
    report(outcomes, options.out)
    sys.exit(any(outcome.fault for outcome in outcomes))


def damage_all(scratch: Path, sample: int | None, rng: random.Random, log: Path | None) -> list[Outcome]:
    """Every case (or a sample), each on its own copy of the killed run."""
    killed = killed_run(scratch)
    folder = scratch / "outputs" / NAME
    expected = resume_undisturbed(killed, folder)
    files = sorted(path.relative_to(killed).as_posix() for path in killed.rglob("*") if path.is_file())
    cases = [(file, damage) for file in files for damage in DAMAGES]
    cases = rng.sample(cases, sample or len(cases))
    outcomes = read_outcomes(log)
    done = {(outcome.file, outcome.damage) for outcome in outcomes}
    cases = [case for case in cases if case not in done]
    for number, (file, damage) in enumerate(cases, 1):
        started = time.monotonic()
        outcome = try_one(killed, folder, file, damage, expected, rng)
        outcomes.append(outcome)
        if log is not None:
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
        verdict = outcome.fault or ("goes on" if outcome.exit_code == 0 else "refused")
        print(f"{number}/{len(cases)} {file} {damage}: {verdict} ({time.monotonic() - started:.0f} s)", flush=True)
    return outcomes


def read_outcomes(log: Path | None) -> list[Outcome]:
    if log is None or not log.is_file():
        return []
    return [Outcome(**json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines()]


def try_one(killed: Path, folder: Path, file: str, damage: str, expected: str, rng: random.Random) -> Outcome:
    """Damage one file of a fresh copy and resume; where it is refused, put the file back and resume again."""
    fresh_copy(killed, folder)
    DAMAGES[damage](folder / file, rng)
    exit_code, output = resume(folder)
    text = output + read_log(folder)
    said = next((line.strip() for line in text.splitlines() if Path(file).name in line and is_alarm(line)), "")
    fault = ""
    if "Traceback" in output:
        fault = f"a traceback: {output[-1500:]}"
    elif exit_code == 0:
        if digest(folder) != expected:
            fault = "another result"
        elif must_be_named(file, damage) and not said:
            fault = "nobody named it"
    elif exit_code not in REFUSED:
        fault = f"exit code {exit_code}: {output[-1500:]}"
    elif Path(file).name not in output:
        fault = f"the refusal does not name the file: {output[-1500:]}"
    else:
        fault = put_back(killed, folder, file, expected)
    return Outcome(file, damage, exit_code, said, fault)


def put_back(killed: Path, folder: Path, file: str, expected: str) -> str:
    """After a refusal: with the file as it was the run must go on; gives the fault."""
    target = folder / file
    if target.exists():
        target.chmod(0o600)
    shutil.copy2(killed / file, target)
    exit_code, output = resume(folder)
    if exit_code != 0 or digest(folder) != expected:
        return f"does not go on with the file put back: exit code {exit_code}: {output[-1500:]}"
    return ""


def must_be_named(file: str, damage: str) -> bool:
    """Whether the file is state of the run: not a log, a lock, what is shown meanwhile, or what is made of the rest.

    A result or manifest that is missing cannot be told from work that was not done: it is done again.
    """
    name = Path(file).name
    state = file.startswith("rounds/") and not name.endswith((".log", ".lock")) and name != "progress.json"
    leftover = name.startswith(".") or name in ("attempts.jsonl", "memory.jsonl")
    if damage == "deleted":
        return state and not leftover and file.startswith(("rounds/0000/", "rounds/0001/")) and name != "manifest.json"
    return state and not leftover


def is_alarm(line: str) -> bool:
    return any(word in line for word in ("WARNING", "ERROR", "error:", "damaged", "cannot be"))


def killed_run(scratch: Path) -> Path:
    """A run directory as a power cut leaves it: round 2 has one finished fit, and one with a checkpoint."""
    config = scratch / "config.toml"
    config.write_text(tomli_w.dumps({**CONFIG, "outputs_dir": str(scratch / "outputs")}))
    folder = scratch / "outputs" / NAME
    process = subprocess.Popen(
        [sys.executable, "-m", "zk0.cli", "run", str(config), "--name", NAME],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    sign = folder / "rounds" / "0002" / "clients" / "workshop" / "checkpoint" / "manifest.json"
    while not sign.is_file():
        if process.poll() is not None:
            raise SystemExit(f"the run ended with {process.returncode} before it could be killed")
        time.sleep(0.005)
    for victim in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGKILL)
    process.wait()
    return shutil.copytree(folder, scratch / "killed", symlinks=True)


def resume_undisturbed(killed: Path, folder: Path) -> str:
    fresh_copy(killed, folder)
    exit_code, output = resume(folder)
    if exit_code != 0:
        raise SystemExit(f"the undamaged run does not go on: {output}")
    return digest(folder)


def fresh_copy(killed: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(killed, folder, symlinks=True)


def resume(folder: Path) -> tuple[int, str]:
    """`zk0 resume`; gives its exit code and everything it wrote to the terminal."""
    from zk0 import cli

    sys.argv = ["zk0", "resume", NAME, "--outputs", str(folder.parent)]
    with terminal() as written:
        try:
            cli.main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        except BaseException as error:  # noqa: BLE001 - what a user would see as a traceback is what we look for
            code = 1
            print(f"Traceback: {type(error).__name__}: {error}", file=sys.stderr)
    return code, written.getvalue()


@contextlib.contextmanager
def terminal() -> Iterator[io.StringIO]:
    """Catch what this process and its children write to stdout and stderr."""
    text = io.StringIO()
    with tempfile.TemporaryFile() as file:
        saved = os.dup(1), os.dup(2)
        sys.stdout.flush()
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield text
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, stream in zip(saved, (1, 2), strict=True):
                os.dup2(descriptor, stream)
                os.close(descriptor)
            file.seek(0)
            text.write(file.read().decode(errors="replace"))


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "rounds" / "0002" / "global.safetensors").read_bytes()).hexdigest()


def read_log(folder: Path) -> str:
    """What was said in the log after the copy was made; the log itself may be the damaged file."""
    logs = [folder / "run.log", folder / "damage.log", *folder.glob("rounds/*/clients/*/client.log")]
    readable = [log for log in logs if os.access(log, os.R_OK)]
    return "\n".join(log.read_text(errors="replace") for log in readable)


@contextlib.contextmanager
def prefect_server(scratch: Path) -> Iterator[None]:
    """A Prefect server of our own, so that the user's history stays clean."""
    os.environ["PREFECT_HOME"] = str(scratch / "prefect")
    os.environ["PREFECT_SERVER_API_PORT"] = str(free_port())
    from flows.settings import set_defaults

    set_defaults()
    from flows.server import ensure_server

    server = ensure_server()
    try:
        os.environ["PREFECT_API_URL"] = server.wait()
        yield
    finally:
        server.discard()


def lose_the_right_to_read_everything() -> None:
    """Root may read files of mode 0; start again without that capability, as an ordinary user of these files."""
    if os.geteuid() != 0 or os.environ.get("ZK0_BENCHMARK_WITHOUT_OVERRIDE"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "cannot drop a capability")
    os.environ["ZK0_BENCHMARK_WITHOUT_OVERRIDE"] = "1"
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.damage", *sys.argv[1:]])  # noqa: S606 - ourselves


def report(outcomes: list[Outcome], out: Path | None) -> None:
    """Print the table of files by damage, then every fault; write it as Markdown where asked."""
    rows: dict[str, dict[str, str]] = {}
    for outcome in outcomes:
        cell = "FAULT" if outcome.fault else "goes on" if outcome.exit_code == 0 else f"refused, {outcome.exit_code}"
        rows.setdefault(outcome.file, {})[outcome.damage] = cell
    table = Table("file", *DAMAGES, title=f"{len(outcomes)} damages")
    for file, cells in rows.items():
        table.add_row(file, *(cells.get(damage, "") for damage in DAMAGES))
    Console().print(table)
    for outcome in outcomes:
        if outcome.fault:
            print(f"FAULT {outcome.file} {outcome.damage}: {outcome.fault}")
    print(f"{sum(not outcome.fault for outcome in outcomes)} of {len(outcomes)} as they must be")
    if out is not None:
        lines = [f"| file | {' | '.join(DAMAGES)} |", "|---" * (1 + len(DAMAGES)) + "|"]
        lines += [
            f"| `{file}` | {' | '.join(cells.get(name, '') for name in DAMAGES)} |" for file, cells in rows.items()
        ]
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

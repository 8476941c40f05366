"""A run over four nodes in network namespaces, killed at random and cut off: is it the run by processes, to the byte?

uv run python -m benchmarks.federation_chaos --kills 20 --cut-s 180 --json chaos.json   (as root: it makes namespaces)

One link with TLS, keys and gate; four owners with the shipped recordings. Every kill is a SIGKILL, one at a time: the
next one comes when all is back. Then one node's cable is pulled. Where the run ends before the kills do, it is made
again.
"""

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil

from benchmarks.links import Place, until
from benchmarks.namespaces import LINK_ADDRESS, Namespaces
from benchmarks.service import small_run
from zk0.executors.living import lock_holder
from zk0.layout import COURIER_FOLDER
from zk0.link.mailbox import Mailbox

OWNERS = ("kitchen", "workshop", "study", "greenhouse")
LINK_PARTS = ("superlink", "superexec", "gate")
VICTIMS = ("node", "supernode", "worker", "messenger", "fit", "courier", *LINK_PARTS, "orchestrator")
"""Whom to kill: `node` is `zk0 node start` itself, as a power cut of its machine's service would; `messenger` is the
process of Flower's ClientApp, `fit` the one that trains."""
BACK_S = 300.0
RUN = "import sys, json, zk0; zk0.run(json.loads(sys.argv[1]), name=sys.argv[2])"
FITS = "work/runs/*/rounds/*/clients/*"


def config(outputs: Path, args: argparse.Namespace, link: Path | None) -> dict[str, Any]:
    """The run's; over a link its clients' folders are their nodes' business."""
    found = small_run(
        outputs,
        federation__num_rounds=args.rounds,
        federation__min_train_clients=len(OWNERS),
        training__steps=args.steps,
        checkpoint__every_steps=5,
        evaluation__frame_stride=96,
        executor__max_parallel=len(OWNERS),
    )
    found["clients"] = [{"name": name, "repo_id": f"zk0/{name}", "root": f"asset:datasets/{name}"} for name in OWNERS]
    if link is not None:
        found["executor"] |= {"kind": "superlink", "link": str(link)}
        for client in found["clients"]:
            del client["root"]
    return found


def digest(run_dir: Path, server_round: int) -> str:
    return hashlib.sha256((run_dir / f"rounds/{server_round:04d}/global.safetensors").read_bytes()).hexdigest()


class Federation:
    """The link, the nodes and the run under way."""

    def __init__(self, args: argparse.Namespace, folder: Path, spaces: Namespaces) -> None:
        self.args, self.folder, self.spaces = args, folder, spaces
        self.place = Place(folder, LINK_ADDRESS, spaces.within)
        self.outputs = folder / "outputs"
        self.run: subprocess.Popen[bytes] | None = None
        self.name = ""
        self.finished: Counter[tuple[str, str, str]] = Counter()

    def start(self) -> None:
        self.place.start_link()
        for name in OWNERS:
            path = self.place.node(name) / "node.toml"
            text = path.read_text().replace("datasets/kitchen", f"datasets/{name}")
            path.write_text(text.replace("[rules]", 'device = "cpu"\n[rules]', 1))
            self.place.start_node(name)
        for name in OWNERS:
            until(lambda name=name: "SuperNode ID" in self.place.log(name), 300)  # type: ignore[misc]

    def start_run(self) -> None:
        wanted = json.dumps(config(self.outputs, self.args, self.place.link))
        with (self.folder / "run.out").open("ab") as out:
            command = [*self.spaces.within("link"), sys.executable, "-P", "-c", RUN, wanted, self.name]
            self.run = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)

    @property
    def box(self) -> Mailbox:
        return Mailbox(self.outputs / self.name / COURIER_FOLDER)

    @property
    def under_way(self) -> bool:
        return self.run is not None and self.run.poll() is None

    def joined(self, owner: str) -> int:
        """How often a node has joined the link."""
        return self.place.log(owner).count("SuperNode ID")

    def present(self, since: float) -> bool:
        """Whether all nodes are there, by a word of the courier's from after that."""
        status = self.box.status()
        return status is not None and status.at > since and set(status.present) == set(OWNERS)

    def pid(self, victim: str, owner: str) -> int | None:
        """Process id of a victim; None where there is none now."""
        if victim == "orchestrator":
            return self.run.pid if self.under_way and self.run is not None else None
        if victim == "courier":
            status = self.box.status()
            return status.pid if status is not None and time.time() - status.at < 5 else None
        if victim in LINK_PARTS:
            return self.place.part("link", victim)
        of_node: dict[str, Callable[[str], int | None]] = {
            "node": lambda name: self.place.processes[name].pid,
            "messenger": self._messenger,
            "fit": self.fit,
        }
        found = of_node.get(victim)
        return self.place.part(owner, victim) if found is None else found(owner)

    def _messenger(self, owner: str) -> int | None:
        with suppress(psutil.Error, TypeError):
            worker = psutil.Process(self.place.part(owner, "worker"))
            for server in worker.children():
                if "zk0.node.messenger" in server.cmdline():
                    return next((child.pid for child in server.children() if child.status() != "zombie"), None)
        return None

    def fit(self, owner: str) -> int | None:
        """Process id of a node's fit under way."""
        for lock in (self.folder / owner).glob(f"{FITS}/train.lock"):
            if (holder := lock_holder(lock)) is not None:
                return int(holder.pid)
        return None

    def bring_back(self, victim: str, owner: str) -> None:
        """What a person or systemd does."""
        if victim == "node":
            self.place.processes.pop(owner).wait()
            self.place.start_node(owner)
        if victim == "orchestrator":
            assert self.run is not None
            self.run.wait()
            self.start_run()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count how often each fit is done, from the clients' logs, which go with their rounds."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.5):
                for log in self.folder.glob(f"*/{FITS}/client.log"):
                    with suppress(OSError):
                        done = len(re.findall(r"train done in", log.read_text(errors="replace")))
                        key = (log.parts[-6], log.parts[-4], log.parts[-2])
                        self.finished[key] = max(self.finished[key], done)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def kill(federation: Federation, victim: str, owner: str) -> dict[str, Any] | None:
    """Kill one, and wait until all is as before; None where the run ended before there was a victim."""
    pid = None
    end = time.monotonic() + BACK_S
    while (pid := federation.pid(victim, owner)) is None:
        if not federation.under_way or time.monotonic() > end:
            return None
        time.sleep(0.02)
    at, joined = time.time(), federation.joined(owner)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    federation.bring_back(victim, owner)
    again = joined + (victim in ("node", "supernode"))  # the link thinks for a minute that the old one is there
    wait(
        lambda: (
            not federation.under_way or (back(federation, victim, owner, pid, at) and federation.joined(owner) >= again)
        )
    )
    record = {"victim": victim, "owner": owner, "back_s": round(time.time() - at, 1), "at": at}
    print(f"{victim:12} {owner:10} back after {record['back_s']:6.1f} s", flush=True)
    return record


def back(federation: Federation, victim: str, owner: str, pid: int, at: float) -> bool:
    if victim in ("supernode", "worker", "courier", *LINK_PARTS) and federation.pid(victim, owner) in (None, pid):
        return False
    return federation.present(at + 1.0)


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + BACK_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"not back within {BACK_S:g} s")
        time.sleep(0.1)


def one_run(federation: Federation, number: int, todo: list[str], choose: random.Random) -> dict[str, Any]:
    """Make the run once, killing what is left to be killed."""
    federation.name, began, kills = f"far-{number}", time.monotonic(), []
    federation.start_run()
    wait(lambda: not federation.under_way or federation.present(0))
    while todo and federation.under_way:
        time.sleep(choose.uniform(0.5, 6.0))
        record = kill(federation, todo[-1], choose.choice(OWNERS))
        if record is not None:
            kills.append(record)
            todo.pop()
    assert federation.run is not None
    code = federation.run.wait()
    seconds = round(time.monotonic() - began, 1)
    if code:
        raise SystemExit(f"the run ended with code {code}: see {federation.folder / 'run.out'}")
    found = digest(federation.outputs / federation.name, federation.args.rounds)
    return {"name": federation.name, "seconds": seconds, "digest": found, "kills": kills}


def cut_run(federation: Federation, seconds: float, owner: str) -> dict[str, Any]:
    """Make the run once, with one node's cable pulled in a fit."""
    federation.name, began = "cut", time.monotonic()
    federation.start_run()
    wait(lambda: federation.fit(owner) is not None)
    federation.spaces.cut(owner)
    time.sleep(seconds)
    federation.spaces.cut(owner, up=True)
    put_back = time.time()
    wait(lambda: not federation.under_way or federation.present(put_back))
    back_s = round(time.time() - put_back, 1)
    assert federation.run is not None
    code = federation.run.wait()
    if code:
        raise SystemExit(f"the run that was cut off ended with code {code}: see {federation.folder / 'run.out'}")
    found = digest(federation.outputs / "cut", federation.args.rounds)
    whole = round(time.monotonic() - began, 1)
    return {"owner": owner, "cut_s": seconds, "back_s": back_s, "seconds": whole, "digest": found}


def campaign(args: argparse.Namespace, folder: Path, spaces: Namespaces) -> dict[str, Any]:
    choose = random.Random(args.seed)
    todo = [VICTIMS[number % len(VICTIMS)] for number in range(args.kills)]
    choose.shuffle(todo)
    home = config(folder / "home", args, None)
    began = time.monotonic()
    subprocess.run([sys.executable, "-P", "-c", RUN, json.dumps(home), "home"], check=True, stdout=subprocess.DEVNULL)
    wanted, home_s = digest(folder / "home/home", args.rounds), round(time.monotonic() - began, 1)
    print(f"by processes: {home_s} s, {wanted[:16]}", flush=True)
    federation = Federation(args, folder, spaces)
    runs: list[dict[str, Any]] = []
    cut = None
    try:
        with federation.counted():
            federation.start()
            runs.append(one_run(federation, 0, [], choose))
            while todo:
                runs.append(one_run(federation, len(runs), todo, choose))
            if args.cut_s:
                cut = cut_run(federation, args.cut_s, choose.choice(OWNERS))
            time.sleep(1)
    finally:
        if federation.under_way and federation.run is not None:
            federation.run.kill()
        federation.place.close()
    return {"home_s": home_s, "digest": wanted, "runs": runs, "cut": cut, "finished": _twice(federation)}


def _twice(federation: Federation) -> dict[str, Any]:
    done = federation.finished
    return {"fits": sum(done.values()), "twice": ["/".join(key) for key, times in done.items() if times > 1]}


def told(found: dict[str, Any]) -> bool:
    """Print what was found; whether all is well."""
    by_victim: dict[str, list[float]] = defaultdict(list)
    for run in found["runs"]:
        for item in run["kills"]:
            by_victim[item["victim"]].append(item["back_s"])
    print(f"\n{'killed':14}{'times':>6}{'back after, s (mean, most)':>30}")
    for victim, seconds in by_victim.items():
        print(f"{victim:14}{len(seconds):>6}{fmean(seconds):>20.1f}{max(seconds):>10.1f}")
    runs = [*found["runs"], *([found["cut"] | {"name": "cut off"}] if found["cut"] else [])]
    for run in runs:
        same = "same bytes" if run["digest"] == found["digest"] else "OTHER BYTES"
        print(f"{run['name']}: {run['seconds']} s, {len(run.get('kills', []))} kills, {same}")
    print(f"fits done: {found['finished']['fits']}; done twice: {found['finished']['twice'] or 'none'}")
    return all(run["digest"] == found["digest"] for run in runs) and not found["finished"]["twice"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--cut-s", type=float, default=180.0, help="0 for none")
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="is kept; a temporary one when left out")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with closing(Namespaces(OWNERS)) as spaces, tempfile.TemporaryDirectory() as scratch:
        found = campaign(args, args.folder or Path(scratch), spaces)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))
    return 0 if told(found) else 1


if __name__ == "__main__":
    sys.exit(main())

"""A link and nodes as people start them: by `zk0 link` and `zk0 node`, on loopback or in network namespaces."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.service import free_port

ZK0 = str(Path(sys.executable).parent / "zk0")
RECORDINGS = "asset:datasets/kitchen"


def until[Found](condition: Callable[[], Found], seconds: float = 180) -> Found:
    """Wait for something, and give it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)
    return found


class Place:
    """A link in a folder, and nodes beside it."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", within: Callable[[str], Sequence[str]] = lambda _: ()):
        """Make the link's keys.

        Args:
            folder: of all of it.
            host: address of the link, as nodes see it.
            within: name of a party, `link` or a node's -> what its commands are begun with, such as `ip netns exec`.
        """
        self.folder, self.host, self._within = folder, host, within
        self.link = folder / "link"
        self.port, self.inner_port = free_port(), free_port()
        self.zk0("link", "link", "keys", self.link, "--host", host, "--port", self.port)
        with (self.link / "link.toml").open("a") as file:
            file.write(f"inner_port = {self.inner_port}\n")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def zk0(self, party: str, *words: object, fails: bool = False) -> str:
        """Run a command of zk0 to its end; gives what it said."""
        command = [*self._within(party), ZK0, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def start(self, party: str, *words: object) -> subprocess.Popen[bytes]:
        """Start a command that stays up."""
        with (self.folder / f"{party}.out").open("ab") as out:
            command = [*self._within(party), ZK0, *map(str, words)]
            self.processes[party] = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        return self.processes[party]

    def start_link(self) -> None:
        """Start the link, and wait until it answers."""
        self.start("link", "link", "start", self.link)
        until(lambda: "Uvicorn running" in self.log("link") and "the gate listens" in self.log("link"))

    def node(self, name: str, *, registered: bool = True, ca: Path | None = None, link: str | None = None) -> Path:
        """Make a node's home; gives it."""
        home = self.folder / name
        address = link or f"{self.host}:{self.port}"
        self.zk0(name, "node", "key", home, "--client", name, "--link", address, "--root", self.folder)
        (home / "ca.pem").write_bytes((ca or self.link / "ca.pem").read_bytes())
        settings = (home / "node.toml").read_text().replace(str(self.folder), RECORDINGS, 1)
        (home / "node.toml").write_text(settings)
        if registered:
            self.zk0("link", "link", "register", self.link, name, home / "key.pub")
        return home

    def start_node(self, name: str) -> None:
        """Start a node; it may or may not join."""
        self.start(name, "node", "start", self.folder / name)

    def status(self, name: str) -> str:
        """What Flower says of a node: registered, online, offline."""
        found: dict[str, Any] = json.loads(self.zk0("link", "link", "status", self.link, "--json"))
        return next((str(node["status"]) for node in found["nodes"] if node["client"] == name), "not registered")

    def log(self, party: str) -> str:
        """The link's log, or a node's."""
        path = self.link / "link.log" if party == "link" else self.folder / party / "node.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def part(self, party: str, name: str) -> int | None:
        """Process id of a kept program."""
        folder = self.link if party == "link" else self.folder / party
        status = folder / "status.json"
        pid: int | None = json.loads(status.read_text())["parts"][name]["pid"] if status.exists() else None
        return pid

    def end(self, party: str, number: int = signal.SIGTERM) -> None:
        """End what was started, and wait for it."""
        process = self.processes.pop(party)
        process.send_signal(number)
        process.wait(60)

    def close(self) -> None:
        """End everything."""
        for party in [*self.processes]:
            self.end(party)


@contextmanager
def place(folder: Path, **settings: Any) -> Iterator[Place]:
    """A link that is up, and is ended."""
    found = Place(folder, **settings)
    try:
        found.start_link()
        yield found
    finally:
        found.close()


def environment_of(mark: str) -> list[int]:
    """Processes whose environment has a variable ZK0_KEPT_FOR of this value."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                content = (process / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"ZK0_KEPT_FOR={mark}".encode() in content and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found

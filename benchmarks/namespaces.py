"""Network namespaces: a machine for the link, and one for each node, on one switch."""

import os
import subprocess
from collections.abc import Sequence

LINK_ADDRESS = "10.77.0.1"


def ip(*words: str, check: bool = True) -> int:
    """Run `ip`."""
    return subprocess.run(["ip", *words], capture_output=True, check=check).returncode  # noqa: S607 - where the system has it


class Namespaces:
    """Those of one test session; `within` is what a command is begun with to run in one."""

    def __init__(self, names: Sequence[str]) -> None:
        """Make the link's, with a bridge, and one for each name.

        Raises:
            PermissionError: this user may make none.
        """
        self.prefix = f"zk0t{os.getpid()}"
        self.names = list(names)
        if os.geteuid() or ip("netns", "add", self.of("link"), check=False):
            raise PermissionError("needs the right to make network namespaces")
        link = self.of("link")
        ip("-n", link, "link", "set", "lo", "up")
        ip("-n", link, "link", "add", "br0", "type", "bridge")
        ip("-n", link, "addr", "add", f"{LINK_ADDRESS}/24", "dev", "br0")
        ip("-n", link, "link", "set", "br0", "up")
        for number, name in enumerate(names, start=11):
            self._add(name, number)

    def of(self, name: str) -> str:
        """The namespace of a party."""
        return f"{self.prefix}-{name}"

    def within(self, name: str) -> list[str]:
        """What a command begins with that runs there."""
        return ["ip", "netns", "exec", self.of(name)]

    def cut(self, name: str, *, up: bool = False) -> None:
        """Pull a node's cable, or put it back."""
        ip("-n", self.of("link"), "link", "set", f"v{self.names.index(name)}", "up" if up else "down")

    def close(self) -> None:
        """Remove them all."""
        for name in ["link", *self.names]:
            ip("netns", "del", self.of(name), check=False)

    def _add(self, name: str, number: int) -> None:
        space, cable = self.of(name), f"v{number - 11}"
        ip("netns", "add", space)
        ip("-n", space, "link", "set", "lo", "up")
        ip("link", "add", cable, "netns", self.of("link"), "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("-n", self.of("link"), "link", "set", cable, "master", "br0")
        ip("-n", self.of("link"), "link", "set", cable, "up")
        ip("-n", space, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")

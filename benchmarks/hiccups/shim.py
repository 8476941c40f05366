"""The preloaded library that lets a read fail: built by the system's C compiler, steered through a shared file."""

import faulthandler
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
STATE_VARIABLE, FOLDER_VARIABLE = "HICCUP_STATE", "HICCUP_FOLDER"
_NUMBERS = struct.Struct("=6i")
"""Looks so far, the one that fails, errno, whether all after it fail too, how many failed, a file that is told."""
_WORDS = 500


def compiler() -> str | None:
    """The system's C compiler; None where it has none."""
    return shutil.which("cc") or shutil.which("gcc")


def restart_with_shim(module: str, scratch: Path) -> None:
    """Become `python -m module` once more, with the library preloaded: what is below `scratch/shaken` may fail.

    Args:
        module: with the arguments that this process was given.
        scratch: a folder of its own.
    """
    library, state = scratch / "shim.so", scratch / "shim.state"
    cc = compiler()
    if cc is None:
        raise SystemExit("no C compiler: install one")
    subprocess.run([cc, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    state.write_bytes(bytes(_NUMBERS.size + _WORDS))
    os.environ |= {
        "LD_PRELOAD": str(library),
        STATE_VARIABLE: str(state),
        FOLDER_VARIABLE: str(scratch.resolve() / "shaken"),
    }
    os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])  # noqa: S606 - ourselves


class Shim:
    """The library in this process, and in those that it starts."""

    def __init__(self) -> None:
        with Path(os.environ[STATE_VARIABLE]).open("r+b") as file:
            self._state = mmap.mmap(file.fileno(), 0)
        self.folder = Path(os.environ[FOLDER_VARIABLE])

    def arm(self, number: int, error: int, *, lasting: bool = False) -> None:
        """Count anew, and let a look fail.

        Args:
            number: of the look, from 1; 0 for none.
            error: errno.
            lasting: whether all looks after it fail, too.
        """
        self._state[:] = _NUMBERS.pack(0, number, error, lasting, 0, 0) + bytes(_WORDS)

    def watched(self, act: Callable[[], object]) -> list[str]:
        """Who looks at what while something is done: call, path and a traceback of Python's for each look, in order.

        In a process that is forked the traceback is there, too; in one that is started anew it is not, nor its looks.
        """
        path = self.folder.with_name("told.looks")
        with path.open("w+") as told:
            faulthandler.register(signal.SIGUSR1, told, all_threads=False)
            self._state[:] = _NUMBERS.pack(0, 0, 0, 0, 0, told.fileno()) + bytes(_WORDS)
            try:
                act()
            finally:
                self.arm(0, 0)
                faulthandler.unregister(signal.SIGUSR1)
        looks: dict[int, str] = {}
        for text in path.read_text(errors="replace").split("LOOK ")[1:]:
            number, _, said = text.partition(" ")
            looks[int(number)] = said
        return [looks.get(number, "") for number in range(1, max(looks, default=0) + 1)]

    def disarm(self) -> tuple[int, str]:
        """Let all looks be; gives how many there were, and which one failed, empty where none did."""
        count, _, _, _, fired, _ = _NUMBERS.unpack(self._state[: _NUMBERS.size])
        what = self._state[_NUMBERS.size :].split(b"\0")[0].decode(errors="replace") if fired else ""
        self.arm(0, 0)
        return count, what

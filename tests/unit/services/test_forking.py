"""A server that is asked to fork: its socket is its user's alone, and what is forked writes as it would by itself."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

from zk0.services import forking

SERVE = """
import os, sys
from pathlib import Path
from zk0.services import forking
os.umask(0o022)
forking.serve(Path(sys.argv[1]), "sock", int(sys.argv[2]), lambda words: Path(words[0]).write_text("x"), 2)
"""


def test_the_socket_is_private_and_what_a_fork_writes_is_not(tmp_path: Path) -> None:
    forking.write_shim(tmp_path / "shim", tmp_path, "sock", ["-c", "raise SystemExit(9)"])
    server = subprocess.Popen([sys.executable, "-c", SERVE, str(tmp_path), str(os.getpid())])
    try:
        subprocess.run([tmp_path / "shim", str(tmp_path / "made")], check=True, timeout=60)
        end = time.monotonic() + 20
        while not (tmp_path / "made").exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        assert stat.S_IMODE((tmp_path / "sock").stat().st_mode) & 0o077 == 0
        assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o644
    finally:
        server.kill()
        server.wait()

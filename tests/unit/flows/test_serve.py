"""flows.serve: when a server is given up."""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.service import free_port
from flows.serve import SILENT_S, Options, Service
from flows.server import Server


def test_a_server_that_lives_and_is_busy_is_left_alone_for_a_while(tmp_path: Path) -> None:
    service = Service(Options(config=None, outputs=tmp_path, host="127.0.0.1"), print)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        silent = Server(f"http://127.0.0.1:{free_port()}/api", process)
        service._answered = time.monotonic()
        assert not service._is_gone(silent)
        service._answered -= SILENT_S
        assert service._is_gone(silent)
        service._answered = time.monotonic()
        process.kill()
        process.wait()
        assert service._is_gone(silent)
    assert service._is_gone(Server(silent.url)), "one that somebody else started"

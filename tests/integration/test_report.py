"""The report of a run that went through everything: three kills, one out-of-memory, one refused update.

The kills are real, and so is the lie of a client that writes what it likes; of memory the executor says there is none
(there really is none in test_out_of_memory.py).
"""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from benchmarks.service import ROOT, CommandLine
from tests.integration.browser import WIDTHS, alone, keep, needs_chromium
from tests.integration.conftest import kill, worker_of
from zk0.layout import client_folder
from zk0.runs.progress import read_progress

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]  # tests/unit/page: the same of files
LIAR = "greenhouse"

RUN = """
import sys
import zk0
from zk0.executors.process import ProcessExecutor
from tests.integration.test_hostile_client import lie
from zk0.errors import ClientError
from zk0.work.results import find_finished

honest = ProcessExecutor.run

def run(self, task):
    if task.client == "workshop" and task.kind == "train" and task.server_round == 1 and not task.micro_batch_size:
        raise ClientError("out_of_memory", "its process was killed for want of memory")
    result = honest(self, task)
    if task.client != "greenhouse" or task.kind != "train" or task.server_round != 1:
        return result
    lie(task, result)
    return find_finished(task)

if __name__ == "__main__":
    ProcessExecutor.run = run
    zk0.run(sys.argv[1], name="troubled")
"""


def seen(what: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 1500
    while not what():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "not seen in time"
        time.sleep(0.05)


@needs_chromium
def test_a_run_that_went_through_everything_tells_of_it(tmp_path: Path) -> None:
    zk0 = CommandLine(tmp_path, CommandLine.apart(tmp_path))  # neither the run nor the report needs a server
    names = ("kitchen", "workshop", LIAR)
    clients = [{"name": name, "repo_id": f"zk0/{name}", "root": f"asset:datasets/{name}"} for name in names]
    many = {"clients": clients, "federation__num_rounds": 4, "report__joint_charts": True, "checkpoint__keep": 9}
    many |= {"training__steps": 4, "memory__sample_interval_s": 0.2}
    config = zk0.config(**many)
    (tmp_path / "run.py").write_text(RUN)
    folder = zk0.outputs / "troubled"

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, str(tmp_path / "run.py"), str(config)]
        environment = {**zk0.environment, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command, cwd=zk0.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def worker(number: int) -> psutil.Process | None:
        return worker_of(client_folder(folder, number, "kitchen"), "train")

    for number in (2, 3):  # the process that advances the run, twice; then a worker
        process = start()
        seen(partial(worker, number), process)
        kill(process)
    process = start()
    seen(lambda: worker(4), process)
    found = worker(4)
    assert found is not None
    found.kill()
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output

    report = zk0.run("report", "troubled").strip()
    for width in WIDTHS:
        with alone(Path(report), width) as window:
            text = window.inner_text("body")
            keep(window, f"report-{width}")
            window.locator("#story h2").evaluate("it => it.scrollIntoView()")
            keep(window, f"report-story-{width}")
        assert text.count("died without a word") == 2
        for words in ("train failed (lost)", "train failed (out_of_memory)", "micro-batch 4 -> 2"):
            assert words in text, words
        assert "times the usual" in text
    assert read_progress(folder).state == "finished"

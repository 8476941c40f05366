"""A node whose work is nothing: what it is asked to train comes back as it came. For benchmarks.federation_overhead."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zk0.config import RunConfig
from zk0.files import atomic, untrusted
from zk0.layout import result_file
from zk0.link.wire import Answer, Request
from zk0.node import start, worker
from zk0.node.request import WorkRequest
from zk0.node.settings import NodeSettings
from zk0.services.keeper import Part
from zk0.work.records import ClientTask
from zk0.work.results import write_result


class NoImports:
    """In the place of the fork server, which nothing is asked of here."""

    def __init__(self, _: object) -> None:
        """Take what the real one takes."""

    def warm_up(self) -> None:
        """Import nothing."""


class NullWorker(worker.Worker):
    """Gives back the tensors that came."""

    def _config(self, terms: RunConfig, settings: NodeSettings) -> RunConfig:  # noqa: ARG002 - the real one's
        return terms

    def _done(self, request: Request, asked: WorkRequest, task: ClientTask, config: RunConfig) -> Answer:  # noqa: ARG002
        assert task.incoming is not None
        tensors = atomic.read_tensors(Path(task.run_dir) / task.incoming.path)
        result = write_result(task, tensors=tensors, num_examples=1, metrics={}, duration_s=0.0, peak_rss_bytes=1)
        text = untrusted.read(task.folder / result_file(task.kind)).decode()
        assert result.tensors is not None
        return Answer(ask=request.ask, state="done", result=text, files=[result.tensors])


def main() -> None:
    """`HOME` starts a node; `HOME work` is its worker."""
    home = Path(sys.argv[1])
    if sys.argv[2:] == ["work"]:
        vars(worker).update(Worker=NullWorker, ProcessExecutor=NoImports)
        sys.exit(worker.main(home))
    real = Part

    def part(name: str, command: Callable[[], list[str]], *words: Any, **named: Any) -> Part:
        ours = [sys.executable, "-P", "-m", "benchmarks.null_node", str(home), "work"]
        return real(name, (lambda: ours) if name == start.WORKER else command, *words, **named)

    vars(start)["Part"] = part
    start.start(home, lambda _: None)


if __name__ == "__main__":
    main()

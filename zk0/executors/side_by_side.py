"""The datasets of a config looked at side by side: each in a process of its own, so that one that kills it is known."""

import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from zk0.config import DatasetConfig, RunConfig
from zk0.errors import ClientError, UnforeseenError
from zk0.executors import calls
from zk0.executors.process import ProcessExecutor
from zk0.preflight.records import Examined

LOOK_S = 0.3
"""From one look at what the processes are at to the next, in seconds."""
LONGEST_WORDS = 200
Watch = Callable[[str], None]
"""Is told in a line what is being done."""


def nobody(_: str) -> None:
    """A Watch where nobody looks on."""


def examine_all(
    config: RunConfig,
    *,
    every_frame: bool,
    fresh: bool = False,
    watch: Watch = nobody,
    datasets: list[DatasetConfig] | None = None,
) -> list[Examined]:
    """Check every dataset, as many at the same time as there are cores; see `preflight.datasets.examine`.

    Args:
        config: the config, with the device settled.
        every_frame: decode all of the videos.
        fresh: look again at what was found before.
        watch: told what is being done.
        datasets: of the config, those that are to be looked at; all of them where None.

    Returns:
        What was found, in the order of the datasets.

    Raises:
        BadInputError: the base cannot be read.
        ClientError: a process was killed.
    """
    datasets = config.datasets if datasets is None else datasets
    executor = ProcessExecutor(config.executor)
    executor.warm_up()
    waiting, done = queue.SimpleQueue[int](), queue.SimpleQueue[tuple[int, Examined | BaseException]]()
    for number in range(len(datasets)):
        waiting.put(number)
    with TemporaryDirectory(prefix="zk0-checks-") as scratch:
        notes = [Path(scratch) / str(number) for number in range(len(datasets))]

        def work() -> None:
            with suppress(queue.Empty):
                while True:
                    number = waiting.get_nowait()
                    done.put((number, _examined(executor, config, datasets[number], every_frame, fresh, notes[number])))

        for _ in range(min(len(datasets), len(os.sched_getaffinity(0)))):
            threading.Thread(target=work, name="zk0-checks", daemon=True).start()  # Ctrl-C does not wait for them
        return _gathered(datasets, notes, done, watch)


def _examined(
    executor: ProcessExecutor,
    config: RunConfig,
    dataset: DatasetConfig,
    every_frame: bool,
    fresh: bool,
    note: Path,
) -> Examined | BaseException:
    try:
        return executor.call(calls.examine, config, dataset, every_frame, fresh, note)
    except (ClientError, UnforeseenError) as error:
        return _named(error, dataset.name)
    except BaseException as error:  # noqa: BLE001 - it is raised where the results are gathered
        return error


def _named(error: ClientError | UnforeseenError, dataset: str) -> Exception:
    """The error with the dataset's name, which what a dead process left does not have."""
    if repr(dataset) in str(error):
        return error
    text = f"dataset {dataset!r}: {error}"
    named = type(error)(error.cause, text) if isinstance(error, ClientError) else type(error)(text)
    named.__cause__ = error.__cause__
    return named


def _gathered(
    datasets: list[DatasetConfig],
    notes: list[Path],
    done: "queue.SimpleQueue[tuple[int, Examined | BaseException]]",
    watch: Watch,
) -> list[Examined]:
    found: dict[int, Examined] = {}
    while len(found) < len(datasets):
        try:
            number, came = done.get(timeout=LOOK_S)
        except queue.Empty:
            watch(_line(datasets, notes, set(found)))
            continue
        if isinstance(came, BaseException):
            raise came
        found[number] = came
    return [found[number] for number in sorted(found)]


def _line(datasets: list[DatasetConfig], notes: list[Path], finished: set[int]) -> str:
    """What is being done with each dataset that is under way."""
    doing = []
    for number, dataset in enumerate(datasets):
        if number not in finished and (text := _read(notes[number])):
            doing.append(f"{dataset.name} ({text})")
    return f"checked {len(finished)} of {len(datasets)} datasets" + (f"; {', '.join(doing)}" if doing else "")


def _read(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8", errors="replace")[:LONGEST_WORDS]
    except OSError:
        return ""

"""TensorBoard: an event file for each round, under a name of its own; `tensorboard --logdir outputs` shows all runs."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from zk0.files import atomic
from zk0.tracking.tracker import Figures, Told


class TensorBoard:
    """Writes a round's file whole or not at all: it is there once, or missing.

    Args:
        told: of the run.
    """

    def __init__(self, told: Told) -> None:
        self._folder = told.folder
        atomic.make_folder(self._folder)

    def missing(self, rounds: Mapping[int, Figures]) -> Mapping[int, Figures]:
        """The rounds without a file."""
        return {number: figures for number, figures in rounds.items() if not atomic.is_there(self._file(number))}

    def log(self, server_round: int, at: datetime, figures: Figures) -> None:
        """Write the round's file."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        event = Event(step=server_round, wall_time=at.timestamp(), summary=Summary(value=values))
        with TemporaryDirectory(prefix="zk0-") as scratch:
            writer = EventFileWriter(scratch)
            writer.add_event(event)
            writer.close()
            [written] = Path(scratch).iterdir()
            atomic.write_bytes(self._file(server_round), written.read_bytes())

    def close(self) -> None:
        """Nothing is left to write."""

    def _file(self, server_round: int) -> Path:
        """TensorBoard reads them in the order of their names."""
        return self._folder / f"events.out.tfevents.{server_round:010d}.zk0"

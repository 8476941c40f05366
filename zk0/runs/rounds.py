"""The rounds of a run directory: commit, verify, find what is finished, set aside, prune."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal

from loguru import logger
from numpy.typing import NDArray

from zk0.errors import DamageError, StorageError
from zk0.files import atomic
from zk0.files.atomic import exists, listed
from zk0.files.stored import StoredTensors
from zk0.files.tensors import Tensors
from zk0.layout import (
    CLIENTS_FOLDER,
    DAMAGE_LINES,
    FIT_CHECKPOINT,
    MANIFEST,
    METRICS_FILE,
    METRICS_LINES,
    OPTIMIZERS_FOLDER,
    ROUNDS_FOLDER,
    STRATEGY_SCALARS,
    STRATEGY_TENSORS,
    client_folder,
    result_file,
    round_folder,
    tensors_file,
)
from zk0.runs import lock
from zk0.runs.records import Manifest, RoundState, RunInfo, now
from zk0.work.records import ArtifactRef, ClientResult

KEPT_DAMAGED = 3
"""Damaged rounds, set aside to be looked at, that are kept."""
TensorSource = ArtifactRef | Path | Tensors
"""A file of the run, a safetensors file anywhere, or name -> array."""


class Rounds:
    """The rounds of one run directory."""

    def __init__(self, folder: Path, info: RunInfo) -> None:
        """Wrap a run directory that exists."""
        self.folder = folder
        self.info = info

    def round_folder(self, server_round: int) -> Path:
        """Where a round's files lie."""
        return round_folder(self.folder, server_round)

    def path(self, ref: ArtifactRef) -> Path:
        """Absolute path of a file of the run."""
        return self.folder / ref.path

    def place(self, server_round: int, stem: Literal["global", "stats"], source: TensorSource) -> ArtifactRef:
        """Write `<stem>.safetensors` of a round, durably but not committed yet.

        Raises:
            StorageError: it cannot be written, or the source is not what its reference says.
        """
        lock.check_place(self.folder)
        target = self.round_folder(server_round) / tensors_file(stem)
        if isinstance(source, Mapping):
            return self._ref(target, atomic.write_tensors(target, source))
        origin, sha256 = (self.path(source), source.sha256) if isinstance(source, ArtifactRef) else (source, None)
        if origin == target:
            return self._ref(target, atomic.verify(target, sha256, follow=True))
        return self._ref(target, atomic.copy_file(origin, target, sha256, follow=True))

    def commit(
        self,
        server_round: int,
        *,
        arrays: TensorSource,
        strategy_tensors: Tensors,
        strategy_scalars: Mapping[str, Any],
        metrics: Mapping[str, Any],
        results: Sequence[ClientResult] = (),
        stats: TensorSource | None = None,
        optimizers: Mapping[str, ArtifactRef] = {},
    ) -> RoundState:
        """Make a round durable: its files, then the manifest, then its line in metrics.jsonl.

        Every round holds a copy of the statistics and of the optimizers' states, so that damage to one round, or its
        pruning, costs no other. Repeating a commit is harmless.

        Args:
            server_round: the round.
            arrays: the global tensors after it.
            strategy_tensors: Flower strategy's state, as `aggregation.strategy_state` gives it.
            strategy_scalars: the other half of that state.
            metrics: plain numbers, lists and dicts; `server_round` is added.
            results: what the clients did in this round.
            stats: federated normalisation statistics, where the run has them.
            optimizers: client -> the state that its next fit goes on from, of this round or of an earlier one.

        Returns:
            What the next round starts from.
        """
        folder = self.round_folder(server_round)
        state = RoundState(
            server_round=server_round,
            arrays=self.place(server_round, "global", arrays),
            stats=None if stats is None else self.place(server_round, "stats", stats),
            optimizers={client: self._carried(server_round, client, ref) for client, ref in optimizers.items()},
        )
        placed = [state.arrays, *([state.stats] if state.stats else []), *state.optimizers.values()]
        files = [*placed, *self._result_files(results)]
        if strategy_tensors:
            path = folder / STRATEGY_TENSORS
            files.append(self._ref(path, atomic.write_tensors(path, strategy_tensors)))
        for path, content in (
            (folder / STRATEGY_SCALARS, dict(strategy_scalars)),
            (folder / METRICS_FILE, {**metrics, "server_round": server_round}),
        ):
            files.append(self._ref(path, atomic.write_json(path, content)))
        atomic.sweep_temporaries(folder)
        for unfinished in (client / FIT_CHECKPOINT for client in listed(folder / CLIENTS_FOLDER)):
            if atomic.is_there(unfinished):  # of a client that gave no result
                atomic.remove_folder(unfinished)
        files.sort(key=lambda ref: ref.path)
        manifest = Manifest(run_id=self.info.id, config_digest=self.info.config_digest, state=state, files=files)
        lock.check_place(self.folder)
        atomic.write_sealed(folder / MANIFEST, manifest.model_dump(mode="json"))
        self._sync_metrics()
        return state

    def resume_point(self) -> RoundState | None:
        """Verify every committed round and find the newest that is whole; call it while holding the lock.

        Damaged rounds are named in the log and in `damage`, and set aside as `rounds/<round>.damaged-<n>`. A newer
        round without a manifest stays: it holds finished work.

        Returns:
            What the next round starts from, None when no round is whole.

        Raises:
            StorageError: a file cannot be read now, which says nothing of what it is: nothing was changed.
        """
        state, damaged = None, {}
        for server_round in reversed(self.committed_rounds()):
            try:
                whole = self._verify(server_round)
                state = state or whole
            except DamageError as error:
                damaged[server_round] = str(error)
        lock.check_place(self.folder)
        for server_round, reason in damaged.items():  # only when everything could be read: else nothing changes
            self._set_aside(server_round, reason)
        self._sync_metrics()
        return state

    def committed_rounds(self) -> list[int]:
        """Rounds that have a manifest, ascending; not verified."""
        names = [path.name for path in listed(self.folder / ROUNDS_FOLDER)]
        numbers = sorted(int(name) for name in names if re.fullmatch(r"\d{4,}", name))
        return [number for number in numbers if exists(self.round_folder(number) / MANIFEST)]

    def read_metrics(self) -> list[dict[str, Any]]:
        """One dict per round that was committed, in order: from its own file, else from its line in metrics.jsonl.

        Raises:
            StorageError: a file cannot be read now.
        """
        return self._metrics(_metrics_text(self.folder))

    def _metrics(self, lines: str) -> list[dict[str, Any]]:
        committed = self.committed_rounds()
        newest = committed[-1] if committed else -1
        metrics = {number: line for number, line in _parsed(lines).items() if number <= newest}
        for number in committed:
            try:
                metrics[number] = self._metrics_of(number)
            except DamageError as error:
                logger.warning("Metrics of round {}: {}", number, error)
        return [metrics[number] for number in sorted(metrics)]

    def _metrics_of(self, server_round: int) -> dict[str, Any]:
        path = self.round_folder(server_round) / METRICS_FILE
        found = atomic.read_json(path, follow=True)
        if not isinstance(found, dict) or found.get("server_round") != server_round:
            raise DamageError(f"{path}: is not of round {server_round}")
        return found

    def state(self, server_round: int) -> RoundState:
        """A committed round, verified file by file.

        Raises:
            StorageError: the round is not committed, or a file of it is not what it was.
        """
        return self._verify(server_round)

    def save_strategy_state(
        self, server_round: int, tensors: Mapping[str, NDArray[Any]], scalars: Mapping[str, Any]
    ) -> None:
        """Leave the strategy's state beside the aggregated tensors, durable but not committed yet."""
        folder = self.round_folder(server_round)
        if tensors:
            atomic.write_tensors(folder / STRATEGY_TENSORS, tensors)
        atomic.write_json(folder / STRATEGY_SCALARS, dict(scalars))

    def load_strategy_state(self, server_round: int) -> tuple[Tensors, dict[str, Any]]:
        """A committed round's strategy state: tensors by name, each read when it is asked for, and scalars."""
        folder = self.round_folder(server_round)
        tensors = folder / STRATEGY_TENSORS
        return (
            StoredTensors(tensors, follow=True) if exists(tensors) else {},
            atomic.read_json(folder / STRATEGY_SCALARS, follow=True),
        )

    def prune(self, keep: int, best_round: int | None = None) -> None:
        """Remove committed rounds but the `keep` newest, round 0 and the best one; and old damaged ones set aside.

        Of these none that is newer than every committed round, and none that proves to be whole.
        """
        committed = self.committed_rounds()
        atomic.sweep_trash(self.folder / ROUNDS_FOLDER)
        for server_round in set(committed) - {0, best_round, *committed[-keep:]}:
            atomic.remove_folder(self.round_folder(server_round))
        for path in self._set_aside_before(committed[-1] if committed else -1)[:-KEPT_DAMAGED]:
            if not self._may_be_whole(path):
                atomic.remove_folder(path)

    @property
    def damage(self) -> list[str]:
        """What was found damaged and set aside so far, one line each, with its time."""
        return atomic.read_text(self.folder / DAMAGE_LINES).splitlines()

    def _carried(self, server_round: int, client: str, ref: ArtifactRef) -> ArtifactRef:
        """An optimizer's state in a round's own folder: where the fit left it, or a copy of an earlier round's."""
        folder = self.round_folder(server_round)
        if folder in self.path(ref).parents:
            return ref
        target = folder / OPTIMIZERS_FOLDER / tensors_file(client)
        return self._ref(target, atomic.copy_file(self.path(ref), target, ref.sha256, ref.size, follow=True))

    def _ref(self, path: Path, digest: atomic.Digest) -> ArtifactRef:
        return ArtifactRef(path=path.relative_to(self.folder).as_posix(), sha256=digest.sha256, size=digest.size)

    def _result_files(self, results: Iterable[ClientResult]) -> Iterator[ArtifactRef]:
        for result in results:
            if result.tensors:
                yield result.tensors
            path = client_folder(self.folder, result.server_round, result.client) / result_file(result.kind)
            yield self._ref(path, atomic.file_digest(path))

    def _verify(self, server_round: int, folder: Path | None = None) -> RoundState:
        """Check a committed round, file by file, wherever these lie.

        Args:
            server_round: the round.
            folder: where it lies; in its place when None.

        Raises:
            DamageError: names the first file that is not what it was.
            StorageError: one cannot be read.
        """
        own = self.round_folder(server_round)
        path = (folder or own) / MANIFEST
        with atomic.storage_errors(path, "read"):
            manifest = Manifest.model_validate(atomic.read_sealed(path, follow=True))
        if (manifest.run_id, manifest.state.server_round) != (self.info.id, server_round):
            raise DamageError(f"{path}: is of round {manifest.state.server_round} of run {manifest.run_id}")
        for ref in manifest.files:
            there = self.path(ref)
            if folder is not None and there.is_relative_to(own):
                there = folder / there.relative_to(own)
            atomic.verify(there, ref.sha256, ref.size, follow=True)
        return manifest.state

    def _set_aside_before(self, newest: int) -> list[Path]:
        """Rounds that were set aside, and made again or followed by others since; the oldest first."""
        numbers = {path: _damaged_number(path) for path in listed(self.folder / ROUNDS_FOLDER)}
        found = [path for path, number in numbers.items() if number is not None and number <= newest]
        with atomic.storage_errors(self.folder / ROUNDS_FOLDER, "read"):
            return sorted(found, key=lambda path: path.lstat().st_mtime)

    def _may_be_whole(self, folder: Path) -> bool:
        """Whether a round that was set aside holds after all, or cannot be read now."""
        try:
            self._verify(_damaged_number(folder) or 0, folder)
        except DamageError:
            return False
        except StorageError:
            return True
        return True

    def _set_aside(self, server_round: int, reason: str) -> None:
        folder = self.round_folder(server_round)
        names = (folder.with_name(f"{folder.name}.damaged-{number}") for number in count(1))
        target = next(name for name in names if not atomic.is_there(name))
        atomic.move(folder, target)
        text = f"round {server_round} is damaged ({reason}); set aside as {target.name}"
        atomic.append_line(self.folder / DAMAGE_LINES, f"{now()} {text}")
        logger.warning("Run {}: {}", self.info.name, text)

    def _sync_metrics(self) -> None:
        """Make metrics.jsonl say one line per committed round: by appending where that does, else written anew."""
        path, present = self.folder / METRICS_LINES, _metrics_text(self.folder)
        wanted = "".join(json.dumps(line, sort_keys=True) + "\n" for line in self._metrics(present))
        if wanted == present:
            return
        if wanted.startswith(present) and present.endswith(("\n", "")[not present]):
            atomic.append_line(path, wanted[len(present) :].rstrip("\n"))
        else:
            atomic.write_bytes(path, wanted.encode())


def metric_lines(folder: Path) -> dict[int, dict[str, Any]]:
    """Round -> metrics of every whole line of a run's metrics.jsonl; the last one counts where a round has two.

    Raises:
        StorageError: the file is there and cannot be read.
    """
    return _parsed(_metrics_text(folder))


def _parsed(text: str) -> dict[int, dict[str, Any]]:
    lines = {}
    for written in text.splitlines():
        try:
            line = json.loads(written)
        except (ValueError, RecursionError):
            continue  # torn by a crash
        if isinstance(line, dict) and isinstance(line.get("server_round"), int):
            lines[line["server_round"]] = line
    return lines


def _metrics_text(folder: Path) -> str:
    return atomic.read_text(folder / METRICS_LINES)


def _damaged_number(folder: Path) -> int | None:
    """The number of a round that was set aside; None where a folder is none."""
    found = re.fullmatch(r"(\d{4,})\.damaged-\d+", folder.name)
    return int(found[1]) if found else None

"""The run directory, the only truth of a run: create, lock, commit, verify, find what is finished."""

import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from errno import EDQUOT, EIO, ENOSPC
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, Literal, Self

from loguru import logger
from numpy.typing import NDArray

from zk0.config import NAME_PATTERN, WITHOUT_EFFECT, RunConfig, validate_config
from zk0.config.part import absolute_path
from zk0.errors import ConfigError, RunNameError, StorageError
from zk0.files import atomic
from zk0.files.atomic import exists, listdir
from zk0.layout import DAMAGE_LINES, FIT_CHECKPOINT, LOCK_FILE, MANIFEST, METRICS_LINES, RUN_FILE, STOPPED_FILE
from zk0.runs.records import Manifest, RoundState, RunInfo, now
from zk0.runs.versions import PACKAGES, package_version
from zk0.work.records import ArtifactRef, ClientResult, ClientTask, TaskKind

KEPT_DAMAGED = 3
"""Damaged rounds, set aside to be looked at, that are kept."""
TensorSource = ArtifactRef | Path | atomic.Tensors
"""A file of the run, a safetensors file anywhere, or name -> array."""
_held: set[int] = set()
"""Descriptors of the locks that this process holds."""


def _drop_inherited_locks() -> None:
    """A forked child shares its parent's lock and would keep it alive after the parent's death."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_drop_inherited_locks)


class RunStore:
    """One run directory. Whoever changes it holds `lock()`; client workers write only their task's own folder."""

    def __init__(self, folder: Path, info: RunInfo, config: RunConfig) -> None:
        """Wrap a run directory that exists; `create_or_open` and `open` are the doors."""
        self.folder = folder
        self.info = info
        self.config = config

    @classmethod
    def create_or_open(cls, config: RunConfig, name: str) -> Self:
        """Create the run `name` in config.outputs_dir, or open it when it is there with an equal config.

        Keys that do not change the result (config.WITHOUT_EFFECT) may differ: an opened run takes
        the new ones over, and `lock()` writes them to run.json.

        Raises:
            RunNameError: the name is not valid, or taken by a run with another config or by something else.
            ConfigError: outputs_dir cannot be written.
            StorageError: the disk is full or broken.
        """
        if not re.fullmatch(NAME_PATTERN, name):
            raise RunNameError(f"run name {name!r}: give lower-case letters, digits, '_', '-' and '.', 63 at most")
        folder = absolute_path(config.outputs_dir) / name
        if exists(folder / RUN_FILE):
            return cls._reopen(folder, config)
        if exists(folder) and any(not path.name.endswith(".tmp") for path in listdir(folder)):
            raise RunNameError(
                f"{folder}: exists and has no {RUN_FILE}, so it is not a run of zk0; choose another --name or move it "
                "away"
            )
        return cls._create(folder, config)

    @classmethod
    def open(cls, where: str | Path, name: str | None = None) -> Self:
        """Open a run that exists.

        Args:
            where: the folder of runs, or the run directory itself when no name is given.
            name: the run's name.

        Raises:
            RunNameError: there is no such run; names those that are there.
        """
        folder = absolute_path(where) / name if name else absolute_path(where)
        if not exists(folder / RUN_FILE) and exists(folder / "rounds"):
            raise RunNameError(
                f"{folder}: its {RUN_FILE} is missing, so nothing says what its rounds are of; put that file back, or "
                "move the folder away and start anew"
            )
        if not exists(folder / RUN_FILE):
            known = ", ".join(store.info.name for store in cls.list_runs(folder.parent)) or "none"
            raise RunNameError(f"no run {folder.name!r} in {folder.parent}; runs there: {known}")
        info = _read_info(folder / RUN_FILE)
        try:
            return cls(folder, info, validate_config(info.config))
        except ConfigError as error:
            made_by = info.versions.get("zk0", "unknown")
            raise RunNameError(f"{folder}: made by zk0 {made_by}, use that version; here: {error}") from error

    @classmethod
    def exists(cls, outputs_dir: str | Path, name: str) -> bool:
        """Whether a folder of runs has a run of that name."""
        return exists(absolute_path(outputs_dir) / name / RUN_FILE)

    @classmethod
    def list_runs(cls, outputs_dir: str | Path) -> list[Self]:
        """Every run in a folder, newest first; one that cannot be read is named in the log and left out."""
        root = absolute_path(outputs_dir)
        stores = []
        for path in sorted(listdir(root)) if exists(root) else []:
            try:
                if exists(path / RUN_FILE):
                    stores.append(cls.open(path))
            except (RunNameError, StorageError) as error:
                logger.warning("Run left out: {}", error)
        return sorted(stores, key=lambda store: store.info.created_at, reverse=True)

    @classmethod
    def _create(cls, folder: Path, config: RunConfig) -> Self:
        info = RunInfo(
            id=sha256(f"{folder.name}\x1f{config.digest}".encode()).hexdigest()[:16],
            name=folder.name,
            config=config.model_dump(mode="json"),
            config_digest=config.digest,
            seed=config.seed,
            created_at=now(),
            versions={package: package_version(package) for package in PACKAGES},
        )
        with _writable(config.outputs_dir):
            atomic.write_sealed(folder / RUN_FILE, info.model_dump(mode="json"))
        return cls(folder, info, config)

    @classmethod
    def _reopen(cls, folder: Path, config: RunConfig) -> Self:
        info = _read_info(folder / RUN_FILE)
        if info.config_digest != config.digest:
            raise RunNameError(
                f"{folder}: is a run with another config ({_differences(info.config, config)}); "
                "choose another --name, or give the same config"
            )
        return cls(folder, info, config)

    # -- one writer -------------------------------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one process that advances the run; the kernel frees the lock when its holder dies.

        Raises:
            RunNameError: another process holds it; says which, where and since when.
            ConfigError: the run directory cannot be written.
        """
        with _writable(self.config.outputs_dir), atomic.storage_errors(self.folder / LOCK_FILE, "written"):
            descriptor = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        _held.add(descriptor)
        try:
            self._acquire(descriptor)
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "started_at": now()}
            with atomic.storage_errors(self.folder / LOCK_FILE, "written"):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(holder).encode(), 0)
                (self.folder / STOPPED_FILE).unlink(missing_ok=True)
            self._take_over_config()
            yield
        finally:
            if descriptor in _held:  # a forked child has closed it already
                _held.remove(descriptor)
                os.close(descriptor)

    def holder(self) -> dict[str, Any] | None:
        """Who holds the lock: pid, host and started_at (None each while unknown); None when nobody does."""
        path = self.folder / LOCK_FILE
        if not exists(path):
            return None
        with atomic.storage_errors(path, "read"), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _parse_holder(file.read())
        return None

    def mark_stopped(self) -> None:
        """Remember that a person stopped the run, until someone takes the lock again."""
        with atomic.storage_errors(self.folder / STOPPED_FILE, "written"):
            (self.folder / STOPPED_FILE).touch()

    @property
    def stopped(self) -> bool:
        """Whether a person stopped the run: nothing takes it up again by itself."""
        return exists(self.folder / STOPPED_FILE)

    def _acquire(self, descriptor: int) -> None:
        for _ in range(10):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)  # a look by `holder` takes the lock for an instant
            else:
                return
        who = _parse_holder(os.pread(descriptor, 4096, 0))
        raise RunNameError(
            f"run {self.info.name!r} is being advanced by process {who['pid']} on {who['host']} since "
            f"{who['started_at']}; wait for it, or stop that process and resume the run"
        )

    def _take_over_config(self) -> None:
        config = self.config.model_dump(mode="json")
        if config != self.info.config:
            self.info = self.info.model_copy(update={"config": config})
            atomic.write_sealed(self.folder / RUN_FILE, self.info.model_dump(mode="json"))

    # -- rounds -----------------------------------------------------------------------------------------------------

    def round_folder(self, server_round: int) -> Path:
        """Where a round's files lie."""
        return self.folder / "rounds" / f"{server_round:04d}"

    def path(self, ref: ArtifactRef) -> Path:
        """Absolute path of a file of the run."""
        return self.folder / ref.path

    def task(
        self,
        kind: TaskKind,
        server_round: int,
        client: str,
        state: RoundState | None = None,
        stats: ArtifactRef | None = None,
        proximal_mu: float = 0.0,
    ) -> ClientTask:
        """Describe one piece of client work.

        Args:
            kind: what is to be done.
            server_round: the round it belongs to.
            client: the dataset's name.
            state: what it starts from: tensors, statistics, the client's optimizer; None for init and statistics.
            stats: statistics, where they are not the state's.
            proximal_mu: FedProx's mu of this round.
        """
        return ClientTask(
            run_dir=str(self.folder),
            run_id=self.info.id,
            config_digest=self.info.config_digest,
            kind=kind,
            server_round=server_round,
            client=client,
            incoming=state.arrays if state else None,
            stats=stats or (state.stats if state else None),
            optimizer=state.optimizers.get(client) if state and kind == "train" else None,
            proximal_mu=proximal_mu,
        )

    def place(self, server_round: int, stem: Literal["global", "stats"], source: TensorSource) -> ArtifactRef:
        """Write `<stem>.safetensors` of a round, durably but not committed yet.

        Raises:
            StorageError: it cannot be written, or the source is not what its reference says.
        """
        target = self.round_folder(server_round) / f"{stem}.safetensors"
        if isinstance(source, Mapping):
            return self._ref(target, atomic.write_tensors(target, source))
        origin = self.path(source) if isinstance(source, ArtifactRef) else source
        if isinstance(source, ArtifactRef):
            atomic.verify(origin, source.sha256)
        digest = atomic.file_digest(target) if origin == target else atomic.copy_file(origin, target)
        return self._ref(target, digest)

    def commit(
        self,
        server_round: int,
        *,
        arrays: TensorSource,
        strategy_tensors: atomic.Tensors,
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
        files = [state.arrays, *([state.stats] if state.stats else []), *self._result_files(results)]
        files += state.optimizers.values()
        if strategy_tensors:
            path = folder / "strategy.safetensors"
            files.append(self._ref(path, atomic.write_tensors(path, strategy_tensors)))
        for path, content in (
            (folder / "strategy.json", dict(strategy_scalars)),
            (folder / "metrics.json", {**metrics, "server_round": server_round}),
        ):
            files.append(self._ref(path, atomic.write_json(path, content)))
        atomic.sweep_temporaries(folder)
        for unfinished in folder.glob(f"clients/*/{FIT_CHECKPOINT}"):  # of clients that gave no result
            atomic.remove_folder(unfinished)
        manifest = Manifest(
            run_id=self.info.id,
            config_digest=self.info.config_digest,
            state=state,
            files=sorted(files, key=lambda ref: ref.path),
        )
        atomic.write_sealed(folder / MANIFEST, manifest.model_dump(mode="json"))
        self._sync_metrics()
        return state

    def resume_point(self) -> RoundState | None:
        """Verify every committed round and find the newest that is whole; call it while holding the lock.

        Damaged rounds are named in the log and in `damage`, and set aside as `rounds/<round>.damaged-<n>`. A newer
        round without a manifest stays: it holds finished work.

        Returns:
            What the next round starts from, None when no round is whole.
        """
        state = None
        for server_round in reversed(self.committed_rounds()):
            try:
                whole = self._verify(server_round)
                state = state or whole
            except StorageError as error:
                if isinstance(error.__cause__, PermissionError):
                    raise  # nothing is wrong with the round
                self._set_aside(server_round, str(error))
        self._sync_metrics()
        return state

    def committed_rounds(self) -> list[int]:
        """Rounds that have a manifest, ascending; not verified."""
        rounds = self.folder / "rounds"
        names = [path.name for path in listdir(rounds)] if exists(rounds) else []
        numbers = sorted(int(name) for name in names if re.fullmatch(r"\d{4,}", name))
        return [number for number in numbers if exists(self.round_folder(number) / MANIFEST)]

    def read_metrics(self) -> list[dict[str, Any]]:
        """One dict per round that was committed, in order: from its own file, else from its line in metrics.jsonl."""
        committed = self.committed_rounds()
        newest = committed[-1] if committed else -1
        metrics = {number: line for number, line in self._metric_lines().items() if number <= newest}
        for number in committed:
            try:
                metrics[number] = atomic.read_json(self.round_folder(number) / "metrics.json")
            except StorageError as error:
                logger.warning("Metrics of round {}: {}", number, error)
        return [metrics[number] for number in sorted(metrics)]

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
            atomic.write_tensors(folder / "strategy.safetensors", tensors)
        atomic.write_json(folder / "strategy.json", dict(scalars))

    def load_strategy_state(self, server_round: int) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Read a committed round's strategy state: tensors by name, and scalars."""
        folder = self.round_folder(server_round)
        tensors = folder / "strategy.safetensors"
        return atomic.read_tensors(tensors) if exists(tensors) else {}, atomic.read_json(folder / "strategy.json")

    def prune(self, keep: int, best_round: int | None = None) -> None:
        """Remove committed rounds but the `keep` newest, round 0 and the best one; and old damaged ones set aside."""
        committed = self.committed_rounds()
        atomic.sweep_trash(self.folder / "rounds")
        for server_round in set(committed) - {0, best_round, *committed[-keep:]}:
            atomic.remove_folder(self.round_folder(server_round))
        damaged = sorted((self.folder / "rounds").glob("*.damaged-*"), key=lambda path: path.stat().st_mtime)
        for path in damaged[:-KEPT_DAMAGED]:
            atomic.remove_folder(path)

    @property
    def damage(self) -> list[str]:
        """What was found damaged and set aside so far, one line each, with its time."""
        path = self.folder / DAMAGE_LINES
        if not exists(path):
            return []
        with atomic.storage_errors(path, "read"):
            return path.read_text(encoding="utf-8", errors="replace").splitlines()

    def _carried(self, server_round: int, client: str, ref: ArtifactRef) -> ArtifactRef:
        """An optimizer's state in a round's own folder: where the fit left it, or a copy of an earlier round's."""
        folder = self.round_folder(server_round)
        if folder in self.path(ref).parents:
            return ref
        atomic.verify(self.path(ref), ref.sha256)
        target = folder / "optimizers" / f"{client}.safetensors"
        return self._ref(target, atomic.copy_file(self.path(ref), target))

    def _ref(self, path: Path, digest: atomic.Digest) -> ArtifactRef:
        return ArtifactRef(path=path.relative_to(self.folder).as_posix(), sha256=digest.sha256, size=digest.size)

    def _result_files(self, results: Iterable[ClientResult]) -> Iterator[ArtifactRef]:
        for result in results:
            if result.tensors:
                yield result.tensors
            path = self.round_folder(result.server_round) / "clients" / result.client / f"{result.kind}.json"
            yield self._ref(path, atomic.file_digest(path))

    def _verify(self, server_round: int) -> RoundState:
        """Check a committed round, file by file; StorageError names the first that is not what it was."""
        path = self.round_folder(server_round) / MANIFEST
        with atomic.storage_errors(path, "read"):
            manifest = Manifest.model_validate(atomic.read_sealed(path))
        if (manifest.run_id, manifest.state.server_round) != (self.info.id, server_round):
            raise StorageError(f"{path}: is of round {manifest.state.server_round} of run {manifest.run_id}")
        for ref in manifest.files:
            atomic.verify(self.path(ref), ref.sha256)
        return manifest.state

    def _set_aside(self, server_round: int, reason: str) -> None:
        folder = self.round_folder(server_round)
        names = (folder.with_name(f"{folder.name}.damaged-{number}") for number in count(1))
        target = next(name for name in names if not exists(name))
        atomic.move(folder, target)
        text = f"round {server_round} is damaged ({reason}); set aside as {target.name}"
        atomic.append_line(self.folder / DAMAGE_LINES, f"{now()} {text}")
        logger.warning("Run {}: {}", self.info.name, text)

    def _metric_lines(self) -> dict[int, dict[str, Any]]:
        """Round -> metrics of every whole line of metrics.jsonl."""
        lines = {}
        for text in self._metrics_text().splitlines():
            try:
                line = json.loads(text)
                lines[int(line["server_round"])] = line
            except (ValueError, KeyError, TypeError):
                continue  # torn by a crash
        return lines

    def _metrics_text(self) -> str:
        path = self.folder / METRICS_LINES
        if not exists(path):
            return ""
        with atomic.storage_errors(path, "read"):
            return path.read_text(encoding="utf-8", errors="replace")

    def _sync_metrics(self) -> None:
        """Make metrics.jsonl say one line per committed round: by appending where that does, else written anew."""
        path, present = self.folder / METRICS_LINES, self._metrics_text()
        wanted = "".join(json.dumps(line, sort_keys=True) + "\n" for line in self.read_metrics())
        if wanted == present:
            return
        if wanted.startswith(present) and present.endswith(("\n", "")[not present]):
            atomic.append_line(path, wanted[len(present) :].rstrip("\n"))
        else:
            atomic.write_bytes(path, wanted.encode())


@contextmanager
def _writable(outputs_dir: str) -> Iterator[None]:
    """Before training, a folder that cannot be written is the user's input; a full or broken disk is not."""
    try:
        yield
    except StorageError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (ENOSPC, EDQUOT, EIO):
            raise
        raise ConfigError(
            f"outputs_dir = {outputs_dir!r}: cannot be written ({error}); choose a folder that you can write"
        ) from error


def _read_info(path: Path) -> RunInfo:
    with atomic.storage_errors(path, "read"):
        return RunInfo.model_validate(atomic.read_sealed(path))


def _parse_holder(content: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except ValueError:  # its holder is just about to write it
        return {"pid": None, "host": None, "started_at": None}


def _differences(there: Mapping[str, Any], config: RunConfig) -> str:
    """The keys that the result depends on and that differ, with both values."""
    old, new = _flatten(there), _flatten(config.model_dump(mode="json"))
    keys = sorted(key for key in old | new if key.split(".")[0] not in WITHOUT_EFFECT)
    differing = [key for key in keys if old.get(key) != new.get(key)]
    return ", ".join(f"{key} is {old.get(key)!r} there, {new.get(key)!r} here" for key in differing)


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        items = list(enumerate(value))
    else:
        return {prefix: value}
    return {key: leaf for name, item in items for key, leaf in _flatten(item, f"{prefix}.{name}".lstrip(".")).items()}


def is_finished(store: RunStore) -> bool:
    """Whether every round is committed and the final policy written."""
    return store.config.federation.num_rounds in store.committed_rounds() and (store.folder / "final").is_dir()

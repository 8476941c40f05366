"""The run directory, the only truth of a run: create, open, list, lock, describe the work."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from errno import EACCES, EEXIST, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM, EROFS
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from loguru import logger

from zk0.config import NAME_PATTERN, SUPERLINK, WITHOUT_EFFECT, RunConfig, validate_config
from zk0.config.paths import absolute_path, path_fault
from zk0.errors import ConfigError, DamageError, RunNameError, StorageError
from zk0.files import atomic, untrusted
from zk0.files.atomic import exists, is_folder, is_there, listed
from zk0.layout import DATA_FILE, FINAL, ROUNDS_FOLDER, RUN_FILE
from zk0.runs import lock, will
from zk0.runs.records import RoundState, RunInfo, digest_of, now
from zk0.runs.rounds import Rounds
from zk0.runs.versions import versions
from zk0.work.records import ArtifactRef, ClientTask, TaskKind

NO_PLACE = {EACCES, EEXIST, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM, EROFS}
"""What a disk answers of a place that will never be one for runs; all else may pass."""
KIND = "executor.kind"
"""A run over a link is another than one at home: see RunConfig.digest."""


class RunStore(Rounds):
    """One run directory. Whoever changes it holds `lock()`; client workers write only their task's own folder."""

    def __init__(self, folder: Path, info: RunInfo, config: RunConfig) -> None:
        """Wrap a run directory that exists; `create_or_open` and `open` are the doors."""
        super().__init__(folder, info)
        self.config = config
        self._files: dict[str, dict[str, str]] = {}

    @classmethod
    def create_or_open(cls, config: RunConfig, name: str, files: Mapping[str, Mapping[str, str]] = {}) -> Self:
        """Create the run `name` in config.outputs_dir, or open it when it is there with an equal config.

        Keys that do not change the result (config.WITHOUT_EFFECT) may differ: an opened run takes
        the new ones over, and `lock()` writes them to run.json.

        Args:
            config: the run's, settled.
            name: the run's.
            files: of a new run's datasets, as far as they are here: dataset -> path -> SHA-256.

        Raises:
            RunNameError: the name is not valid, or taken by a run with another config or by something else.
            ConfigError: outputs_dir cannot be written.
            StorageError: the disk is full or broken.
        """
        check_name(name)
        folder = absolute_path(config.outputs_dir) / name
        if is_there(folder / RUN_FILE):
            return cls._reopen(folder, config)
        if is_there(folder) and not _is_empty(folder):
            raise RunNameError(
                f"{folder}: exists and has no {RUN_FILE}, so it is not a run of zk0; choose another --name or move it "
                "away"
            )
        return cls._create(folder, config, files)

    @classmethod
    def open(cls, where: str | Path, name: str | None = None) -> Self:
        """Open a run that exists.

        Args:
            where: the folder of runs, or the run directory itself when no name is given.
            name: the run's name.

        Raises:
            RunNameError: there is no such run; names those that are there.
        """
        if name and (fault := path_fault(name)) is not None:
            raise RunNameError(f"run name {name[:100]!r}: {fault}")
        folder = absolute_path(where) / name if name else absolute_path(where)
        if not is_there(folder / RUN_FILE) and exists(folder / ROUNDS_FOLDER):
            raise RunNameError(
                f"{folder}: its {RUN_FILE} is missing, so nothing says what its rounds are of; put that file back, or "
                "move the folder away and start anew"
            )
        if not is_there(folder / RUN_FILE):
            known = ", ".join(store.info.name for store in cls.list_runs(folder.parent)) or "none"
            raise RunNameError(f"no run {folder.name!r} in {folder.parent}; runs there: {known}")
        info = _read_info(folder / RUN_FILE)
        try:
            config = validate_config({**info.config, "outputs_dir": str(folder.parent)})
            return cls(folder, info, config)
        except ConfigError as error:
            made_by = info.versions.get("zk0", "unknown")
            raise RunNameError(f"{folder}: made by zk0 {made_by}, use that version; here: {error}") from error

    @classmethod
    def exists(cls, outputs_dir: str | Path, name: str) -> bool:
        """Whether a folder of runs has a run of that name."""
        return is_there(absolute_path(outputs_dir) / name / RUN_FILE)

    @classmethod
    def list_runs(cls, outputs_dir: str | Path, *, all_needed: bool = False) -> list[Self]:
        """Every run in a folder, newest first; one that cannot be read is named in the log and left out.

        Args:
            outputs_dir: the folder.
            all_needed: leave none out that is only out of reach now, for it may be the one that is meant; but those of
                another user.

        Raises:
            StorageError: the folder cannot be read; or one of them, and `all_needed`.
        """
        stores = []
        for path in listed(absolute_path(outputs_dir)):
            try:
                if is_there(path / RUN_FILE):
                    stores.append(cls.open(path))
            except (RunNameError, StorageError) as error:
                if all_needed and not isinstance(error, RunNameError | DamageError) and not _is_anothers(path):
                    raise
                logger.warning("Run left out: {}", error)
        return sorted(stores, key=lambda store: store.info.created_at, reverse=True)

    @classmethod
    def _create(cls, folder: Path, config: RunConfig, files: Mapping[str, Mapping[str, str]]) -> Self:
        info = RunInfo(
            id=sha256(f"{folder.name}\x1f{config.digest}".encode()).hexdigest()[:16],
            name=folder.name,
            config=config.model_dump(mode="json"),
            config_digest=config.digest,
            seed=config.seed,
            created_at=now(),
            versions=versions(),
            data={dataset: digest_of(of_it) for dataset, of_it in files.items()},
        )
        with _writable(config.outputs_dir):
            atomic.write_sealed(folder / RUN_FILE, info.model_dump(mode="json"))
            if files:
                atomic.write_sealed(folder / DATA_FILE, {dataset: dict(of_it) for dataset, of_it in files.items()})
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

        Who holds it may take it again in the same context, by whichever RunStore; it is released where it was taken
        first.

        Raises:
            RunNameError: another process, or another thread, holds it; says which, where and since when.
            StorageError: the run directory cannot be written.
        """
        with self._held():
            self._take_over()
            yield

    def holder(self) -> dict[str, Any] | None:
        """Who holds the lock: pid, host and started_at (None each while unknown); None when nobody does."""
        return lock.holder(self.folder)

    def mark_stopped(self, what: will.Want = "interrupted", who: str | None = None, why: str = "") -> will.Will:
        """Remember that a person stopped the run, until someone takes the lock again: see `will.write`."""
        return will.write(self.folder, what, who, why)

    @property
    def stopped(self) -> will.Will | None:
        """What a person did who stopped the run: nothing takes it up again by itself."""
        return will.read(self.folder)

    def _held(self) -> AbstractContextManager[None]:
        if lock.is_ours(self.folder):
            return nullcontext()
        return lock.hold(self.folder, lock.open_lock(self.folder), self.info.name)

    def _take_over(self) -> None:
        """Write down what may differ from the start: the config, as far as it has no effect, and what was noted."""
        config = self.config.model_dump(mode="json")
        if noted := {name: files for name, files in self._files.items() if name not in self.info.data}:
            atomic.write_sealed(self.folder / DATA_FILE, {**self.data_files(), **noted})
        data = {**{name: digest_of(files) for name, files in noted.items()}, **self.info.data}
        if noted or config != self.info.config:
            self.info = self.info.model_copy(update={"config": config, "data": data})
            atomic.write_sealed(self.folder / RUN_FILE, self.info.model_dump(mode="json"))

    def note_files(self, files: Mapping[str, Mapping[str, str]]) -> None:
        """Remember what the datasets hold; `lock()` writes down what run.json does not say of it yet."""
        self._files = {name: dict(of_it) for name, of_it in files.items()}

    def data_files(self) -> dict[str, dict[str, str]]:
        """Dataset -> path -> SHA-256, as it was written down; empty where that is lost, which only costs the names.

        Raises:
            StorageError: it cannot be read now.
        """
        try:
            return atomic.read_sealed(self.folder / DATA_FILE)
        except DamageError:
            return {}

    # -- client work ------------------------------------------------------------------------------------------------

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


def check_name(name: str) -> None:
    """Refuse what cannot be a run's name.

    Raises:
        RunNameError: says what can.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise RunNameError(f"run name {name[:100]!r}: give lower-case letters, digits, '_', '-' and '.', 63 at most")


def is_run(folder: str | Path) -> bool:
    """Whether a path is a run directory, whatever else it may be.

    Raises:
        StorageError: that cannot be told now.
    """
    path = Path(folder) / RUN_FILE
    try:
        return is_there(path)
    except ValueError:  # no name of a file
        return False
    except StorageError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (ELOOP, ENAMETOOLONG):
            return False
        raise


def _is_empty(folder: Path) -> bool:
    """Whether nothing but what a killed creation left is there."""
    with atomic.storage_errors(folder, "read"):
        if untrusted.leads_nowhere(folder) is not None:
            return False
    return is_folder(folder) and all(path.name.endswith(".tmp") for path in listed(folder))


def _is_anothers(folder: Path) -> bool:
    """Whether a folder is another user's, who need not let us see what is in it."""
    with suppress(OSError):
        return folder.lstat().st_uid != os.geteuid()
    return False


@contextmanager
def _writable(outputs_dir: str) -> Iterator[None]:
    """Before training, a folder that cannot be written is the user's input; a full or broken disk is not."""
    try:
        yield
    except StorageError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in NO_PLACE:
            raise
        raise ConfigError(
            f"outputs_dir = {outputs_dir!r}: cannot be written ({error}); choose a folder that you can write"
        ) from error


def _read_info(path: Path) -> RunInfo:
    """What run.json says; the run's name is its folder's, wherever it was copied or moved to."""
    with atomic.storage_errors(path, "read"):
        info = RunInfo.model_validate(atomic.read_sealed(path))
    return info.model_copy(update={"name": path.parent.name})


def _differences(there: Mapping[str, Any], config: RunConfig) -> str:
    """The keys that the result depends on and that differ, with both values; what is a node's is no such key there."""
    old, new = _flatten(there), _flatten(config.model_dump(mode="json"))
    keys = sorted(key for key in old | new if not f"{key}.".startswith(tuple(f"{item}." for item in WITHOUT_EFFECT)))
    differing = [key for key in keys if old.get(key) != new.get(key)]
    if SUPERLINK in (kinds := (old.get(KIND), new.get(KIND))) and kinds[0] != kinds[1]:
        differing.insert(0, KIND)
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
    """Whether every round is committed and the final policy written.

    Raises:
        StorageError: that cannot be told now.
    """
    return store.config.federation.num_rounds in store.committed_rounds() and is_folder(store.folder / FINAL)

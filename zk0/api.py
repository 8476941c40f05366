"""zk0 from Python: train a federation, and read what a run has left; without any Prefect server.

import zk0

run = zk0.run("federation.toml", name="first")
for line in run.metrics:
    print(line["server_round"], line["summary"]["action_error_deg"])
policy, preprocessor, postprocessor = run.policy()
"""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zk0.config import RunConfig, load_config
from zk0.errors import RunNameError
from zk0.layout import FINAL
from zk0.metrics.attendance import absences
from zk0.runs.store import RunStore, is_finished, is_run

if TYPE_CHECKING:
    from lerobot.policies import PreTrainedPolicy
    from lerobot.processor import PolicyProcessorPipeline


class LoadedPolicy(NamedTuple):
    """A policy and its processors, as LeRobot loads them from a `pretrained_model` folder."""

    policy: "PreTrainedPolicy"
    """In evaluation mode; `policy.select_action(preprocessor(observation))`."""
    preprocessor: "PolicyProcessorPipeline[Any, Any]"
    """From an observation in the robot's units to the policy's input."""
    postprocessor: "PolicyProcessorPipeline[Any, Any]"
    """From the policy's action back to the robot's units."""


class Run:
    """A run on the disk: read from its directory alone, whoever advances it or has advanced it.

    Args:
        path: the run directory.

    Raises:
        RunNameError: there is no run, or one of another version of zk0.
    """

    def __init__(self, path: str | Path) -> None:
        self._store = RunStore.open(path)

    def __repr__(self) -> str:
        return f"zk0.open_run({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._store.folder

    @property
    def name(self) -> str:
        """Its name."""
        return self._store.info.name

    @property
    def config(self) -> RunConfig:
        """Its config, with everything settled that a config may leave open."""
        return self._store.config

    @property
    def finished(self) -> bool:
        """Whether every round is committed and the final policy written."""
        return is_finished(self._store)

    @property
    def rounds(self) -> list[int]:
        """The committed rounds whose tensors are kept, ascending; 0 is the base."""
        return self._store.committed_rounds()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A plain record for every committed round, in order: `server_round` and what docs/metrics.md lists."""
        return self._store.read_metrics()

    @property
    def absent(self) -> list[str]:
        """The clients that gave no update in any committed round of training: nothing was learned from them."""
        return [item.client for item in absences([client.name for client in self.config.clients], self.metrics)]

    @property
    def final(self) -> Path | None:
        """The last round's `pretrained_model` folder; None before the run is finished."""
        return self.path / FINAL if self.finished else None

    def export(
        self, out: str | Path, *, server_round: int | None = None, merge: bool = False, client: str | None = None
    ) -> Path:
        """Write a round's policy as a LeRobot `pretrained_model` folder.

        Args:
            out: the folder; must not exist.
            server_round: a committed round; the newest when left out.
            merge: merge the adapters into plain weights, so that the folder needs neither PEFT nor the base.
            client: for this client's arm, where each has statistics of its own.

        Raises:
            RunNameError: no such round or client, or the folder exists.
        """
        from zk0.federation.export import export_round

        return export_round(self._store, Path(out), server_round, merge=merge, client=client)

    def policy(self, server_round: int | None = None, *, device: str | None = None) -> LoadedPolicy:
        """The policy of a round, as LeRobot loads it; imports torch and LeRobot.

        Args:
            server_round: a committed round; the newest when left out.
            device: `cpu`, `cuda`, ...; the run's own when left out.

        Raises:
            RunNameError: no such round.
        """
        from zk0.learning.load import load_pretrained

        with tempfile.TemporaryDirectory(prefix="zk0-") as scratch:
            folder = self.export(Path(scratch) / "policy", server_round=server_round, merge=True)
            return LoadedPolicy(*load_pretrained(folder, self.config.policy, device))


def run(
    config: RunConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    name: str | None = None,
    overrides: Iterable[str] = (),
    strict: bool = False,
) -> Run:
    """Train a federation: a new run, or an unfinished one of the same config from where it stopped.

    What `zk0 run` does, with the same bytes, and without a Prefect server; what was begun by one can be gone on with by
    the other. Ctrl-C ends it, and the same call goes on.

    Args:
        config: a RunConfig, a dict like a TOML file's content, a TOML file, a shipped config (`sim`, `so100`), or the
            directory of a run that is to go on; `sim` when left out.
        name: the run's name; when left out, an unfinished run of the config goes on, and without one a new one begins.
        overrides: single keys to change, such as `training.steps=20`; not for a run directory.
        strict: whether what the checks before it only warn of is refused, too.

    Returns:
        The finished run.

    Raises:
        BadInputError: config, data, policy or name cannot be used; nothing was written.
        QuorumError: too few clients gave an update; the same call goes on. AbsentClientsError, one of these, is raised
            at the end, with `final` written, where `federation.may_miss` does not allow that a client gave no update in
            any round.
        StorageError: the run directory cannot be written or read; the same call goes on.
    """
    from zk0.federation.alone import run_alone

    if isinstance(config, str | Path) and is_run(config):
        if name is not None or list(overrides):
            raise RunNameError(
                f"config = {str(config)!r}: is a run that goes on as it is; leave name and overrides out"
            )
        return Run(run_alone(RunStore.open(config), strict=strict))
    return Run(run_alone(_as_config(config, overrides), name, _stem(config), strict=strict))


def open_run(path: str | Path) -> Run:
    """A run on the disk, finished or not.

    Raises:
        RunNameError: there is no run; names those beside it.
    """
    return Run(path)


def _as_config(config: RunConfig | Mapping[str, Any] | str | Path | None, overrides: Iterable[str]) -> RunConfig:
    if isinstance(config, RunConfig):
        config = config.model_dump(mode="json")
    return load_config(config, overrides)


def _stem(config: object) -> str:
    from zk0.federation.start import stem_of

    return stem_of(config) if isinstance(config, str | Path) or config is None else "run"

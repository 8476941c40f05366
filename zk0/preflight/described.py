"""The checks before a run whose clients are on nodes: what a node says of its own, and what that is worth."""

from zk0.config import RunConfig
from zk0.data.datasets import open_metadata
from zk0.data.digest import file_digests
from zk0.learning.policy import base_config
from zk0.preflight import fetch
from zk0.preflight.between import together
from zk0.preflight.checks import settle
from zk0.preflight.datasets import examine, refuse
from zk0.preflight.inputs import check_dimensions, check_names
from zk0.preflight.records import Described, Examined, Preflight
from zk0.preflight.verdicts import folder_of
from zk0.runs.records import digest_of
from zk0.runs.versions import versions


def describe(found: Preflight) -> Described:
    """What a node says of its one client.

    Args:
        found: by its checks, all of which have passed.
    """
    config = found.config
    (client,) = config.clients
    meta = open_metadata(client)
    seen = examine(config, client, every_frame=False).traits
    return Described(
        recordings=digest_of(file_digests(folder_of(client))),
        frames=found.frames[client.name],
        training_frames=found.training_frames[client.name],
        fps=float(meta.fps),
        robot_type=meta.robot_type,
        features={
            name: {
                "dtype": str(item["dtype"]),
                "shape": [int(side) for side in item["shape"]],
                "names": item.get("names"),
            }
            for name, item in meta.features.items()
        },
        traits=None if seen is None else seen.model_copy(update={"rows": None}),
        exchanged_bytes=found.exchanged_bytes,
        base_bytes=found.base_bytes,
        memory=found.memory,
        warnings=found.warnings,
        versions=versions(),
        device=str(config.policy.device),
    )


def preflight(config: RunConfig, examined: list[Examined]) -> Preflight:
    """The coordinator's part: the clients beside one another, and against the policy, by what their nodes say.

    Args:
        config: the run's, whose clients' roots are stand-ins of what the nodes say.
        examined: the clients', of what the nodes say; then those of evaluation.datasets, which are here.

    Raises:
        ConfigError: as `checks.settle`.
        DatasetError, PolicyError: the first thing that would fail.
    """
    config = settle(config)
    fetch.fetch_policy(config)
    found = together(config, examined)
    refuse(found)
    first = open_metadata(config.clients[0])
    base = base_config(config, first)
    for client in config.clients:
        meta = open_metadata(client)
        for check in (check_names, check_dimensions):
            check(base, meta, client.rename_map, client.name)
    return Preflight(
        config=config,
        frames=found.frames,
        exchanged_bytes=0,
        warnings=[str(item) for item in found.of("warning")],
    )

"""`zk0 node dry-run`: what would leave in a run, and what of it the owner's rules refuse; nothing is sent."""

from pathlib import Path
from typing import Any, NamedTuple

from zk0.config import RunConfig
from zk0.errors import ConfigError
from zk0.executors import calls
from zk0.executors.process import ProcessExecutor
from zk0.link.wire import terms
from zk0.node.own import own_config
from zk0.node.policy_type import policy_type
from zk0.node.request import Asker
from zk0.node.rules import review
from zk0.node.settings import NodeSettings
from zk0.preflight.records import Leaf
from zk0.runs.versions import package_version

NAME = "dry-run"


class DryRun(NamedTuple):
    """What came of it."""

    leaves: list[Leaf]
    """What would leave."""
    refusals: list[str]
    """What the rules are against, one sentence each."""
    digest: str
    """Of the config as a node sees it: for rules.config_digests."""

    @property
    def round_bytes(self) -> int:
        """Bytes of tensors that leave in each round."""
        return sum(leaf.size for leaf in self.leaves if leaf.when != "before")

    def record(self) -> dict[str, Any]:
        """For programs."""
        return {
            "leaves": [leaf.model_dump() for leaf in self.leaves],
            "round_bytes": self.round_bytes,
            "config_digest": self.digest,
            "refusals": self.refusals,
        }


def dry_run(home: Path, node: NodeSettings, config: RunConfig) -> DryRun:
    """Look at what a run would let out of this node.

    Args:
        home: of the node.
        node: its settings.
        config: of the run, as the coordinator gave it; its client of the node's name is meant, or its first one.

    Raises:
        BadInputError: the policy or the recordings cannot be used.
    """
    names = [client.name for client in config.clients]
    if node.client not in names:
        raise ConfigError(f"client {node.client!r} of node.toml is not in this config, which has {', '.join(names)}")
    given = terms(config, node.client)
    own = own_config(given, node, home)
    asker = Asker(
        link=node.link,
        run=NAME,
        client=node.client,
        version=package_version("zk0"),
        policy_type=policy_type(given.policy),
    )
    return DryRun(
        ProcessExecutor(own.executor).call(calls.leaves, own), review(given, asker, node, home, dry=True), given.digest
    )

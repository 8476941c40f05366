"""A run's terms made the node's own: its recordings, its device, its threads, its executor."""

from pathlib import Path
from typing import Any

from zk0.config import RunConfig, validate_config
from zk0.errors import ConfigError
from zk0.executors import calls
from zk0.executors.process import ProcessExecutor
from zk0.node.settings import NodeSettings


def own_config(terms: RunConfig, settings: NodeSettings, outputs: Path) -> RunConfig:
    """The config that the node works by, with its device settled.

    Args:
        terms: what the run asks for.
        settings: the node's.
        outputs: the folder of its work.

    Raises:
        ConfigError: the run asks for somebody else, or the device is not there.
    """
    if [client.name for client in terms.clients] != [settings.client]:
        asked = ", ".join(client.name for client in terms.clients)
        raise ConfigError(
            f"the node that is registered as {asked!r} calls itself {settings.client!r}; correct client in its "
            "node.toml, or register its key under that name"
        )
    config = terms.model_dump(mode="json")
    config["outputs_dir"] = str(outputs)
    config["clients"][0] |= {"root": settings.root, "revision": None}
    config["policy"]["device"] = settings.own_device or "auto"
    config["memory"] |= _given(soft_limit=settings.rules.memory)
    config["training"] |= _given(num_threads=settings.num_threads, num_workers=settings.num_workers)
    config["data"] |= _given(video_backend=settings.video_backend)
    config["executor"] |= {"kind": settings.executor, "docker": settings.docker.model_dump(mode="json"), "link": None}
    wanted = validate_config(config)
    return ProcessExecutor(wanted.executor).call(calls.settle, wanted)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}

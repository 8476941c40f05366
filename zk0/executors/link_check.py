"""The checks before a run whose clients are on nodes: every node is asked what its recordings are like."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from loguru import logger
from pydantic import ValidationError

from zk0.config import DatasetConfig, RunConfig, resolve_path
from zk0.errors import ClientError, ConfigError, DatasetError, HopelessError, PassingError
from zk0.executors import calls
from zk0.executors.over_link import Line, new_ask
from zk0.executors.process import ProcessExecutor
from zk0.executors.side_by_side import Watch, examine_all
from zk0.files import atomic, untrusted
from zk0.layout import COURIER_FOLDER, DESCRIBED_FOLDER
from zk0.link.folder import CHECKS_FOLDER, Link, open_link
from zk0.link.mailbox import Mailbox
from zk0.link.settings import OFFERS
from zk0.link.wire import Answer, Request, digest_of_terms, terms
from zk0.memory.estimate import MemoryEstimate
from zk0.preflight.records import Described, Examined, Preflight
from zk0.runs.records import now, told_files
from zk0.runs.versions import versions

STAND_IN = "described.json"
"""As in zk0.data.stand_in, whose library is torch's neighbour."""
JOIN_S = 120.0
"""A node that does not show itself for so long is away; one that was just started is named after about 20 s."""


def check_over_link(config: RunConfig, watch: Watch) -> Preflight:
    """See that link and nodes are there, and that data and policy fit, by what the nodes say of their recordings.

    Args:
        config: the wanted config.
        watch: told what is being done.

    Raises:
        BadInputError: the first thing that would fail.
        ClientError: a node could not look at its recordings.
    """
    link = open_link(config.executor.link)
    _refuse_unbound(config, link)
    processes = ProcessExecutor(config.executor)
    processes.warm_up()
    config = processes.call(calls.settle, config)
    watch("asking the nodes what their recordings are like")
    said = _described(config, link)
    config = _with_stand_ins(config, link, said)
    here = examine_all(config, every_frame=False, watch=watch, datasets=config.evaluation.datasets)
    watch("comparing what the nodes say")
    found = processes.call(
        calls.preflight_over_link, config, [*map(_examined, config.clients, [said] * len(config.clients)), *here]
    )
    files = {
        dataset.name: item.files for dataset, item in zip(config.evaluation.datasets, here, strict=True) if item.files
    }
    return found.model_copy(
        update={
            "training_frames": {name: item.training_frames for name, item in said.items()},
            "exchanged_bytes": max((item.exchanged_bytes for item in said.values()), default=0),
            "base_bytes": max((item.base_bytes for item in said.values()), default=0),
            "memory": _tightest(config, [item.memory for item in said.values() if item.memory is not None]),
            "warnings": [*found.warnings, *_warnings(said)],
            "files": {**{name: told_files(item.recordings) for name, item in said.items()}, **files},
        }
    )


def _refuse_unbound(config: RunConfig, link: Link) -> None:
    if unbound := [client.name for client in config.clients if client.name not in link.nodes]:
        there = ", ".join(sorted(link.nodes)) or "none"
        raise ConfigError(
            f"client {unbound[0]!r}: no node of that name is registered at executor.link = {config.executor.link!r} "
            f"(registered: {there}); register it by `zk0 link register`, or correct the client's name"
        )


def _described(config: RunConfig, link: Link) -> dict[str, Described]:
    """Client -> what its node says; without those that are away and were described before."""
    with _mailbox(link) as way, ThreadPoolExecutor(len(config.clients), "zk0-nodes") as pool:
        asked = {client.name: pool.submit(_one, config, client, way) for client in config.clients}
        return {name: said for name, future in asked.items() if (said := future.result()) is not None}


@contextmanager
def _mailbox(link: Link) -> Iterator[Line]:
    """One for these checks alone: no run has a folder yet."""
    folder = link.folder / CHECKS_FOLDER / uuid4().hex[:16]
    way = Line(link, Mailbox(folder / COURIER_FOLDER))
    _sweep(folder)
    try:
        with way.box.owned():
            yield way
    finally:
        way.box.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(but: Path) -> None:
    """Remove the mailboxes of checks that were killed."""
    for folder in but.parent.iterdir():
        if folder != but and Mailbox(folder / COURIER_FOLDER).stopped:
            shutil.rmtree(folder, ignore_errors=True)


def _one(config: RunConfig, client: DatasetConfig, way: Line) -> Described | None:
    asked = terms(config, client.name)
    limit_s = config.executor.timeout_s
    request = Request(
        ask=new_ask(),
        what="describe",
        client=client.name,
        key=digest_of_terms(asked),
        terms=asked.model_dump(mode="json"),
        versions=versions(),
        until=time.time() + limit_s,
    )
    way.box.ask(request)
    try:
        answer = way.wait(request, limit_s=limit_s, away_s=min(JOIN_S, config.executor.away_s))
    except HopelessError as error:
        if _is_known(client):
            logger.warning("client {!r}: {}; the run goes on with what it said before", client.name, error)
            return None
        raise PassingError(
            f"client {client.name!r}: {error}; start it by `zk0 node start`, or leave the client out of the config"
        ) from error
    return _read(client, answer)


def _read(client: DatasetConfig, answer: Answer) -> Described:
    """What a node says, if it is that.

    Raises:
        DatasetError: its recordings cannot be used.
        ClientError: it could not look at them.
    """
    if answer.state == "failed":
        text = f"client {client.name!r}, on its node: {untrusted.words(answer.message)}"
        if answer.cause == "refused":
            raise ConfigError(f"{text}; ask its owner, or change the config")
        raise DatasetError(text) if answer.cause == "bad_data" else ClientError(answer.cause, text)
    try:
        return Described.model_validate(answer.described)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ClientError(
            "bad_data",
            f"client {client.name!r}: what its node says of its recordings is none: {untrusted.words(first)}",
        ) from error


def _is_known(client: DatasetConfig) -> bool:
    return client.root is not None and (resolve_path(client.root) / STAND_IN).is_file()


def _with_stand_ins(config: RunConfig, link: Link, said: dict[str, Described]) -> RunConfig:
    """The config with a folder for each client that says what its node said, and with places for all of them."""
    clients = []
    for client in config.clients:
        if client.name in said:
            offer = {**said[client.name].model_dump(mode="json"), "at": now()}
            atomic.write_json(link.folder / OFFERS / f"{client.name}.json", offer)  # for `zk0 link status`
            folder = link.folder / DESCRIBED_FOLDER / said[client.name].recordings[:32]
            record = said[client.name].model_dump(mode="json", include={"fps", "robot_type", "features"})
            atomic.write_json(folder / STAND_IN, record)
            client = client.model_copy(update={"root": str(folder), "revision": None})  # noqa: PLW2901 - settled
        clients.append(client)
    executor = config.executor
    if executor.max_parallel is None:
        executor = executor.model_copy(update={"max_parallel": len(clients)})
    return config.model_copy(update={"clients": clients, "executor": executor})


def _examined(client: DatasetConfig, said: dict[str, Described]) -> Examined:
    """As the comparison of datasets takes it."""
    if (known := said.get(client.name)) is None:
        return Examined(findings=[])
    return Examined(findings=[], frames=known.frames, traits=known.traits)


def _warnings(said: dict[str, Described]) -> Iterator[str]:
    for name, item in said.items():
        yield from (f"client {name!r}, on its node: {untrusted.words(text)}" for text in item.warnings)
        here = versions()
        if other := [
            f"{package} {item.versions[package]} (here {mine})"
            for package, mine in here.items()
            if item.versions.get(package, mine) != mine
        ]:
            yield f"client {name!r}: its node has {untrusted.words(', '.join(other))}: the run may end otherwise"


def _tightest(config: RunConfig, estimates: list[MemoryEstimate]) -> MemoryEstimate | None:
    """Of the nodes' estimates that by which fewest frames fit."""
    whole = config.training.micro_batch_size or config.training.batch_size
    return min(estimates, key=lambda item: item.budget - item.fixed - whole * item.per_frame, default=None)

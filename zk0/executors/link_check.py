"""The checks before a run whose clients are on nodes: every node is asked what its recordings are like."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from loguru import logger
from pydantic import ValidationError

from zk0.config import DatasetConfig, RunConfig
from zk0.config.paths import absolute_path
from zk0.errors import ClientError, ConfigError, DatasetError, HopelessError, PassingError
from zk0.executors import calls
from zk0.executors.over_link import Line, new_ask
from zk0.executors.process import ProcessExecutor
from zk0.executors.side_by_side import Watch, examine_all
from zk0.files import atomic, untrusted
from zk0.layout import COURIER_FOLDER
from zk0.link.folder import CHECKS_FOLDER, Link, open_link
from zk0.link.mailbox import Mailbox
from zk0.link.settings import OFFERS
from zk0.link.wire import Answer, Request, digest_of_terms, terms
from zk0.memory.estimate import MemoryEstimate
from zk0.preflight.records import Described, Examined, Preflight
from zk0.runs import described
from zk0.runs.named import name_of_checked
from zk0.runs.records import now, told_files
from zk0.runs.versions import versions
from zk0.work.executor import STOPPED

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
        PassingError: the link is away, or too many nodes are.
    """
    STOPPED.clear()  # of a run that this process had before
    link, name = open_link(config.executor.link), name_of_checked()
    _refuse_unbound(config, link)
    processes = ProcessExecutor(config.executor)
    processes.warm_up()
    config = processes.call(calls.settle, config)
    watch("asking the nodes what their recordings are like")
    known = known_of(absolute_path(config.outputs_dir) / name, config) if name else {}
    said = _described(config, link, known)
    everything = {**known, **said}
    with TemporaryDirectory(prefix="zk0-") as folder:
        placed = _with_stand_ins(config, Path(folder), everything)
        here = examine_all(placed, every_frame=False, watch=watch, datasets=config.evaluation.datasets)
        watch("comparing what the nodes say")
        examined = [*map(_examined, config.clients, [everything] * len(config.clients)), *here]
        found = processes.call(calls.preflight_over_link, placed, examined)
    files = {
        dataset.name: item.files for dataset, item in zip(config.evaluation.datasets, here, strict=True) if item.files
    }
    return found.model_copy(
        update={
            "config": _with_places(described.without_places(found.config)),
            "training_frames": {name: item.training_frames for name, item in everything.items()},
            "exchanged_bytes": max((item.exchanged_bytes for item in everything.values()), default=0),
            "base_bytes": max((item.base_bytes for item in everything.values()), default=0),
            "described": said,
            "memory": _tightest(config, [item.memory for item in said.values() if item.memory is not None]),
            "warnings": [*found.warnings, *_warnings(said), *_absences(config, everything)],
            "files": {**{name: told_files(item.recordings) for name, item in said.items()}, **files},
        }
    )


def known_of(run_dir: Path, config: RunConfig) -> dict[str, Described]:
    """What nodes said when a run began, or when they joined it.

    Raises:
        StorageError: it cannot be read.
    """
    found = described.read(run_dir, [client.name for client in config.clients])
    return {name: Described.model_validate(record) for name, record in found.items()}


def _refuse_unbound(config: RunConfig, link: Link) -> None:
    if unbound := [client.name for client in config.clients if client.name not in link.nodes]:
        there = ", ".join(sorted(link.nodes)) or "none"
        raise ConfigError(
            f"client {unbound[0]!r}: no node of that name is registered at executor.link = {config.executor.link!r} "
            f"(registered: {there}); register it by `zk0 link register`, or correct the client's name"
        )


def _described(config: RunConfig, link: Link, known: dict[str, Described]) -> dict[str, Described]:
    """Client -> what its node says, of those that are there; enough of them are, or were when the run began.

    Raises:
        PassingError: too few are, for as long as a node may be away.
    """
    name = name_of_checked()  # here: threads have none of it
    every, away_s = config.data.normalization == "federated", config.executor.away_s
    needed = len(config.clients) if every else config.federation.min_train_clients
    said: dict[str, Described] = {}
    with _mailbox(link) as way:
        way.begin()
        until = time.monotonic() + away_s
        while True:
            left = [client for client in config.clients if client.name not in said]
            patience_s = min(JOIN_S, away_s, max(1.0, until - time.monotonic()))
            with ThreadPoolExecutor(len(left), "zk0-nodes") as pool:
                asked = {client.name: pool.submit(_one, config, client, way, name, patience_s) for client in left}
                said |= {name: item for name, future in asked.items() if (item := future.result()) is not None}
            lacking = [client.name for client in config.clients if client.name not in {*said, *known}]
            if len(config.clients) - len(lacking) >= needed:
                return said
            if time.monotonic() >= until:
                raise _too_few(lacking, away_s, needed, every=every)
            logger.warning("still away: {}; waiting until {} clients are there", ", ".join(lacking), needed)


def _too_few(lacking: list[str], away_s: float, needed: int, *, every: bool) -> PassingError:
    why = "data.normalization = 'federated' needs all" if every else f"federation.min_train_clients = {needed}"
    return PassingError(
        f"client {lacking[0]!r}: its node has been away for {away_s:g} s (executor.away_s), and {why}; start it by "
        f"`zk0 node start`, or leave the client out of the config (away: {', '.join(lacking)})"
    )


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


def describe_request(config: RunConfig, client: str, name: str) -> Request:
    """A question to a node, what its recordings are like.

    Args:
        config: of the run.
        client: whose node is asked.
        name: the run's; empty where there is none.
    """
    asked = terms(config, client)
    return Request(
        ask=new_ask(),
        what="describe",
        client=client,
        key=digest_of_terms(asked),
        run=name,
        terms=asked.model_dump(mode="json"),
        versions=versions(),
        until=time.time() + config.executor.timeout_s,
    )


def _one(config: RunConfig, client: DatasetConfig, way: Line, name: str, away_s: float) -> Described | None:
    """What a node says; None where it is away."""
    request = describe_request(config, client.name, name)
    way.box.ask(request)
    try:
        answer = way.wait(request, limit_s=config.executor.timeout_s, away_s=away_s)
    except HopelessError as error:
        logger.warning("client {!r}: {}", client.name, error)
        return None
    finally:
        way.box.withdraw(request)
    said = read_described(client.name, answer)
    offer = {**said.model_dump(mode="json"), "at": now()}
    atomic.write_json(way.link.folder / OFFERS / f"{client.name}.json", offer)  # for `zk0 link status`
    return said


def read_described(client: str, answer: Answer) -> Described:
    """What a node says, if it is that.

    Raises:
        DatasetError: its recordings cannot be used.
        ConfigError: its owner does not allow it.
        ClientError: it could not look at them.
    """
    if answer.state == "failed":
        text = f"client {client!r}, on its node: {untrusted.words(answer.message)}"
        if answer.cause == "refused":
            raise ConfigError(f"{text}; ask its owner, or change the config")
        raise DatasetError(text) if answer.cause == "bad_data" else ClientError(answer.cause, text)
    try:
        return Described.model_validate(answer.described)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ClientError(
            "bad_data",
            f"client {client!r}: what its node says of its recordings is none: {untrusted.words(first)}",
        ) from error


def compare(config: RunConfig, said: dict[str, Described]) -> None:
    """Hold what nodes say against one another and against the policy.

    Raises:
        BadInputError: the first thing that would fail.
    """
    clients = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"datasets": []})})
    with TemporaryDirectory(prefix="zk0-") as folder:
        placed = _with_stand_ins(clients, Path(folder), said)
        examined = [_examined(client, said) for client in config.clients]
        ProcessExecutor(config.executor).call(calls.preflight_over_link, placed, examined)


def _with_stand_ins(config: RunConfig, folder: Path, said: dict[str, Described]) -> RunConfig:
    """The config with a folder for each client that says what its node said."""
    described.keep(folder, {name: item.model_dump(mode="json") for name, item in said.items()})
    return described.placed(config, folder)


def _with_places(config: RunConfig) -> RunConfig:
    """The config with places for all clients at once, who disturb one another on no machine."""
    executor = config.executor
    if executor.max_parallel is not None:
        return config
    return config.model_copy(update={"executor": executor.model_copy(update={"max_parallel": len(config.clients)})})


def _examined(client: DatasetConfig, said: dict[str, Described]) -> Examined:
    """As the comparison of datasets takes it."""
    if (known := said.get(client.name)) is None:
        return Examined(findings=[])
    return Examined(findings=[], frames=known.frames, traits=known.traits)


def _absences(config: RunConfig, said: dict[str, Described]) -> Iterator[str]:
    for client in config.clients:
        if client.name not in said:
            yield f"client {client.name!r}: its node is away; the run begins without it, and takes it in when it joins"


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

"""Whether the owner allows what a link asks: before a run, all that it would ask; then each piece of work."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path

from zk0.config import RunConfig
from zk0.config.part import size_in_bytes
from zk0.errors import RefusedError
from zk0.node import ledger
from zk0.node.request import Asker, WorkRequest, requests_of
from zk0.node.settings import HOURS, NodeSettings, Rules
from zk0.runs.versions import package_version

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

Check = Callable[[WorkRequest, Rules], str | None]
"""Gives what was asked and which rule is against it; None where none is."""


def judge(request: WorkRequest, settings: NodeSettings, home: Path, now: datetime | None = None) -> None:
    """Refuse a piece of work that the owner does not allow, and write that down.

    Args:
        request: what is asked.
        settings: of the node.
        home: of the node, with its ledger.
        now: the time, with its zone; the clock's and the machine's when None.

    Raises:
        RefusedError: says what was asked, and which rule is against it.
        StorageError: the ledger cannot be read or written.
    """
    now = now or datetime.now().astimezone()
    why = next((why for why in _against(request, settings, home, now)), None)
    if why is not None:
        ledger.refused(home, request, why)
        raise RefusedError("refused", f"node {settings.client!r} refuses {_called(request)}: {why}")


def review(config: RunConfig, asker: Asker, settings: NodeSettings, home: Path) -> list[str]:
    """Everything that a run would be refused for, whatever the time: one sentence each.

    Args:
        config: of the run.
        asker: who asks.
        settings: of the node.
        home: of the node.

    Raises:
        StorageError: the ledger cannot be written.
    """
    found: dict[str, WorkRequest] = {}
    for request in requests_of(config, asker):
        for why in _always_against(request, settings):
            found.setdefault(why, request)
    for why, request in found.items():
        ledger.refused(home, request, why)
    return [f"node {settings.client!r} would refuse {_called(request)}: {why}" for why, request in found.items()]


def _called(request: WorkRequest) -> str:
    where = f" of round {request.server_round}" if request.server_round else ""
    return f"{request.kind!r}{where} of run {request.run!r}"


def _always_against(request: WorkRequest, settings: NodeSettings) -> Iterator[str]:
    if request.link != settings.link:
        yield f"it comes from {request.link}, and the node is of {settings.link}"
    if request.version != (ours := package_version("zk0")):
        yield f"the coordinator has zk0 {request.version} and the node {ours}; install the same on both"
    for check in CHECKS:
        if (why := check(request, settings.rules)) is not None:
            yield why


def _against(request: WorkRequest, settings: NodeSettings, home: Path, now: datetime) -> Iterator[str]:
    yield from _always_against(request, settings)
    rules = settings.rules
    if request.kind == "describe":
        return
    if rules.days is not None and DAYS[now.weekday()] not in rules.days:
        yield f"it is {DAYS[now.weekday()]}, and rules.days = {rules.days}"
    if rules.hours is not None and not any(_within(text, now) for text in rules.hours):
        yield f"it is {now:%H:%M} there, and rules.hours = {rules.hours}"
    if rules.steps_per_day is not None and request.steps:
        done = ledger.steps_of_a_day(home, now, but=request)
        if done + request.steps > rules.steps_per_day:
            yield (
                f"it asks for {request.steps} steps after {done} in 24 hours, and "
                f"rules.steps_per_day = {rules.steps_per_day}"
            )


def _within(hours: str, now: datetime) -> bool:
    """Whether a time of the day lies in `22:00-06:00`, which goes over midnight."""
    found = HOURS.fullmatch(hours)
    assert found is not None
    first, last = (timedelta(hours=int(found[item]), minutes=int(found[item + 1])) for item in (1, 3))
    time = timedelta(hours=now.hour, minutes=now.minute, seconds=now.second)
    return first <= time < last if first < last else time >= first or time < last


def _run(request: WorkRequest, rules: Rules) -> str | None:
    if rules.runs is None or any(fnmatchcase(request.run, pattern) for pattern in rules.runs):
        return None
    return f"the run's name is {request.run!r}, and rules.runs = {rules.runs}"


def _config(request: WorkRequest, rules: Rules) -> str | None:
    if rules.config_digests is None or request.config_digest.startswith(tuple(rules.config_digests)):
        return None
    known = ", ".join(digest[:12] for digest in rules.config_digests)
    return f"the config's digest is {request.config_digest[:12]}, and rules.config_digests has {known}"


def _most(name: str, asked: str) -> Check:
    """A bound on a number."""

    def check(request: WorkRequest, rules: Rules) -> str | None:
        most, value = getattr(rules, name), getattr(request, name.removesuffix("_per_fit").removesuffix("_per_day"))
        return None if most is None or value <= most else f"it asks for {value} {asked}, and rules.{name} = {most}"

    return check


def _memory(request: WorkRequest, rules: Rules) -> str | None:
    if rules.memory is None or request.memory_bytes is None or request.memory_bytes <= size_in_bytes(rules.memory):
        return None
    return f"it needs {request.memory_bytes / 2**30:.2f} GiB of memory, and rules.memory = {rules.memory!r}"


def _policy(request: WorkRequest, rules: Rules) -> str | None:
    if rules.policy_types is None or not request.policy_type or request.policy_type in rules.policy_types:
        return None
    return f"the policy's type is {request.policy_type!r}, and rules.policy_types = {rules.policy_types}"


def _base(request: WorkRequest, rules: Rules) -> str | None:
    if rules.bases is None or not request.base or any(fnmatchcase(request.base, item) for item in rules.bases):
        return None
    return f"the base is {request.base!r}, and rules.bases = {rules.bases}"


def _plugins(request: WorkRequest, rules: Rules) -> str | None:
    strange = [name for name in request.plugins if name not in rules.plugins]
    return f"it imports the package {strange[0]!r}, and rules.plugins = {rules.plugins}" if strange else None


def _full(request: WorkRequest, rules: Rules) -> str | None:
    if rules.full_fine_tuning or request.kind != "train" or request.trainable == "adapters":
        return None
    return "every trainable tensor of the policy would leave, and rules.full_fine_tuning = false"


def _modules(request: WorkRequest, rules: Rules) -> str | None:
    if rules.full_fine_tuning:
        return None
    strange = [name for name in request.full_modules if name not in rules.full_modules]
    return (
        f"the module {strange[0]!r} would leave in full, and rules.full_modules = {rules.full_modules}"
        if strange
        else None
    )


def _flag(name: str, asked: str) -> Check:
    """Something that may leave, or be used, or not."""

    def check(request: WorkRequest, rules: Rules) -> str | None:
        return None if getattr(rules, name) or not getattr(request, name) else f"{asked}, and rules.{name} = false"

    return check


CHECKS: tuple[Check, ...] = (
    _run,
    _config,
    _most("num_rounds", "rounds"),
    _most("steps_per_fit", "steps in one round"),
    _most("steps_per_day", "steps in one round"),
    _most("batch_size", "frames at once"),
    _memory,
    _flag("gpu", "it asks for the GPU"),
    _policy,
    _base,
    _plugins,
    _full,
    _modules,
    _flag("optimizer_state", "the optimizer's state would leave"),
    _flag("statistics", "counts and moments of the recordings would leave"),
    _flag("joint_charts", "the joints' positions in a held-out episode would leave"),
    _flag("episode_metrics", "errors by held-out episode would leave"),
)
"""What holds at any time."""

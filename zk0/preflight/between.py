"""The datasets of a config beside one another: each may be whole, and yet they should not be averaged as they are."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from zk0.config import DatasetConfig, RunConfig
from zk0.data.findings import DataFinding, DataReport
from zk0.metrics import units
from zk0.metrics.units import Joints
from zk0.preflight.ranges import Fault, fault_between
from zk0.preflight.recordings import repeated_episodes, shared_episodes
from zk0.preflight.records import Examined, Traits

ACTION, OBS_STATE = "action", "observation.state"
"""LeRobot's names, without its import: the orchestrator, too, puts together what was found."""
CONVERT = "convert it to the others' units and calibration, leave it out, or set data.normalization = 'own'"
MOST_CHANNELS = 4
"""Of a picture; a longer axis is its height or width."""
NAMED = 3
"""So many joints or episodes are named; of more the number is said."""


class Profile:
    """A dataset beside others.

    Args:
        config: the run's.
        dataset: its part of the config.
        traits: of the dataset.
    """

    def __init__(self, config: RunConfig, dataset: DatasetConfig, traits: Traits) -> None:
        self.name, self.traits = dataset.name, traits
        self.is_client = any(client.name == self.name for client in config.clients)
        renamed = dataset.rename_map
        self.cameras = {renamed.get(key, key): tuple(shape) for key, shape in traits.cameras.items()}
        """The policy's name of a camera -> shape of its pictures."""
        self._data = config.data

    @property
    def who(self) -> str:
        """How messages name it."""
        return f"client {self.name!r}" if self.is_client else f"{self.name!r}"

    def joints(self, feature: str) -> Joints:
        """Names and units of a feature's dimensions."""
        names = self.traits.joints.get(feature, [])
        return units.joints(names, self.traits.robot_type, self._data.unit, self._data.grippers)

    def warning(self, check: str, seen: str, remedy: str) -> DataFinding:
        """A person should look at it."""
        return DataFinding(dataset=self.name, check=check, verdict="warning", seen=seen, remedy=remedy)


def together(config: RunConfig, examined: Sequence[Examined]) -> DataReport:
    """What was found in all datasets of a config, and beside one another.

    Args:
        config: the config.
        examined: one for each of its datasets, in their order.
    """
    named = {dataset.name: item for dataset, item in zip(config.datasets, examined, strict=True)}
    findings = [finding for item in examined for finding in item.findings]
    findings += compare(config, {name: item.traits for name, item in named.items() if item.traits is not None})
    order = list(named)
    findings.sort(key=lambda finding: order.index(finding.dataset))
    frames = {name: item.frames for name, item in named.items() if item.frames is not None}
    return DataReport(findings=findings, frames=frames)


def compare(config: RunConfig, traits: Mapping[str, Traits]) -> Iterator[DataFinding]:
    """Warn of what the datasets have not in common, and of recordings that they have.

    Args:
        config: the run's.
        traits: of its datasets, by name; without those that cannot be read.
    """
    datasets = [*config.clients, *config.evaluation.datasets]
    profiles = [Profile(config, item, traits[item.name]) for item in datasets if item.name in traits]
    if not profiles:
        return
    found = [*_unknown_joints(config, profiles), *_rates(profiles), *_cameras(profiles), *_units(profiles)]
    found += [*_ranges(profiles), *_recordings(profiles)]
    yield from found
    named = {finding.dataset for finding in found}
    for item in profiles if len(profiles) > 1 else []:
        if item.name not in named:
            seen = "rates, cameras, units and ranges are alike, no recording is twice"
            yield DataFinding(dataset=item.name, check="beside the others", verdict="ok", seen=seen)


def _unknown_joints(config: RunConfig, profiles: Sequence[Profile]) -> Iterator[DataFinding]:
    """A name or pattern of the config that fits no joint of any dataset is a slip."""
    names = list(dict.fromkeys(name for item in profiles for name in item.joints(ACTION).names))
    by_unit = list(config.data.unit) if isinstance(config.data.unit, Mapping) else []
    usual = config.data.grippers == type(config.data).model_fields["grippers"].default
    keys = [("unit", pattern) for pattern in by_unit]
    keys += [("grippers", pattern) for pattern in ([] if usual else config.data.grippers)]
    for key, pattern in keys:
        if names and not any(units.is_named(name, pattern) for name in names):
            seen = f"data.{key} names {pattern!r}, which is no joint of any dataset; they have {', '.join(names)}"
            remedy, first = "correct the name, or leave it out", profiles[0].name
            yield DataFinding(dataset=first, check="units", verdict="error", seen=seen, remedy=remedy)


def _rates(profiles: Sequence[Profile]) -> Iterator[DataFinding]:
    usual = Counter(item.traits.fps for item in profiles).most_common(1)[0][0]
    there = next(item for item in profiles if item.traits.fps == usual)
    for item in profiles:
        if (fps := item.traits.fps) != usual:
            longer = f"a chunk of actions lasts {usual / fps:.3g} times as long"
            seen = f"{fps:g} frames a second, {there.who} has {usual:g}: {longer}"
            yield item.warning("frame rate", seen, "record or convert at one rate, or leave it out")


def _cameras(profiles: Sequence[Profile]) -> Iterator[DataFinding]:
    usual = Counter(frozenset(item.cameras) for item in profiles).most_common(1)[0][0]
    there = next(item for item in profiles if frozenset(item.cameras) == usual)
    for item in profiles:
        mine, others = item.cameras, there.cameras
        if set(mine) != usual:
            names = [", ".join(sorted(known)) or "none" for known in (mine, others)]
            seen = f"has the cameras {names[0]}; {there.who} has {names[1]}"
            yield item.warning("other cameras", seen, "map them to the same names by rename_map, if they are")
            continue
        for key in sorted(usual):
            if _format(mine[key]) != _format(others[key]):
                seen = f"{key} has pictures of shape {mine[key]}, {there.who} of {others[key]}: of another format"
                yield item.warning("other cameras", seen, "see that it is the same view, not cut or turned")
                break


def _format(shape: tuple[int, ...]) -> float | None:
    """Width by height of a picture, to two digits: sizes may differ, for policies resize them."""
    sides = [side for side in shape if side > MOST_CHANNELS]
    return round(sides[1] / sides[0], 2) if len(sides) == 2 else None


def _units(profiles: Sequence[Profile]) -> Iterator[DataFinding]:
    """Errors in different units have no mean."""
    known = [(item, unit) for item in profiles if (unit := item.joints(ACTION).arm_unit) is not None]
    for item, unit in known[1:]:
        first, usual = known[0]
        if unit != usual:
            seen = (
                f"its joints are in {unit}, those of {first.who} in {usual}: there is no mean of their action errors, "
                "and no best round by it"
            )
            remedy = (
                "convert one of them, say it by data.unit if a name misleads, or set evaluation.best_metric = 'loss'"
            )
            yield item.warning("units", seen, remedy)


def _ranges(profiles: Sequence[Profile]) -> Iterator[DataFinding]:
    """Ranges that differ as units and calibrations do, beside the dataset that differs from the fewest."""
    known = [item for item in profiles if item.traits.ranges]
    faults = {(a.name, b.name): _fault(a, b) for a in known for b in known if a is not b}
    if not any(faults.values()):
        return
    there = min(
        known, key=lambda item: sum(bool(faults[item.name, other.name]) for other in known if other is not item)
    )
    for item in known:
        if item is not there and (found := faults[item.name, there.name]) is not None:
            yield item.warning("ranges", _range_text(item, there, *found), CONVERT)


def _fault(here: Profile, there: Profile) -> tuple[str, Fault] | None:
    """The feature in which two datasets differ, and how."""
    for feature in (OBS_STATE, ACTION):
        mine, others = here.traits.ranges.get(feature), there.traits.ranges.get(feature)
        if mine is None or others is None or len(mine.low) != len(others.low):
            continue
        joints = here.joints(feature)
        if len(joints.names) == len(mine.low):
            found = fault_between(mine, others, joints.arm, joints.grippers, joints.names)
            if found is not None:
                return feature, found
    return None


def _range_text(here: Profile, there: Profile, feature: str, fault: Fault) -> str:
    names = here.joints(feature).names
    mine, others = here.traits.ranges[feature], there.traits.ranges[feature]
    place = fault.joints[0]
    text = (
        f"{names[place]} ({feature}) goes from {mine.least[place]:.4g} to {mine.most[place]:.4g}, that of {there.who} "
        f"from {others.least[place]:.4g} to {others.most[place]:.4g}"
    )
    if more := [names[item] for item in fault.joints[1:]]:
        text += f"; so it is with {_listed(more)}"
    return f"{text}: {fault.what}?"


def _recordings(profiles: Sequence[Profile]) -> Iterator[DataFinding]:
    """The same recordings in two datasets, or twice in one."""
    known = [(item, item.traits.rows) for item in profiles if item.traits.rows is not None]
    for place, (item, rows) in enumerate(known):
        if twice := repeated_episodes(rows):
            seen = f"{len(twice)} episodes are there twice ({_pairs(twice)})"
            remedy = "remove them (`lerobot-edit-dataset`): a held-out one among them would have been trained on"
            yield item.warning("same recordings", seen, remedy)
        for other, theirs in known[:place]:
            if same := shared_episodes(rows, theirs):
                total = len(set(rows.episodes))
                seen = f"{len(same)} of {total} episodes are recordings of {other.who}, too"
                seen += f" (here = there: {_pairs(same)})"
                yield item.warning("same recordings", seen, _remedy(item, other))


def _remedy(item: Profile, other: Profile) -> str:
    if item.is_client and other.is_client:
        return "leave one of the two out: what one holds out the other trains on, and they count twice in the average"
    if item.is_client or other.is_client:
        return "evaluate on recordings that no client has: these say nothing of what is unseen"
    return "leave one of the two out"


def _pairs(same: Mapping[int, int]) -> str:
    return _listed([f"{mine} = {theirs}" for mine, theirs in sorted(same.items())])


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more

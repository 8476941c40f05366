"""rename_map: which feature may take which name, and which one a policy may be given for one that it lacks."""

import difflib
from collections.abc import Iterable, Mapping

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_IMAGES, OBS_STATE

OBSERVATION = "observation."
"""How a feature's name begins that LeRobot renames and gives a policy; it passes over all others."""
VISUAL, STATE = "a camera", "a state"
"""What an observation may be."""


def kind_of(feature: FeatureType) -> str:
    """In words: states and an environment's states are the same to a rename."""
    return VISUAL if feature is FeatureType.VISUAL else STATE


def wrong_rename(renames: Mapping[str, str], given: Mapping[str, str], config: PreTrainedConfig) -> str | None:
    """What is wrong with a rename_map, and what to do; None where nothing is.

    Args:
        renames: feature -> policy feature.
        given: feature of a dataset or environment -> what it is: VISUAL, STATE or something else.
        config: LeRobot's config of the policy.
    """
    inputs = {key: kind_of(value.type) for key, value in (config.input_features or {}).items()}
    for source, target in sorted(renames.items()):
        if source == target:
            continue
        if source not in given:
            close = difflib.get_close_matches(source, given, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            return f"rename_map names {source!r}{hint}, but it has {_listed(given)}; correct the name, or leave it out"
        if why := _not_taken(source, target):
            return why
        kind, wanted = given[source], inputs.get(target) or _kind_by_name(target)
        if wanted is not None and kind != wanted:
            return f"rename_map gives {source!r}, {kind}, the name {target!r}, which is {wanted}'s; " + _instead(
                target, wanted, {key: value for key, value in renames.items() if key != source}, given, inputs
            )
    return _doubled(renames, given, inputs)


def proposal(wanted: str, renames: Mapping[str, str], given: Mapping[str, str], config: PreTrainedConfig) -> str:
    """What to map to a feature that a policy needs and is not given.

    Args:
        wanted: the policy's feature.
        renames: as for `wrong_rename`.
        given: as for `wrong_rename`.
        config: LeRobot's config of the policy.
    """
    inputs = {key: kind_of(value.type) for key, value in (config.input_features or {}).items()}
    return _instead(wanted, inputs[wanted], renames, given, inputs)


def _not_taken(source: str, target: str) -> str | None:
    """What LeRobot would pass over in silence."""
    pair = f"rename_map maps {source!r} to {target!r}"
    if ACTION in (source, target) or source.startswith(f"{ACTION}s"):
        return (
            f"{pair}, and LeRobot renames observations alone, no actions; leave it out, and call the dataset's own "
            f"feature {ACTION!r}"
        )
    if not target.startswith(OBSERVATION):
        close = f"{OBS_IMAGES}.{target}" if "." not in target else f"{OBSERVATION}{target}"
        return f"{pair}, and a policy's inputs begin with {OBSERVATION!r}; write a name such as {close!r}"
    if not source.startswith(OBSERVATION):
        return (
            f"{pair}, and LeRobot passes over features of a dataset that do not begin with {OBSERVATION!r}, whatever "
            f"rename_map says; record it again under the name {target!r}, or convert it, and leave this out"
        )
    return None


def _doubled(renames: Mapping[str, str], given: Mapping[str, str], inputs: Mapping[str, str]) -> str | None:
    """Two features under one name, of which LeRobot keeps whichever comes last."""
    by_name: dict[str, list[str]] = {}
    for source in given:
        by_name.setdefault(renames.get(source, source), []).append(source)
    for target, sources in sorted(by_name.items()):
        if len(sources) > 1:
            others = {renames.get(key, key) for key in given if key not in sources}
            free = [key for key, kind in inputs.items() if kind == given[sources[0]] and key not in {*others, target}]
            remedy = f"give one of them another name, such as {free[0]!r}" if free else "leave one of them out"
            if target in sources and not free:
                remedy = f"leave it out of rename_map, or rename {target!r} too"
            return (
                f"rename_map gives {' and '.join(map(repr, sources))} the same name {target!r}, and one would be lost; "
                f"{remedy}"
            )
    return None


def _kind_by_name(name: str) -> str | None:
    if name.startswith(OBS_IMAGES) or name == OBS_IMAGES.removesuffix("s"):
        return VISUAL
    return STATE if name in (OBS_STATE, OBS_ENV_STATE) else None


def _instead(
    wanted: str, kind: str, renames: Mapping[str, str], given: Mapping[str, str], inputs: Mapping[str, str]
) -> str:
    """A feature of the right kind that the policy does not use yet."""
    spare = [
        key
        for key, value in given.items()
        if value == kind and key.startswith(OBSERVATION) and renames.get(key, key) not in inputs and key not in renames
    ]
    if spare:
        last = {key.rpartition(".")[2]: key for key in reversed(spare)}
        near = difflib.get_close_matches(wanted.rpartition(".")[2], last, n=1)
        chosen = last[near[0]] if near else spare[0]
        return f"map {kind} to it by rename_map, such as {{{chosen!r} = {wanted!r}}}, or choose another base"
    other = sorted(key for key, value in given.items() if value == kind and not key.startswith(OBSERVATION))
    if other:
        return (
            f"{other[0]!r} is {kind}, and LeRobot gives a policy what begins with {OBSERVATION!r} alone: record it "
            f"again under the name {wanted!r}, or convert it"
        )
    return f"there is no other {kind.removeprefix('a ')} to map to it: record one, or choose a base that needs none"


def _listed(given: Iterable[str]) -> str:
    return ", ".join(sorted(key for key in given if key.startswith((OBSERVATION, ACTION)))) or ", ".join(sorted(given))

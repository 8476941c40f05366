"""policy.overrides: fields of LeRobot's policy config, read by its own types before anything is built."""

import dataclasses
import difflib
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_type_hints

import draccus
from lerobot.configs.policies import PreTrainedConfig

from zk0.errors import PolicyError

ELSEWHERE = {
    "device": "policy.device says it",
    "pretrained_path": "policy.path says it",
    "pretrained_revision": "policy.revision says it",
    "use_peft": "peft.enabled says it",
    "push_to_hub": "zk0 pushes nothing, the final policy is a folder that you can push",
    "output_features": "LeRobot takes them from the dataset",
}
"""Fields that a run sets by other means."""


def decoded(overrides: dict[str, Any], config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    """The overrides as values of the config's types, as LeRobot reads them from its command line.

    Raises:
        PolicyError: no such field, one that is set elsewhere, or a value that does not fit it.
    """
    hints = get_type_hints(config_class)
    fields = {field.name: field.default for field in dataclasses.fields(config_class) if field.init}
    for key, value in overrides.items():
        named = f"policy.overrides.{key} = {value!r}"
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise PolicyError(
                f"{named}: {config_class.__name__} has no such field{hint}; it has {', '.join(sorted(fields))}"
            )
        if key == "use_amp" and "use_amp" not in config_class.__annotations__:
            raise PolicyError(f"{named}: nobody reads it; set training.amp = 'bf16' or 'fp16', and leave it out")
        if key in ELSEWHERE:
            raise PolicyError(f"{named}: {ELSEWHERE[key]}; leave it out")
    read = {}
    for key, value in overrides.items():
        # LeRobot's defaults are not all of the type that they are declared with.
        as_default = type(value) is type(fields[key]) and (value is None or isinstance(value, bool))
        read[key] = value if as_default else _value(key, value, hints[key], config_class.__name__)
    return read


def refused_by_policy(named: str, overrides: dict[str, Any], error: Exception) -> PolicyError:
    """What a policy's config says against values that are each of the right type; `named` where there are none."""
    said = " ".join(str(error).split()) or type(error).__name__
    guilty = {key: value for key, value in overrides.items() if key in said} or overrides
    values = ", ".join(f"policy.overrides.{key} = {value!r}" for key, value in guilty.items())
    return PolicyError(f"{values or named}: the policy refuses it ({said}); correct or remove it")


def null_misfits(value: Any, hint: Any) -> bool:
    """Whether a value is null where the type of its field takes none."""
    return value is None and hint is not Any and NoneType not in (get_args(hint) or (hint,))


def _value(key: str, value: Any, hint: Any, owner: str) -> Any:
    kinds = get_args(hint) or (hint,)
    why = ""
    if hint is not Any and not (NoneType in kinds if value is None else _may_be(value, kinds)):
        why = "it is null" if value is None else f"it is {type(value).__name__}"
    elif value is None:
        return None
    else:
        try:
            return draccus.decode(hint, value)
        except Exception as error:  # noqa: BLE001 - draccus hands on whatever its decoders raise
            why = " ".join(str(error).split())
    raise PolicyError(f"policy.overrides.{key} = {value!r}: does not fit ({why}); {owner}.{key} is {_words(hint)}")


def _may_be(value: Any, kinds: tuple[Any, ...]) -> bool:
    """Whether draccus may read it: it would take true as 1, and any number as text."""
    if isinstance(value, bool):
        return bool in kinds or Any in kinds
    return not (isinstance(value, int | float) and set(kinds) <= {str, NoneType})


def _words(hint: Any) -> str:
    """A type as it is written, with the names that an enumeration has."""
    names = [f"{item.__name__}: {', '.join(item.__members__)}" for item in _enums(hint)]
    text = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
    return text.replace("NoneType", "null").replace("None", "null") + (f" ({'; '.join(names)})" if names else "")


def _enums(hint: Any) -> list[type[Enum]]:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [hint]
    return [found for part in get_args(hint) for found in _enums(part)]

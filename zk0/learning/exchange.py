"""The tensors that travel, read from a policy and put into it: those that a fit changes, and no others that are known.

Without adapters these are the trained parameters and, named by `carried.MARK`, the policy's state beside them: every
buffer that its author has it save (means and counts of batch normalisation, codes, flags), and its frozen parameters
where it has an `update` of its own, which LeRobot calls after each step (a target network). What a policy saves as a
buffer and never changes, such as a mask, travels for nothing: nothing tells it from a flag that turns after 20,000
steps, so to look which of them some steps change would not do. With adapters they are what PEFT saves, as
`lerobot-train --peft` does: adapters and `modules_to_save`, whose buffers are named in the same manner.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

from zk0.aggregation.carried import MARK, is_state, unsent
from zk0.config import RunConfig
from zk0.errors import PolicyError
from zk0.learning.policy import Policy


def exchanged_tensors(policy: Policy) -> dict[str, NDArray[Any]]:
    """The tensors that travel, by name; floats as fp32, which holds those that are shorter, the others as they are."""
    tensors = _exchanged(policy)
    return {name: _plain(tensors[name]) for name in sorted(tensors)}


def exchanged_bytes(policy: Policy) -> int:
    """How large one set of them is."""
    return sum(value.numel() * (4 if _short(value) else value.element_size()) for value in _exchanged(policy).values())


def update_tensors(policy: Policy, config: RunConfig, known: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Those of the exchanged tensors that a client sends after a fit; see `carried.unsent`.

    Args:
        policy: after the fit.
        config: the run's.
        known: names of the global tensors, where some may be missing: those of a run that an earlier zk0 began.
    """
    tensors = exchanged_tensors(policy)
    names = (tensors.keys() if known is None else tensors.keys() & known) - unsent(tensors, config)
    return {name: value for name, value in tensors.items() if name in names}


def load_exchanged_tensors(policy: Policy, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Put the global tensors into the policy, by name.

    Raises:
        PolicyError: a name or shape that the policy does not have: the tensors belong to another config.
    """
    own = exchanged_tensors(policy)
    late = {name for name in own.keys() - tensors.keys() if is_state(name)}  # an earlier zk0 left them with the base
    if odd := sorted(own.keys() ^ tensors.keys() ^ late):
        raise PolicyError(f"the global tensors do not fit the policy: {odd[0]!r} (and {len(odd) - 1} more) on one side")
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            raise PolicyError(f"the global tensor {name!r} has shape {value.shape}, the policy's {own[name].shape}")
    state = {name.removeprefix(MARK): torch.from_numpy(np.array(value, order="C")) for name, value in tensors.items()}
    if isinstance(policy, PeftModel):
        set_peft_model_state_dict(policy, state)
    else:
        policy.load_state_dict(state, strict=False)


def stays_behind(policy: Policy, config: RunConfig, before: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of what learning changes in a policy and no client sends.

    Args:
        policy: which has just had a batch to learn from.
        config: the run's.
        before: copies of its buffers before that.
    """
    now = dict(policy.named_buffers())
    changed = {name: now[name] for name, old in before.items() if name in now and not _same(old, now[name])}
    changed |= _moved_by_update(policy)
    exchanged = _exchanged(policy)
    stay = unsent(exchanged, config)
    sent = {value.data_ptr() for name, value in exchanged.items() if name not in stay}
    saved = policy.state_dict().keys()
    return [name for name, value in changed.items() if name in saved and value.data_ptr() not in sent]


def _exchanged(policy: Policy) -> dict[str, torch.Tensor]:
    if isinstance(policy, PeftModel):
        buffers = {value.data_ptr() for value in policy.buffers() if value.numel()}
        found: dict[str, torch.Tensor] = get_peft_model_state_dict(policy)
        return {f"{MARK}{name}" if value.data_ptr() in buffers else name: value for name, value in found.items()}
    trained = {name: value for name, value in policy.named_parameters() if value.requires_grad}
    saved = policy.state_dict().keys()
    beside = {**dict(policy.named_buffers()), **_moved_by_update(policy)}
    carried = {name: value for name, value in beside.items() if name in saved and value.numel()}
    return trained | {f"{MARK}{name}": value for name, value in carried.items() if not value.is_complex()}


def _moved_by_update(policy: Policy) -> dict[str, torch.Tensor]:
    """Frozen parameters of a policy that LeRobot has move them after each step: a slower copy of the others."""
    if not callable(getattr(policy, "update", None)):
        return {}
    return {name: value for name, value in policy.named_parameters() if not value.requires_grad}


def _plain(value: torch.Tensor) -> NDArray[Any]:
    value = value.detach().to("cpu", torch.float32 if _short(value) else value.dtype)
    return value.numpy().copy()


def _short(value: torch.Tensor) -> bool:
    return value.is_floating_point() and value.element_size() <= torch.float32.itemsize


def _same(old: torch.Tensor, new: torch.Tensor) -> bool:
    return old.shape == new.shape and torch.allclose(old.double(), new.double(), rtol=0, atol=0, equal_nan=True)

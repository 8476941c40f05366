"""The tensors that travel: read from a policy and put into it."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

from zk0.aggregation import lora
from zk0.config import PeftConfig
from zk0.errors import PolicyError
from zk0.learning.policy import Policy


def exchanged_tensors(policy: Policy) -> dict[str, NDArray[Any]]:
    """The tensors that travel, by name, as fp32: adapters and `modules_to_save`, or all trainable parameters."""
    tensors = _exchanged(policy)
    return {name: tensors[name].detach().to("cpu", torch.float32).numpy().copy() for name in sorted(tensors)}


def exchanged_bytes(policy: Policy) -> int:
    """How large one set of them is."""
    return sum(value.numel() * torch.float32.itemsize for value in _exchanged(policy).values())


def update_tensors(policy: Policy, peft: PeftConfig) -> dict[str, NDArray[Any]]:
    """Those of the exchanged tensors that a fit changes and sends: all of them, but for FFA-LoRA's frozen A."""
    tensors = exchanged_tensors(policy)
    return {name: value for name, value in tensors.items() if peft.aggregation != "ffa" or not lora.is_factor_a(name)}


def load_exchanged_tensors(policy: Policy, tensors: dict[str, NDArray[Any]]) -> None:
    """Put the global tensors into the policy, by name.

    Raises:
        PolicyError: a name or shape that the policy does not have: the tensors belong to another config.
    """
    own = exchanged_tensors(policy)
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())
        raise PolicyError(f"the global tensors do not fit the policy: {odd[0]!r} (and {len(odd) - 1} more) on one side")
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            raise PolicyError(f"the global tensor {name!r} has shape {value.shape}, the policy's {own[name].shape}")
    state = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}
    if isinstance(policy, PeftModel):
        set_peft_model_state_dict(policy, state)
    else:
        policy.load_state_dict(state, strict=False)


def _exchanged(policy: Policy) -> dict[str, torch.Tensor]:
    if isinstance(policy, PeftModel):
        found: dict[str, torch.Tensor] = get_peft_model_state_dict(policy)
        return found
    return {name: value for name, value in policy.named_parameters() if value.requires_grad}

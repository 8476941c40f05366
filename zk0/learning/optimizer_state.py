"""An optimizer's state as named tensors: for a fit's checkpoint, and for a client's next fit, if it keeps its moments.

A name is `<index of the parameter>.<entry>`, such as `12.exp_avg`; indices are those of `Optimizer.state_dict`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch.optim import Optimizer

from zk0.errors import PolicyError
from zk0.files.tensors import DTYPES


def entries(optimizer: Optimizer) -> dict[str, Any]:
    """The state by name: tensors, such as AdamW's moments, and all else."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {f"{index}.{entry}": value for index, own in state.items() for entry, value in own.items()}


def restore(optimizer: Optimizer, named: Mapping[str, Any], groups: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Put a state into an optimizer over the same parameters.

    Args:
        optimizer: over parameters of the policy.
        named: what `entries` gave.
        groups: options of its parameter groups, as JSON has them; None for those that it has.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in named.items():
        index, entry = name.split(".", 1)
        state.setdefault(int(index), {})[entry] = _laid_out_as(parameters[int(index)], value)
    own = optimizer.state_dict()["param_groups"]
    if groups is not None:
        own = [
            # JSON has no tuples, and AdamW's betas are one.
            {key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()}
            | {"params": group["params"]}
            for saved, group in zip(groups, own, strict=True)
        ]
    optimizer.load_state_dict({"state": state, "param_groups": own})


def to_arrays(optimizer: Optimizer) -> dict[str, NDArray[Any]]:
    """The state for a safetensors file; what numpy lacks (bfloat16) as float32, which holds each of its values.

    Raises:
        PolicyError: it is not made of tensors alone.
    """
    found = {name: value for name, value in entries(optimizer).items() if value is not None}
    if odd := sorted(name for name, value in found.items() if not isinstance(value, torch.Tensor)):
        raise PolicyError(
            f"training.optimizer_state = 'keep': {type(optimizer).__name__} keeps {odd[0]!r}, which is no tensor and "
            "cannot be stored; use 'fresh'"
        )
    return {name: _plain(value.detach().cpu()).numpy() for name, value in sorted(found.items())}


def from_arrays(optimizer: Optimizer, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Let an optimizer go on from the state that `to_arrays` gave; its learning rate and options stay its own."""
    restore(optimizer, {name: torch.from_numpy(value) for name, value in arrays.items()})


def _plain(value: torch.Tensor) -> torch.Tensor:
    known = str(value.dtype).removeprefix("torch.") in DTYPES
    return value.contiguous() if known else value.to(torch.float32).contiguous()


def _laid_out_as(parameter: torch.Tensor, value: Any) -> Any:
    """A copy in memory of its own (the file's is mapped), in the order of the parameter's where both have one shape."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype, device="cpu", requires_grad=False).copy_(value)

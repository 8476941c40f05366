"""The type of the policy that a run asks for, read from its base without importing anything of it."""

import json

from huggingface_hub import hf_hub_download
from huggingface_hub.constants import CONFIG_NAME

from zk0.config import PolicyConfig, resolve_path
from zk0.data.hub import HUB_ERRORS, patiently
from zk0.errors import PolicyError, first_line
from zk0.files import untrusted


def policy_type(policy: PolicyConfig) -> str:
    """LeRobot's type of a policy, such as `smolvla`.

    Args:
        policy: as the run has it.

    Raises:
        PolicyError: the base is not here and cannot be fetched, or does not say its type.
    """
    if policy.path is None:
        return str(policy.type)
    folder = resolve_path(policy.path)
    try:
        if folder.is_dir():
            content = untrusted.read(folder / CONFIG_NAME)
        else:
            fetched = patiently(
                lambda: hf_hub_download(str(policy.path), CONFIG_NAME, revision=policy.revision), str(policy.path)
            )
            content = resolve_path(fetched).read_bytes()
        return str(json.loads(content)["type"])
    except (*HUB_ERRORS, OSError, ValueError, KeyError, TypeError) as error:
        raise PolicyError(
            f"policy.path = {policy.path!r}: its type cannot be told ({first_line(error)}); put the base where the run "
            "names it, or see whether the hub can be reached"
        ) from error

"""The model card: what was trained on what, how well it does, how it is made again, and under which licences."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from zk0.data.hub import is_hub_id
from zk0.metrics.values import Json, mapping
from zk0.report.markdown import outcome
from zk0.runs.store import RunStore

PRIVATE = ("root", "outputs_dir")
"""Keys of a config that name places on this machine."""
HIDDEN = "on its owner's machine"


def shared_config(value: Any) -> Any:
    """A config without the places on this machine that it names."""
    if isinstance(value, Mapping):
        return {key: shared_config(item) for key, item in value.items() if key not in PRIVATE}
    if isinstance(value, list):
        return [shared_config(item) for item in value]
    return HIDDEN if isinstance(value, str) and value.startswith("/") else value


def card(store: RunStore, rounds: Sequence[Json], number: int, repo: str, *, merged: bool, licence: str | None) -> str:
    """The card of a round's policy, as the README.md of a repository.

    Args:
        store: the run.
        rounds: lines of metrics.jsonl.
        number: the round.
        repo: the repository's id.
        merged: whether the adapters are merged into the weights.
        licence: of the policy, as the hub spells it; None where the owner does not say.
    """
    config = store.config
    path = config.policy.path or ""
    public = [dataset.repo_id for dataset in config.clients if dataset.root is None]
    data = ModelCardData(
        license=licence,
        library_name="lerobot",
        tags=["robotics", "lerobot", "federated-learning", "zk0"],
        pipeline_tag="robotics",
        base_model=path if is_hub_id(path) and "/" in path else None,
        base_model_relation="finetune" if merged or not config.peft.enabled else "adapter",
        datasets=public or None,
    )
    body = "\n".join(_body(store, rounds, number, repo, merged=merged, licence=licence))
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


def _body(
    store: RunStore, rounds: Sequence[Json], number: int, repo: str, *, merged: bool, licence: str | None
) -> Iterator[str]:
    config, name = store.config, store.info.name
    what = "adapters merged into the weights" if merged else "adapters" if config.peft.enabled else "all weights"
    yield f"# {repo.rpartition('/')[2]}"
    yield ""
    yield f"A robot policy that {len(config.clients)} owners of recordings trained together with zk0: round {number} of"
    yield f"{config.federation.num_rounds} of the run `{name}`, {what}. No recording left its owner."
    yield ""
    yield "## How well it does"
    yield ""
    yield from outcome(store, [line for line in rounds if int(line["server_round"]) <= number])
    yield ""
    yield "A smaller error on recordings is not yet a better robot: try it on yours with care."
    yield ""
    yield "## What it was trained on"
    yield ""
    yield "| client | data | revision | SHA-256 of its files |"
    yield "|---|---|---|---|"
    for dataset in config.clients:
        where = f"`{dataset.repo_id}`" if dataset.root is None else f"recordings {HIDDEN}"
        digest = store.info.data.get(dataset.name, "-")
        yield f"| {dataset.name} | {where} | {dataset.revision or '-'} | {digest} |"
    yield ""
    base = shared_config(config.policy.path or config.policy.type)
    yield f"Base: `{base}`. Strategy: `{config.federation.strategy}`."
    yield ""
    yield "## Licences"
    yield ""
    yield f"This policy: {licence or 'its owner has not said'}. The base and the recordings have their own: see there."
    yield ""
    yield "## How to use it, and how to make it again"
    yield ""
    yield "```"
    yield f"lerobot-rollout --policy.path={repo} ..."
    yield "zk0 run config.toml        # zk0/config.json of this repository says what it must hold"
    yield "```"
    yield ""
    versions = ", ".join(f"{package} {version}" for package, version in store.info.versions.items())
    yield f"Made with {versions}; seed {store.info.seed}; digest of the config `{store.info.config_digest}`."
    failures = [item for line in rounds for item in mapping(line).get("failures") or ()]
    if failures:
        yield f"In {len(failures)} cases a client gave nothing to a round; `zk0/metrics.jsonl` names them."

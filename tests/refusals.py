"""What must hold of every bad input: both commands refuse it in the same words, with exit 2, and nothing is written."""

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from rich.console import Console

import zk0
from zk0 import cli
from zk0.errors import BadInputError, Zk0Error


def refused(
    config: Mapping[str, Any] | Path, *words: str, overrides: Iterable[str] = (), by_data_check: bool = True
) -> str:
    """`zk0 check-data` and a run refuse a config, and both say all the words; gives what they said.

    Both are called in this process: its fork server is warm, so that a case costs a second or two.

    Args:
        config: a run's config, or a TOML file.
        words: regular expressions, each to be found in both messages.
        overrides: as `--set`.
        by_data_check: False for what is no matter of the data, so that `check-data` need not find it.
    """
    wanted = zk0.load_config(config, overrides) if isinstance(config, Path) else dict(config)
    outputs = Path(wanted.outputs_dir if isinstance(wanted, zk0.RunConfig) else str(wanted["outputs_dir"]))
    roots = _roots(wanted.model_dump() if isinstance(wanted, zk0.RunConfig) else wanted)
    before = {root: tree(root) for root in roots}
    with pytest.raises(BadInputError) as by_run:
        zk0.run(config, overrides=overrides, name="refused")
    said = [_plain(str(by_run.value))]
    if by_data_check:
        said.append(_plain(checked(config, overrides)))
    for text in said:
        for word in words:
            assert re.search(word, text), f"{word!r} is not in: {text}"
    assert not list(outputs.glob("*")) if outputs.exists() else True, "something of a run was left"
    assert {root: tree(root) for root in roots} == before, "a dataset was written to"
    return "\n".join(said)


def checked(config: Mapping[str, Any] | Path, overrides: Iterable[str] = (), *options: str) -> str:
    """What `zk0 check-data` prints of a config and fails with (exit 2); without any error the test fails."""
    said: list[str] = []
    with pytest.raises(Zk0Error) as error:
        _check_data(config, overrides, options, said.append)
    assert error.value.exit_code == 2
    return f"{' '.join(said)}\n{error.value}"


def accepted(config: Mapping[str, Any] | Path, overrides: Iterable[str] = (), *options: str) -> str:
    """What `zk0 check-data` prints of a config that it accepts."""
    said: list[str] = []
    _check_data(config, overrides, options, said.append)
    return " ".join(said)


def _check_data(
    config: Mapping[str, Any] | Path, overrides: Iterable[str], options: Iterable[str], say: Callable[[str], None]
) -> None:
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "console", Console(file=output, width=1000))
        words = ["check-data", str(_file(config)), *(f"--set={item}" for item in overrides), *options]
        try:
            cli.app(words, standalone_mode=False)
        finally:
            say(output.getvalue())


def tree(root: Path) -> dict[str, str]:
    """File -> SHA-256 of everything below a folder."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _file(config: Mapping[str, Any] | Path) -> Path:
    if isinstance(config, Path):
        return config
    folder = Path(str(config["outputs_dir"])).parent
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "refused.toml"
    path.write_text(tomli_w.dumps(_without_none(dict(config))))
    return path


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value


def _roots(config: Mapping[str, Any]) -> list[Path]:
    datasets = [*config.get("clients", ()), *(config.get("evaluation") or {}).get("datasets", ())]
    return [Path(item["root"]) for item in datasets if item.get("root") and Path(item["root"]).is_dir()]


def _plain(text: str) -> str:
    """One line, as tables and messages break theirs differently."""
    return " ".join(text.split())

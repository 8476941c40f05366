"""What `import zk0` hands to users, and what it costs."""

import inspect
import subprocess
import sys
import typing

import pytest

import zk0

PUBLIC = {"LoadedPolicy", "Run", "RunConfig", "Zk0Error", "__version__", "load_config", "open_run", "run"}
OF_A_RUN = {"absent", "config", "export", "final", "finished", "metrics", "name", "path", "policy", "rounds"}


def test_the_names_are_these_and_no_others() -> None:
    assert set(zk0.__all__) == set(dir(zk0)) == PUBLIC
    for name in PUBLIC:
        assert getattr(zk0, name) is not None
    with pytest.raises(AttributeError, match="'zk0' has no attribute 'train'"):
        zk0.train  # noqa: B018


def test_a_run_has_these_and_no_others() -> None:
    assert {name for name in vars(zk0.Run) if not name.startswith("_")} == OF_A_RUN


@pytest.mark.parametrize("name", ["run", "open_run", "load_config"])
def test_functions_are_documented_and_typed(name: str) -> None:
    function = getattr(zk0, name)
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    assert "Raises:" in text
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        assert f"{parameter.name}:" in text or len(signature.parameters) == 1
    assert signature.return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("name", sorted(OF_A_RUN))
def test_what_a_run_has_is_documented(name: str) -> None:
    assert inspect.getdoc(inspect.getattr_static(zk0.Run, name))


def test_a_loaded_policy_says_what_it_holds() -> None:
    assert typing.cast(typing.Any, zk0.LoadedPolicy)._fields == ("policy", "preprocessor", "postprocessor")


@pytest.mark.parametrize("code", ["import zk0", "import zk0; zk0.run, zk0.open_run, zk0.RunConfig"])
def test_the_import_is_light(code: str) -> None:
    heavy = {"torch", "lerobot", "flwr", "prefect", "matplotlib", "docker", "scipy"}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sorted({heavy!r} & sys.modules.keys()))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""

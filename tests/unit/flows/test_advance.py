"""flows.advance: whose word a flow run's name is, and what its parameters mean."""

import re

import pytest
from prefect.utilities.names import generate_slug

from flows.advance import FILLED_IN, run_name, settings
from zk0.config import load_config
from zk0.config.part import NAME_PATTERN


def test_a_name_that_prefect_invented_names_no_run() -> None:
    assert {run_name(generate_slug(2)) for _ in range(1000)} == {None}


def test_what_the_form_fills_in_may_be_meant() -> None:
    """As Prefect's pages made them."""
    made = ["kappa4-kraepelin", "delta945-tolfalas", "pi2-skat-quadrant", "nu2-solosos-b", "alpha-centauri", "sigma7"]
    assert [run_name(name) for name in made] == made
    assert all(FILLED_IN.fullmatch(name) for name in made)
    assert not any(FILLED_IN.fullmatch(name) for name in ("anna-s-try", "alphabet", "pi2-lr1e-3", "beta_2"))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("killed", "killed"),
        ("my-run", "my-run"),
        ("Anna's first try", "anna-s-first-try"),
        (" --v2.1_b-- ", "v2.1_b"),
        ("_x", "x"),
        ("???", None),
        ("x" * 80, "x" * 63),
    ],
)
def test_a_persons_name_is_the_runs(given: str, name: str | None) -> None:
    assert run_name(given) == name
    if name is not None:
        assert re.fullmatch(NAME_PATTERN, name)


def test_own_overrides_lose_neither_folder_nor_origin() -> None:
    config = load_config("sim", [*settings("latest", "/data/my runs"), "training.steps=3"])
    assert (config.outputs_dir, config.continue_from, config.training.steps) == ("/data/my runs", "latest", 3)
    assert load_config("sim", settings("", None)) == load_config("sim")

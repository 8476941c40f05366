"""A flow whose server has forgotten it."""

import pytest
from prefect.exceptions import ObjectNotFound

from flows import patience
from flows.patience import MOST_DATABASES, again
from zk0.errors import Zk0Error


@pytest.fixture(autouse=True)
def _there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "answers", lambda _url: True)


def test_a_flow_that_the_server_has_forgotten_begins_anew() -> None:
    begun: list[str] = []

    def flow(run_dir: str) -> str:
        begun.append(run_dir)
        if len(begun) < 3:
            raise ObjectNotFound(http_exc=ValueError("404"))
        return "final"

    assert again(flow, lambda: False)("outputs/demo") == "final"
    assert begun == ["outputs/demo"] * 3


def test_it_does_not_begin_anew_for_ever() -> None:
    begun: list[int] = []

    def flow() -> None:
        begun.append(1)
        raise ObjectNotFound(http_exc=ValueError("404"))

    with pytest.raises(Zk0Error, match=f"has forgotten this run {MOST_DATABASES} times"):
        again(flow, lambda: False)()
    assert len(begun) == MOST_DATABASES


def test_a_flow_run_that_a_person_deleted_does_not_begin_anew() -> None:
    begun: list[int] = []

    def flow() -> None:
        begun.append(1)
        raise ObjectNotFound(http_exc=ValueError("404"))

    with pytest.raises(ObjectNotFound):
        again(flow, lambda: True)()
    assert begun == [1]


def test_another_fault_is_not_its_business() -> None:
    def flow() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        again(flow, lambda: False)()

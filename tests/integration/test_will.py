"""What a person does to a run ends its work at once, and nothing automatic takes the run up again."""

import time
from collections.abc import Iterator
from functools import partial

import pytest

from benchmarks.acts.left import QUIET_S, Left, under_way, will
from benchmarks.service import ServedCommandLine, state_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedCommandLine]:
    service = ServedCommandLine(tmp_path_factory.mktemp("will"))
    service.serve()
    service.until(lambda: any("worker" in process.cmdline() for process in service.processes()), 120)
    time.sleep(5)
    yield service
    service.close()


@pytest.fixture
def left(served: ServedCommandLine) -> Left:
    return Left(served)


@pytest.fixture
def config(served: ServedCommandLine) -> str:
    return str(served.config(training__steps=3000))


def ended_by(served: ServedCommandLine, run: str, what: str) -> bool:
    return will(served, run) == what


def ended(left: Left, act: str) -> None:
    came = left.ended(act)
    assert came.in_time, came


def test_a_cancelled_run_ends_and_only_a_retry_goes_on_with_it(
    served: ServedCommandLine, left: Left, config: str
) -> None:
    flow_run = served.start_nightly(config=config, name="Anna's first try")
    under_way(served, "anna-s-first-try")
    assert served.flow_run(flow_run)["name"] == "Anna's first try"
    served.cancel(flow_run)
    ended(left, "cancel")
    served.until(lambda: state_of(served.flow_run(flow_run)) == "Cancelled", 30)
    assert will(served, "anna-s-first-try") == "cancelled"
    assert "cancelled by Prefect at" in served.run("status", "anna-s-first-try")

    # As an earlier version made it; that parameter is gone.
    served.change(flow_run, parameters={"config": config, "overrides": [], "name": None})
    served.retry(flow_run)
    served.until(lambda: will(served, "anna-s-first-try") is None, 120)
    served.cancel(flow_run)
    ended(left, "cancel after a retry")
    assert left.comes_back() == []
    assert will(served, "anna-s-first-try") == "cancelled"
    assert state_of(served.flow_run(flow_run)) == "Cancelled"


def test_a_suspended_run_waits_for_its_resume_and_a_deleted_one_for_ever(
    served: ServedCommandLine, left: Left, config: str
) -> None:
    """Its place was free at once; it is another run than the cancelled one, whose config it has."""
    flow_run = served.start_nightly(config=config)
    served.until(lambda: list(served.outputs.glob("config-*/run.json")), 120)
    (name,) = (path.parent.name for path in served.outputs.glob("config-*/run.json"))
    under_way(served, name)
    assert served.flow_run(flow_run)["name"] == name
    served.suspend(flow_run)
    ended(left, "suspend")
    assert will(served, name) == "suspended"
    state = served.flow_run(flow_run)["state"]
    assert state["name"] == "Suspended"
    assert state["state_details"]["pause_timeout"] > "2030", "else Prefect fails it after five minutes"

    served.resume(flow_run)
    print(f"resume: {served.until(lambda: will(served, name) is None, 120):.1f} s")
    served.delete(flow_run)
    ended(left, "delete")
    assert left.comes_back() == []
    assert will(served, name) == "deleted"


def test_a_cancel_finds_what_a_killed_flow_left_at_work(served: ServedCommandLine, left: Left, config: str) -> None:
    """Its clients train on, to be adopted by the next process of the flow run, which has no lock yet."""
    flow_run = served.start_nightly(config=config, name="orphaned")
    under_way(served, "orphaned")
    process = served.flow_process()
    assert process is not None
    process.kill()
    served.until(lambda: state_of(served.flow_run(flow_run)) not in ("Running", "Crashed"), 120)
    served.cancel(flow_run)
    ended(left, "cancel of a run whose flow was killed")
    assert will(served, "orphaned") == "cancelled"
    assert left.comes_back() == []


@pytest.mark.exhaustive
def test_one_at_a_time_and_who_is_killed_goes_first(served: ServedCommandLine, left: Left, config: str) -> None:
    def begun(name: str) -> bool:
        return (served.outputs / name / "run.json").exists()

    flow_runs = {"one": served.start_nightly(config=config, name="one")}
    under_way(served, "one")
    flow_runs["two"] = served.start_nightly(config=config, name="two")
    served.until(lambda: state_of(served.flow_run(flow_runs["two"])) == "AwaitingConcurrencySlot", 60)
    process = served.flow_process()
    assert process is not None
    process.kill()
    lock = served.outputs / "one" / "run.lock"
    before = lock.read_text()
    seconds = served.until(lambda: lock.read_text() not in ("", before), 240)
    print(f"killed with another in the queue: back after {seconds:.1f} s")
    assert not begun("two")

    # After a cancel Prefect's own count is wrong for minutes: two more would be let in.
    for name, following in (("one", "two"), ("two", "three")):
        if following not in flow_runs:
            flow_runs[following] = served.start_nightly(config=config, name=following)
        served.cancel(flow_runs[name])
        served.until(partial(ended_by, served, name, "cancelled"), 60)
        seconds = under_way(served, following)
        print(f"cancelled with another in the queue: that one trains after {seconds:.1f} s")
    flow_runs["four"] = served.start_nightly(config=config, name="four")
    time.sleep(2 * QUIET_S)
    assert not begun("four")
    for name in ("four", "three"):
        served.cancel(flow_runs[name])
    ended(left, "cancel of the one that trains and the one that waits")
    assert left.comes_back() == []
    assert not begun("four")


def test_what_was_ended_stays_so_without_prefects_database(served: ServedCommandLine) -> None:
    assert list(served.outputs.glob("*/stopped"))
    served.kill_everything()
    served.forget()
    served.serve()
    time.sleep(QUIET_S)
    assert served.flow_runs() == []

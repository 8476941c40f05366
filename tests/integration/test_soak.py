"""The soak with two rounds: it runs, sees the orchestrator, and finds nothing left over."""

from pathlib import Path

import pytest

from benchmarks.soak import judge, report, run

pytestmark = pytest.mark.slow


@pytest.mark.exhaustive
def test_two_rounds_leave_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soak = run(tmp_path, rounds=2, clients=1, steps=1)
    assert [item.number for item in soak.rounds] == [0, 1, 2]
    assert all(50 << 20 < item.rss < 2 << 30 for item in soak.rounds)
    assert all(3 < item.fds < 1000 and 0 < item.processes < 100 for item in soak.rounds)
    assert soak.left_over == []
    assert judge(soak) == ["3 rounds are too few: the last ten are compared with rounds 5 to 15"]
    report(soak)
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]) == 4

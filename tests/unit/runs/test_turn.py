"""zk0.runs.turn: one at a time, and who was killed keeps its turn."""

import subprocess
import sys
from pathlib import Path

from zk0.runs.turn import Turn

HOLD = """
import sys, time
from zk0.runs.turn import Turn
with Turn(sys.argv[1]) as turn:
    assert turn.take()
    turn.owner = "killed"
    print("taken", flush=True)
    time.sleep(60)
"""


def test_one_at_a_time_and_the_killed_ones_name_stays(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(outputs)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    with Turn(outputs) as turn:
        assert not turn.take()
        process.kill()
        process.communicate()
        assert turn.take()
        assert turn.owner == "killed"
        with Turn(outputs) as another:
            assert not another.take()
        turn.owner = "mine"
        assert turn.owner == "mine"
        turn.owner = None
    with Turn(outputs) as turn:
        assert turn.take()
        assert turn.owner is None

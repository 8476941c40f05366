"""A run that begins where another one ended; and what its policy does in simulation."""

import json
import re

import av
import pytest

from benchmarks.service import CommandLine

pytestmark = pytest.mark.slow
ONE_ROUND = {"federation__num_rounds": 1, "training__steps": 1}


BENCH = {
    "name": "bench",
    "type": "zk0_so101",
    "plugin": "zk0.sim",
    "options": {"setting": "kitchen", "episode_length": 12},
    "episodes": 2,
    "first_seed": 5,
    "videos": 1,
}


@pytest.fixture(scope="module")
def continued(zk0: CommandLine, reference: str) -> str:
    """A run of one round; gives what it printed."""
    config = zk0.config(**ONE_ROUND, continue_from="reference", evaluation__environments=[BENCH])
    return zk0.run("run", config, "--name", "continued")


def test_a_run_continues_from_another_ones_last_round(zk0: CommandLine, continued: str) -> None:
    assert zk0.digest("continued", 0) == zk0.digest("reference", 2)
    assert zk0.digest("continued", 1) != zk0.digest("reference", 2)
    assert zk0.info("continued")["config"]["continue_from"] == "reference@2"
    before, after = zk0.metrics("reference")[2]["evaluate"], zk0.metrics("continued")[0]["evaluate"]
    assert {name: item["action_error_deg"] for name, item in before.items()} == {
        name: item["action_error_deg"] for name, item in after.items()
    }


def test_the_policy_acts_in_simulation_in_rounds_that_are_evaluated_in_full(zk0: CommandLine, continued: str) -> None:
    base, last = zk0.metrics("continued")
    for line in (base, last):
        figures = line["rollout"]["bench"]
        assert (figures["successes"], figures["episodes"]) == (0, 2)  # 12 steps are too few for anybody
        assert figures["interval_95"]["success_rate"] == pytest.approx([0.0, 0.6576], abs=1e-4)  # Wilson's
        assert line["summary"]["success_rate"] == 0.0
        assert line["summary"]["interval_95"]["success_rate"] == figures["interval_95"]["success_rate"]
        assert set(line["evaluate"]) == {"kitchen", "workshop"}
    assert re.search(r"bench\s*│\s*0/2 = 0.0% \[0.0%, 65.8%\]\s*│\s*0/2 = 0.0%", continued)
    shown = json.loads(zk0.run("status", "continued", "--outputs", zk0.outputs, "--json"))["environments"]
    assert (shown[0]["name"], shown[0]["phase"], shown[0]["server_round"]) == ("bench", "done", 1)
    with av.open(shown[0]["videos"][0]) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert (len(frames), frames[0].shape) == (12, (64, 64, 3))
    assert abs(frames[0].astype(int) - frames[-1]).max() > 50, "nothing moves"
    manifest = (zk0.outputs / "continued" / "rounds" / "0001" / "manifest.json").read_text()
    assert "clients/bench/rollout.json" in manifest
    assert "mp4" not in manifest


@pytest.mark.exhaustive
def test_a_run_of_another_kind_is_refused(zk0: CommandLine, reference: str) -> None:
    config = zk0.config(**ONE_ROUND, continue_from="reference", peft__r=2, peft__lora_alpha=4)
    output = " ".join(zk0.run("run", config, "--name", "other-kind", exit_code=2).split())
    assert "continue_from = 'reference': that run exchanges other tensors" in output
    assert "peft.r is 4 there, 2 here" in output
    assert not (zk0.outputs / "other-kind").exists()

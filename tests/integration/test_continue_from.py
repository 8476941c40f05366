"""A run that begins where another one ended."""

import pytest

from benchmarks.service import CommandLine

pytestmark = pytest.mark.slow
ONE_ROUND = {"federation__num_rounds": 1, "training__steps": 1}


def test_a_run_continues_from_another_ones_last_round(zk0: CommandLine, reference: str) -> None:
    zk0.run("run", zk0.config(**ONE_ROUND, continue_from="reference"), "--name", "continued")
    assert zk0.digest("continued", 0) == zk0.digest("reference", 2)
    assert zk0.digest("continued", 1) != zk0.digest("reference", 2)
    assert zk0.info("continued")["config"]["continue_from"] == "reference@2"
    before, after = zk0.metrics("reference")[2]["evaluate"], zk0.metrics("continued")[0]["evaluate"]
    assert {name: item["action_error_deg"] for name, item in before.items()} == {
        name: item["action_error_deg"] for name, item in after.items()
    }


@pytest.mark.exhaustive
def test_a_run_of_another_kind_is_refused(zk0: CommandLine, reference: str) -> None:
    config = zk0.config(**ONE_ROUND, continue_from="reference", peft__r=2, peft__lora_alpha=4)
    output = " ".join(zk0.run("run", config, "--name", "other-kind", exit_code=2).split())
    assert "continue_from = 'reference': that run exchanges other tensors" in output
    assert "peft.r is 4 there, 2 here" in output
    assert not (zk0.outputs / "other-kind").exists()

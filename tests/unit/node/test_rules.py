"""The owner's rules: what asks for too much is refused by name, whatever it is that is too much."""

import json
import pickle
from datetime import UTC, datetime, timedelta

import pytest

from zk0.config import load_config
from zk0.errors import CAUSES, RefusedError
from zk0.node import ledger
from zk0.node.request import Asker, WorkRequest, request_of, requests_of
from zk0.node.rules import judge, review
from zk0.node.settings import NodeSettings
from zk0.runs.versions import package_version

LINK = "10.77.0.1:8124"
NOON = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)  # a Thursday
ASKED = WorkRequest(
    link=LINK, run="bench-1", config_digest="ab" * 32, version=package_version("zk0"), kind="train", server_round=2,
    policy_type="smolvla", base="lerobot/smolvla_base", steps=200, batch_size=16, num_rounds=3,
)  # fmt: skip


def node(**rules):
    return NodeSettings.model_validate({"link": LINK, "client": "kitchen", "root": "/data/kitchen", "rules": rules})


def test_what_the_rules_allow_passes_and_leaves_no_line(tmp_path):
    judge(ASKED, node(), tmp_path, NOON)
    assert not list(ledger.lines(tmp_path))


TOO_MUCH = {
    "run": ({"runs": ["kitchen-*"]}, {"run": "bench-1"}, "rules.runs"),
    "digest": ({"config_digests": ["12345678"]}, {}, "rules.config_digests"),
    "rounds": ({"num_rounds": 2}, {"num_rounds": 3}, "rules.num_rounds = 2"),
    "hours": ({"hours": ["22:00-06:00"]}, {}, "rules.hours"),
    "days": ({"days": ["sat", "sun"]}, {}, "it is thu"),
    "steps of a fit": ({"steps_per_fit": 100}, {"steps": 200}, "asks for 200 steps in one round"),
    "steps of a day": ({"steps_per_day": 199}, {"steps": 200}, "rules.steps_per_day = 199"),
    "frames": ({"batch_size": 8}, {"batch_size": 16}, "rules.batch_size = 8"),
    "frames of an evaluation": ({"batch_size": 8}, {"kind": "evaluate", "batch_size": 32}, "32 frames"),
    "memory": ({"memory": "6g"}, {"memory_bytes": 7 * 2**30}, "7.00 GiB"),
    "gpu": ({"gpu": False}, {"gpu": True}, "rules.gpu = false"),
    "policy": ({"policy_types": ["act"]}, {}, "'smolvla'"),
    "base": ({"bases": ["mine/*"]}, {}, "'lerobot/smolvla_base'"),
    "plug-in": ({}, {"plugins": ("antigravity",)}, "'antigravity'"),
    "another plug-in": ({"plugins": ["mine"]}, {"plugins": ("mine", "theirs")}, "'theirs'"),
    "full": ({}, {"trainable": "full"}, "rules.full_fine_tuning = false"),
    "modules in full": ({"full_modules": ["head"]}, {"full_modules": ("head", "model")}, "'model'"),
    "optimizer": ({}, {"optimizer_state": True}, "rules.optimizer_state = false"),
    "statistics": ({"statistics": False}, {"kind": "statistics", "statistics": True}, "rules.statistics"),
    "joints": ({}, {"kind": "evaluate", "joint_charts": True}, "rules.joint_charts"),
    "episodes": ({"episode_metrics": False}, {"kind": "evaluate", "episode_metrics": True}, "rules.episode_metrics"),
    "another link": ({}, {"link": "10.0.0.9:8124"}, "comes from 10.0.0.9:8124"),
    "another version": ({}, {"version": "99.0"}, "install the same"),
}  # fmt: skip


@pytest.mark.parametrize(("rules", "asked", "words"), TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_too_much_is_refused_by_name_and_written_down(tmp_path, rules, asked, words):
    with pytest.raises(RefusedError) as caught:
        judge(ASKED.model_copy(update=asked), node(**rules), tmp_path, NOON)
    assert words in str(caught.value)
    assert "node 'kitchen' refuses" in str(caught.value)
    assert "'bench-1'" in str(caught.value)
    (line,) = ledger.lines(tmp_path)
    assert line["event"] == "refused"
    assert line["why"] in str(caught.value)


def test_a_refusal_is_a_cause_of_its_own_and_no_second_try_helps():
    error = RefusedError("refused", "no")
    assert (error.cause, error.retriable, error.cause in CAUSES) == ("refused", False, True)
    assert str(pickle.loads(pickle.dumps(error))) == "no"


@pytest.mark.parametrize(
    ("hours", "time", "allowed"),
    [
        ("22:00-06:00", "22:00", True),
        ("22:00-06:00", "05:59", True),
        ("22:00-06:00", "06:00", False),
        ("22:00-06:00", "21:59", False),
        ("08:00-24:00", "23:59", True),
        ("08:00-24:00", "07:59", False),
        ("00:00-24:00", "00:00", True),
    ],
)
def test_hours(tmp_path, hours, time, allowed):
    now = NOON.replace(hour=int(time[:2]), minute=int(time[3:]))
    if allowed:
        judge(ASKED, node(hours=[hours]), tmp_path, now)
    else:
        with pytest.raises(RefusedError):
            judge(ASKED, node(hours=[hours]), tmp_path, now)


def began_at(home, request, at):
    ledger.began(home, request)
    lines = (home / "ledger.jsonl").read_text().splitlines()
    last = json.loads(lines[-1]) | {"at": at.isoformat()}
    (home / "ledger.jsonl").write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")


def test_steps_of_a_day_are_those_that_began_in_24_hours(tmp_path):
    asked, rules = ASKED.model_copy(update={"server_round": 3}), node(steps_per_day=400)
    began_at(tmp_path, ASKED.model_copy(update={"server_round": 1}), NOON - timedelta(hours=23))
    judge(asked, rules, tmp_path, NOON)
    began_at(tmp_path, ASKED, NOON - timedelta(hours=1))
    with pytest.raises(RefusedError, match="200 steps after 400 in 24 hours"):
        judge(asked, rules, tmp_path, NOON)
    judge(asked, rules, tmp_path, NOON + timedelta(hours=2))  # the first is a day old


def test_a_fit_that_is_taken_up_again_counts_once(tmp_path):
    for _ in range(3):
        began_at(tmp_path, ASKED, NOON - timedelta(hours=1))
    judge(ASKED, node(steps_per_day=200), tmp_path, NOON)  # the same again
    judge(ASKED.model_copy(update={"server_round": 3}), node(steps_per_day=400), tmp_path, NOON)


def test_a_torn_line_of_the_ledger_is_left_out(tmp_path):
    ledger.began(tmp_path, ASKED)
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"event": "beg')
    ledger.note(tmp_path, request=ASKED, what="update.safetensors", sha256="0" * 64, size=5)
    assert [line["event"] for line in ledger.lines(tmp_path)] == ["began", "left"]


ASKER = Asker(link=LINK, run="bench-1", client="kitchen", version=package_version("zk0"), policy_type="smolvla")


@pytest.mark.parametrize(
    ("override", "rules", "words"),
    [
        ("peft.enabled=false", {}, "full_fine_tuning"),
        ("report.joint_charts=true", {}, "joint_charts"),
        ("training.optimizer_state=keep", {}, "optimizer_state"),
        ("data.normalization=federated", {"statistics": False}, "rules.statistics"),
        ("training.steps=5000", {"steps_per_fit": 1000}, "5000 steps"),
        ("training.steps=5000", {"steps_per_day": 1000}, "5000 steps"),
        ("clients.0.steps=5000", {"steps_per_fit": 1000}, "5000 steps"),
        ("training.batch_size=64", {"batch_size": 32}, "64 frames"),
        ("policy.plugin=antigravity", {}, "'antigravity'"),
        ('peft.full_training_modules=["model"]', {}, "'model'"),
        ("federation.num_rounds=100", {"num_rounds": 10}, "100 rounds"),
        ("policy.device=cuda", {"gpu": False}, "rules.gpu"),
        ("seed=43", {"episode_metrics": False}, "episode_metrics"),
    ],
)
def test_a_run_that_would_ask_too_much_is_told_before_it_starts(tmp_path, override, rules, words):
    config = load_config("sim", ["report.joint_charts=false", override])
    asker = ASKER.model_copy(update={"client": config.clients[0].name})
    assert [line for line in review(config, asker, node(**rules), tmp_path) if words in line]
    assert not review(load_config("sim", ["report.joint_charts=false"]), asker, node(), tmp_path)


def test_a_review_says_all_at_once_and_each_thing_once(tmp_path):
    config = load_config("sim", ["peft.enabled=false", "training.steps=9000", "policy.plugin=antigravity"])
    asker = ASKER.model_copy(update={"client": config.clients[0].name})
    found = review(config, asker, node(steps_per_fit=10, hours=["22:00-22:01"]), tmp_path)
    assert len(found) == len(set(found)) == 4, found  # with the joints; the hour is no matter of a review


def test_what_is_asked_is_told_from_the_config_alone():
    config = load_config("sim", ["data.normalization=federated", "training.steps=7", "evaluation.full_every=2"])
    asker = ASKER.model_copy(update={"client": config.clients[0].name})
    kinds = {request.kind: request for request in requests_of(config, asker)}
    assert kinds.keys() == {"describe", "statistics", "train", "evaluate"}
    assert kinds["train"].steps == 7
    assert kinds["statistics"].statistics
    assert not kinds["statistics"].policy_type
    assert kinds["evaluate"].episode_metrics
    assert request_of(config, "train", asker, steps=9).steps == 9
    assert request_of(config, "evaluate", asker, server_round=2).joint_charts
    assert not request_of(config, "evaluate", asker, server_round=1).joint_charts  # a quick one draws none
    assert {request.config_digest for request in kinds.values()} == {config.digest}

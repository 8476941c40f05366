"""node.toml: every fault is named, and what is not said is at its private default."""

import pytest

from zk0.errors import BadInputError, ConfigError
from zk0.node.key import load_key, make_home
from zk0.node.settings import NodeSettings, Rules, load
from zk0.services.public_keys import fingerprint, read_public

GOOD = {"link": "10.77.0.1:8124", "client": "kitchen", "root": "/data/kitchen"}


def written(home, text):
    home.mkdir(exist_ok=True)
    (home / "node.toml").write_text(text)
    return home


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('link = "10.77.0.1"', "link"),
        ('link = "https://a:8124"', "link"),
        ('link = "a:99999"', "from 1 to 65535"),
        ('client = "Kitchen"', "client"),
        ('root = "data"', "is not absolute"),
        ('executor = "podman"', "executor"),
        ("num_threads = 0", "num_threads"),
        ('devise = "cpu"', "did you mean 'device'"),
        ('device = "cuda"\n[rules]\ngpu = false', "do not go together"),
        ("[rules]\nstep_per_day = 4", "did you mean 'steps_per_day'"),
        ('[rules]\nhours = ["25:00-06:00"]', "no time of the day"),
        ('[rules]\nhours = ["22-6"]', "no time of the day"),
        ('[rules]\nhours = ["22:00-24:30"]', "no time of the day"),
        ('[rules]\ndays = ["monday"]', "rules.days"),
        ('[rules]\nmemory = "much"', "is no size"),
        ("[rules]\nsteps_per_day = true", "rules.steps_per_day"),
        ('[rules]\nconfig_digests = ["xyz"]', "rules.config_digests"),
        ("link = ", "not valid TOML"),
    ],
)
def test_a_fault_is_named(tmp_path, line, words):
    key = line.split(" ")[0]
    lines = [f'{name} = "{value}"' for name, value in GOOD.items() if name != key]
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, "\n".join([*lines, line])))
    assert words in str(caught.value)
    assert "node.toml" in str(caught.value)


def test_a_home_without_node_toml_says_what_makes_one(tmp_path):
    with pytest.raises(ConfigError, match="`zk0 node key"):
        load(tmp_path)


def test_a_new_home_reads_back_and_its_defaults_let_out_little(tmp_path):
    make_home(tmp_path / "home", GOOD)
    node = load(tmp_path / "home")
    assert (node.link, node.client, node.root) == (*GOOD.values(),)
    assert node.rules == Rules()
    assert not any((node.rules.full_fine_tuning, node.rules.joint_charts, node.rules.plugins, node.rules.full_modules))


def test_every_rule_is_in_the_new_file(tmp_path):
    make_home(tmp_path, GOOD)
    text = (tmp_path / "node.toml").read_text()
    for name in Rules.model_fields:
        assert f"# {name} =" in text


def test_a_key_is_made_once_for_its_owner_alone_and_flower_and_ssh_read_it(tmp_path):
    public = make_home(tmp_path, GOOD)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert load_key(tmp_path).public_key() == public == read_public(tmp_path / "key.pub")
    assert fingerprint(public).startswith("SHA256:")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(BadInputError, match="never overwritten"):
        make_home(tmp_path, GOOD)
    assert (tmp_path / "key").read_bytes() == before
    from flwr.cli.supernode.register import try_load_public_key

    assert try_load_public_key(tmp_path / "key.pub")


def test_a_private_key_is_not_taken_for_the_public_half(tmp_path):
    make_home(tmp_path, GOOD)
    with pytest.raises(BadInputError, match="is a private key"):
        read_public(tmp_path / "key")


def test_a_key_that_others_may_read_is_refused(tmp_path):
    make_home(tmp_path, GOOD)
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(BadInputError, match="chmod 600"):
        load_key(tmp_path)


@pytest.mark.parametrize("content", [b"", b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ x", b"\xff" * 50])
def test_what_is_no_key_is_refused(tmp_path, content):
    (tmp_path / "key.pub").write_bytes(content)
    with pytest.raises(BadInputError, match=r"key\.pub"):
        read_public(tmp_path / "key.pub")


def test_the_gpu_is_left_alone_where_the_rules_say_so():
    assert NodeSettings.model_validate({**GOOD, "rules": {"gpu": False}}).own_device == "cpu"
    assert NodeSettings.model_validate(GOOD).own_device is None
    assert NodeSettings.model_validate({**GOOD, "device": "cuda"}).own_device == "cuda"

"""zk0.memory.cgroup: both versions' files as the kernel writes them, and, where one can be made, a real cgroup."""

import subprocess
import sys

import pytest

from tests import ROOT
from tests.cgroups import limited_cgroup
from zk0.memory import cgroup

V1_MOUNT = "35 31 0:29 {root} {top} rw,relatime - cgroup cgroup rw,memory\n"
V2_MOUNT = "41 31 0:38 {root} {top} rw,relatime - cgroup2 cgroup2 rw\n"


def lay_out(tmp_path, monkeypatch, own, mounts, files):
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(own)
    (proc / "self" / "mountinfo").write_text(mounts)
    (proc / "vmstat").write_text("pgfault 1\noom_kill 7\n")
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(cgroup, "PROC", proc)
    return cgroup.of_process()


def test_version_2_takes_the_tightest_limit_on_the_way_up(tmp_path, monkeypatch):
    top = tmp_path / "fs"
    files = {
        "fs/memory.stat": "",
        "fs/a/memory.max": "1000\n",
        "fs/a/memory.current": "900\n",
        "fs/a/memory.stat": "anon 500\ninactive_file 300\n",
        "fs/a/b/memory.max": "max\n",
        "fs/a/b/memory.stat": "",
        "fs/a/b/memory.events": "low 0\noom 4\noom_kill 3\n",
    }
    found = lay_out(tmp_path, monkeypatch, "0::/a/b\n", V2_MOUNT.format(root="/", top=top), files)
    assert found == cgroup.Cgroup(top / "a" / "b", top, 2)
    assert found.usage() == (600, 1000)
    assert found.oom_kills() == 3


def test_version_1_and_no_limit(tmp_path, monkeypatch):
    top = tmp_path / "fs"
    files = {
        "fs/a/memory.limit_in_bytes": "9223372036854771712\n",
        "fs/a/memory.usage_in_bytes": "900\n",
        "fs/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    }
    own = "9:name=systemd:/\n4:memory:/a\n0::/\n"
    found = lay_out(tmp_path, monkeypatch, own, V1_MOUNT.format(root="/", top=top), files)
    assert found == cgroup.Cgroup(top / "a", top, 1)
    assert found.usage() is None
    assert found.oom_kills() == 2


def test_in_a_container_the_mount_shows_only_its_own_part(tmp_path, monkeypatch):
    """Docker without a cgroup namespace: the path counts from the host's top, the mount begins at the container."""
    top = tmp_path / "fs"
    files = {"fs/memory.usage_in_bytes": "10\n", "fs/memory.limit_in_bytes": "4096\n", "fs/memory.stat": ""}
    own = "4:memory:/docker/abc\n"
    found = lay_out(tmp_path, monkeypatch, own, V1_MOUNT.format(root="/docker/abc", top=top), files)
    assert found.folder == top
    assert found.usage() == (10, 4096)
    assert found.oom_kills() == 7, "no count of its own: the machine's"


def test_where_there_is_no_cgroup(tmp_path, monkeypatch):
    assert lay_out(tmp_path, monkeypatch, "", "", {}) is None
    assert cgroup.of_process(2**30) is None


def test_this_process_is_in_one_or_none():
    found = cgroup.of_process()
    assert found is None or (found.folder.is_dir() and found.oom_kills() >= 0)


def test_a_kill_by_the_kernel_is_counted():
    hog = "block = []\nwhile True: block.append(bytearray(b'x') * (8 << 20))"
    with limited_cgroup(64 << 20) as folder:
        enter = f"import os; open({str(folder / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        before = cgroup.kills_in(folder)
        done = subprocess.run([sys.executable, "-c", enter + hog], check=False, capture_output=True)
        assert done.returncode == -9
        assert cgroup.kills_in(folder) == before + 1


def test_usage_and_limit_of_a_real_one():
    with limited_cgroup(512 << 20) as folder:
        code = (
            f"import os; open({str(folder / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
            "from zk0.memory import cgroup; block = bytearray(b'x') * (64 << 20); print(*cgroup.of_process().usage())"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
        used, limit = map(int, done.stdout.split())
    assert limit == 512 << 20
    assert 64 << 20 <= used < limit


def test_a_folder_that_is_gone_tells_nothing(tmp_path):
    assert cgroup.kills_in(tmp_path / "gone") is None


@pytest.mark.parametrize("version", [1, 2])
def test_a_damaged_file_is_no_reading(tmp_path, version):
    (tmp_path / "memory.max").write_bytes(b"\xff\xfe")
    (tmp_path / "memory.limit_in_bytes").write_text("")
    assert cgroup.Cgroup(tmp_path, tmp_path, version).usage() is None

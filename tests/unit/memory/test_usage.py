"""zk0.memory.usage against real processes."""

import subprocess
import sys

import pytest

from tests.cgroups import limited_cgroup
from zk0.memory.usage import GIB, container_share, gib, peak_rss_bytes, snapshot

HOLD = "import sys; block = bytearray(b'x') * (64 << 20); print('ready', flush=True); sys.stdin.read()"


@pytest.fixture
def child():
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def test_the_tree_includes_children(child):
    now = snapshot()
    assert now.tree_rss_bytes - now.rss_bytes >= 64 << 20
    assert snapshot(child.pid).rss_bytes >= 64 << 20


def test_host_figures_fit_together():
    now = snapshot()
    assert 0 < now.rss_bytes < now.ram_total_bytes
    assert 0 < now.ram_available_bytes <= now.ram_total_bytes
    assert 0 <= now.ram_percent <= 100


def test_what_a_process_can_have_is_the_limit_of_its_cgroup():
    code = "from zk0.memory import usage; print(usage.snapshot().capacity_bytes)"
    with limited_cgroup(256 << 20) as folder:
        enter = f"import os; open({str(folder / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        done = subprocess.run([sys.executable, "-c", enter + code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 256 << 20


def test_a_process_that_is_gone_counts_nothing(child):
    child.kill()
    child.wait()
    assert snapshot(child.pid).tree_rss_bytes == 0


def test_peak_is_in_bytes_and_stays():
    block = bytearray(b"x") * (64 << 20)
    with_block = peak_rss_bytes()
    assert with_block >= len(block)
    del block
    assert peak_rss_bytes() >= with_block


def test_torch_is_never_imported():
    code = "import sys; from zk0.memory import usage; print(usage.snapshot().vram_total_bytes, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "False"]


@pytest.mark.gpu
def test_vram_of_this_process():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    block = torch.zeros(1 << 20, device="cuda")
    now = snapshot()
    assert block.nbytes <= now.vram_allocated_bytes <= now.vram_total_bytes


def test_gib():
    assert gib(1320702444) == "1.23 GiB"


def test_memory_is_shared_out_less_a_reserve() -> None:
    assert container_share(32 * GIB, 20 * GIB, 1) == pytest.approx(16.8 * GIB, abs=1)
    assert container_share(8 * GIB, 6 * GIB, 2) == 2 * GIB
    assert container_share(8 * GIB, GIB, 4) == GIB

"""What a container holds."""

from zk0.executors.docker.mem_limit import held_bytes
from zk0.memory.usage import GIB


def test_what_a_container_holds_is_without_pages_that_the_kernel_would_drop() -> None:
    assert held_bytes({"usage": 5 * GIB, "stats": {"total_inactive_file": 3 * GIB, "inactive_file": GIB}}) == 2 * GIB
    assert held_bytes({"usage": 5 * GIB, "stats": {"inactive_file": GIB}}) == 4 * GIB
    assert held_bytes({}) == 0, "it has ended"

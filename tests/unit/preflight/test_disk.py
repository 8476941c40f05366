"""A run needs room before it begins."""

from pathlib import Path

import pytest

from zk0.errors import ConfigError
from zk0.preflight.disk import check_free_space


def test_free_space(tmp_path: Path) -> None:
    outputs = tmp_path / "not" / "there"
    check_free_space(str(outputs), 1)
    with pytest.raises(ConfigError, match=r"outputs_dir = .* needs 1073741824.00 GiB"):
        check_free_space(str(outputs), 1 << 60)
    assert not outputs.exists()

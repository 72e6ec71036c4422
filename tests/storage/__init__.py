"""Storage on disks that are full, broken or cut off, and directories that are torn or damaged."""

import pytest

pytest.register_assert_rewrite("tests.storage.rig", "tests.storage.written")

"""The servers of the stores' tests, for whole walreps."""

from __future__ import annotations

from tests.store.conftest import ministack, rclone

__all__ = ["ministack", "rclone"]

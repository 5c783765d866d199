"""The servers that the tests of stores share, one of each for every worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.store.servers import S3Server, running


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running("ministack", tmp_path_factory.mktemp("ministack")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running("rclone", tmp_path_factory.mktemp("rclone")) as server:
        yield server

"""The process that the model's children come from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.model.nursery import Nursery


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()

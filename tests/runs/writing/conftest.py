"""A database whose commits may be left without an answer."""

from collections.abc import AsyncGenerator

import pytest

from tests.db.patience import PATIENT
from tests.runs.doubt import Doubtful


@pytest.fixture
async def doubtful(database_url: str) -> AsyncGenerator[Doubtful]:
    """The test's database; no commit is in doubt until its fates are told."""
    opened = Doubtful.open(database_url, postgres=PATIENT)
    assert isinstance(opened, Doubtful)
    yield opened
    await opened.close()

"""Fixtures that every folder of tests may ask for."""

from collections.abc import Generator

import pytest

from tests.servers import NoPostgres, postgres


@pytest.fixture(scope="session")
def postgres_url() -> Generator[str]:
    """One server for all tests, as an administrator's URL; take databases from `servers.fresh_database`."""
    try:
        with postgres() as url:
            yield url
    except NoPostgres as missing:
        pytest.exit(str(missing), returncode=1)

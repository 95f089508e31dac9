"""Clients of a running engine, on either database."""

import pytest

from tests.resolvers.asking import Client
from tests.rig import Rig


@pytest.fixture
def client(parley: Rig) -> Client:
    return Client(parley)


@pytest.fixture
def stranger(parley: Rig) -> Client:
    """Somebody of another tenant."""
    return Client(parley, tenant="elsewhere")

"""Ports for what shall have the same one when it is started again."""

import random
import socket

RANGE = range(10_000, 32_000)  # below those that a system gives to clients, who could take one while its server is away


def free_port() -> int:
    """One that nobody listens on now; others choose at random too, so it stays free with all but certainty."""
    while not is_free(port := random.choice(RANGE)):
        pass
    return port


def is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False

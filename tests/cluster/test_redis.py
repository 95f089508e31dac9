"""The ladder by which tests come to a Redis: each rung, their order, and what is left behind."""

from pathlib import Path

import pytest

from cluster import redis
from cluster.redis import NoRedis, RedisServer


def test_a_server_answers_and_leaves_nothing_behind() -> None:
    with RedisServer.running() as server:
        assert server.ask("PING") == b"+PONG\r\n"
    with pytest.raises(ConnectionRefusedError):
        server.ask("PING")


def test_a_server_that_is_started_again_has_its_port_and_has_forgotten_everything() -> None:
    with RedisServer.running() as server:
        server.ask("SET", "key", "value")
        server.stop()
        server.start()
        assert server.ask("GET", "key") == b"$-1\r\n"


def test_a_server_that_is_given_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_REDIS_URL", "redis://redis.example:6379/5")
    with redis.redis() as url:
        assert url == "redis://redis.example:6379/5"


def test_the_program_on_the_path_comes_before_the_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert redis.program().name == "valkey-server"
    for name in ("valkey-server", "redis-server"):
        (tmp_path / name).touch(mode=0o755)
        assert redis.program() == tmp_path / name


def test_what_does_not_start_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "redis-server").write_text("#!/bin/sh\necho no\necho today\nexit 1\n")
    (tmp_path / "redis-server").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(NoRedis, match=r"^.*redis-server: no today$"), RedisServer.running():
        pass

"""docker-compose.yml, the Dockerfile and the program tell one story. What only a container engine could show is named in the README."""

import re
from pathlib import Path

import pytest
from sqlalchemy import make_url

from cluster.ports import free_port
from cluster.postgres import fresh_database
from cluster.programs import ROOT, DidNotStart, Program, Server, started
from runs.__main__ import LONGEST_DRAIN_S
from settings import Settings, SettingsError
from tests.cluster.composition import Service, copy_of_the_image, services

OURS = [service for service in services().values() if service.is_ours]
APIS = [service for service in OURS if service.name.startswith("api")]


@pytest.mark.parametrize("service", OURS, ids=lambda service: service.name)
def test_each_variable_is_a_setting_and_its_value_is_accepted(service: Service) -> None:
    assert {name.lower() for name in service.environment} <= Settings.model_fields.keys()
    assert Settings.from_environment(service.environment).distributed


def test_the_database_is_the_one_that_is_made() -> None:
    url, made = make_url(OURS[0].environment["DATABASE_URL"]), services()["postgres"].environment
    assert (url.host, url.username, url.password, url.database) == (
        "postgres",
        made["POSTGRES_USER"],
        made["POSTGRES_PASSWORD"],
        made["POSTGRES_DB"],
    )
    assert make_url(OURS[0].environment["REDIS_URL"]).host in services()


def test_connections_suffice_for_twice_as_many_processes() -> None:
    """Those for reading, for writing, for jobs, and for a worker's heartbeat; a rolling restart has some more of them for a while."""
    each = 2 * Settings.from_environment({}).database_pool_size + 4 + 1
    command = services()["postgres"].definition["command"]
    assert 2 * 4 * each <= int(command[-1].removeprefix("max_connections="))


def test_nothing_but_the_proxy_is_published_and_that_to_this_machine_alone() -> None:
    """AUTH is none: the replicas would refuse to listen beyond it if they were not told so."""
    assert {name: service.definition["ports"] for name, service in services().items() if "ports" in service.definition} == {
        "proxy": ["127.0.0.1:8000:8000"]
    }
    for service in APIS:
        with pytest.raises(SettingsError, match="ALLOW_INSECURE_BIND"):
            Settings.from_environment({**service.environment, "ALLOW_INSECURE_BIND": "false"})


def test_the_proxy_is_told_what_its_file_asks_for_and_knows_every_replica() -> None:
    proxy = services()["proxy"]
    assert proxy.definition["volumes"] == ["./Caddyfile:/etc/caddy/Caddyfile:ro"]
    assert set(re.findall(r"\{\$(\w+)\}", (ROOT / "Caddyfile").read_text())) == proxy.environment.keys()
    assert proxy.environment["REPLICAS"].split() == [f"{api.name}:{api.environment['PORT']}" for api in APIS]
    assert proxy.definition["ports"][0].rpartition(":")[2] == proxy.environment["PORT"]


def test_who_waits_for_another_waits_for_what_the_other_can_become() -> None:
    for service in services().values():
        for name, told in service.definition.get("depends_on", {}).items():
            other = services()[name].definition
            match told["condition"]:
                case "service_healthy":
                    assert "healthcheck" in other
                case "service_completed_successfully":
                    assert other["restart"] == "on-failure"
                case condition:
                    raise AssertionError(condition)


def test_everybody_is_started_again_and_given_the_time_to_leave_in_good_order() -> None:
    assert {service.definition["restart"] for service in services().values() if service.name != "migrate"} == {"unless-stopped"}
    assert services()["worker"].grace_s > LONGEST_DRAIN_S
    assert services()["worker"].definition["deploy"]["replicas"] == len(APIS) == 2


@pytest.mark.timeout(120)
async def test_the_files_of_the_image_suffice_for_every_command(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    image = copy_of_the_image(tmp_path)
    async with fresh_database(postgres_url) as database_url:
        port = str(free_port())
        servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "HOST": "127.0.0.1", "PORT": port}
        migrate, worker, api = (services()[name] for name in ("migrate", "worker", "api-1"))
        await Program("migrate", migrate.command, migrate.environment | servers, folder=image).run()
        working = Program("worker", worker.command, worker.environment | servers, ready="Working as", folder=image)
        serving = Server("api", api.command, api.environment | servers, folder=image)
        probe = Program("probe", [word.replace("8000", port) for word in api.health_check], {}, folder=image)
        async with started(working), started(serving):
            await probe.run()
            assert await working.terminate(within_s=worker.grace_s) == 0
            assert await serving.terminate(within_s=api.grace_s) == 0
        with pytest.raises(DidNotStart, match="probe failed"):
            await probe.run()

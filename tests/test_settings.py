"""What the environment may say, what follows from it, and the one line that refuses the rest."""

import json

import pytest

from composition import bus_of
from settings import Settings, SettingsError
from streams.redis_bus import RedisBus

SECRET = "hunter2-hunter2"


def refusal(**environ: str) -> str:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment(environ)
    return str(refused.value)


def test_an_empty_environment_gives_the_embedded_default() -> None:
    settings = Settings.from_environment({})
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.database_url == "sqlite+aiosqlite:///parley.db"
    assert settings.default_model == "demo/echo"
    assert (settings.lease_s, settings.max_attempts, settings.delta_retention_s) == (15, 3, 3600)
    assert (settings.max_replay, settings.max_page_size, settings.demo_delay_ms) == (10_000, 200, 20)
    assert (settings.redis_url, settings.providers, settings.cors_origins) == (None, {}, ())
    assert settings.approval_expiry_s is None


def test_values_are_read_by_their_upper_case_names() -> None:
    settings = Settings.from_environment(
        {"PORT": " 0 ", "LEASE_S": "1.5", "LOG_LEVEL": "debug", "CORS_ORIGINS": "https://a.example, http://b:1,"}
    )
    assert (settings.port, settings.lease_s, settings.log_level) == (0, 1.5, "DEBUG")
    assert settings.cors_origins == ("https://a.example", "http://b:1")


def test_unknown_and_empty_variables_are_not_looked_at() -> None:
    assert Settings.from_environment(
        {"PATH": "/bin", "port": "x", "PORT": "", "REDIS_URL": " ", "OPENAI_API_KEY": ""}
    ) == Settings.from_environment({})


@pytest.mark.parametrize(
    ("keys", "model"),
    [
        (["OPENAI_API_KEY"], "openai/gpt-5-mini"),
        (["ANTHROPIC_API_KEY"], "anthropic/claude-sonnet-5-5"),
        (["GOOGLE_API_KEY"], "google/gemini-3.8-flash"),
        (["GOOGLE_API_KEY", "ANTHROPIC_API_KEY"], "anthropic/claude-sonnet-5-5"),
    ],
)
def test_a_key_chooses_the_default_model(keys: list[str], model: str) -> None:
    assert Settings.from_environment(dict.fromkeys(keys, SECRET)).default_model == model


def test_the_default_model_may_be_of_a_compatible_server() -> None:
    provider = {"base_url": "http://127.0.0.1:8080/v1", "api_key": SECRET, "models": {"qwen3": {"context_window": 32768}}}
    settings = Settings.from_environment({"PROVIDERS": json.dumps({"local": provider}), "DEFAULT_MODEL": "local/any/name"})
    local = settings.providers["local"]
    assert settings.default_model == "local/any/name"
    assert (local.base_url, local.models["qwen3"].context_window) == ("http://127.0.0.1:8080/v1", 32768)
    assert local.api_key
    assert local.api_key.get_secret_value() == SECRET


def test_tool_servers_are_programs_or_addresses() -> None:
    local = {"type": "stdio", "command": "uvx", "args": ["files", "/tmp"], "env": {"KEY": SECRET}, "requires_approval": True}
    far = {"type": "http", "url": "https://example.org/mcp", "headers": {"Authorization": SECRET}, "timeout_s": 5}
    servers = Settings.from_environment({"MCP_SERVERS": json.dumps({"files": local, "search": far})}).mcp_servers
    files, search = servers["files"], servers["search"]
    assert (files.command, files.args, files.env["KEY"].get_secret_value()) == ("uvx", ("files", "/tmp"), SECRET)
    assert (search.url, search.headers["Authorization"].get_secret_value()) == ("https://example.org/mcp", SECRET)
    assert [(server.requires_approval, server.timeout_s) for server in (files, search)] == [(True, 60), (False, 5)]
    assert Settings.from_environment({}).mcp_servers == {}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "http", "a port number from 0 to 65535"),
        ("PORT", "65536", "a port number"),
        ("METRICS_PORT", "0", "a port number from 1 to 65535"),
        ("AUTH", "jwt", "jwt is not in this version"),
        ("REDIS_URL", "redis://localhost", "nothing beside SQLite"),
        ("REDIS_URL", "localhost:6379", "redis://HOST:PORT"),
        ("DATABASE_URL", "postgresql+asyncpg://me@db/parley", "PostgreSQL needs REDIS_URL"),
        ("DATABASE_URL", "postgresql+asyncpg://me@db", "postgresql+asyncpg://USER:PASSWORD@HOST/NAME"),
        ("DATABASE_URL", "postgresql://me@db/parley", "postgresql+asyncpg://USER:PASSWORD@HOST/NAME"),
        ("REDIS_PREFIX", "{one}:", "letters, digits"),
        ("DATABASE_POOL_SIZE", "0", "connections from 1"),
        ("LOCK_TIMEOUT_S", "0", "more than 0"),
        ("STATEMENT_TIMEOUT_S", "0.5", "seconds from 1"),
        ("WORKER_CONCURRENCY", "0", "from 1 to 10000"),
        ("DATABASE_URL", "sqlite:///parley.db", "sqlite+aiosqlite:///FILE"),
        ("DATABASE_URL", "sqlite+aiosqlite:///:memory:", "sqlite+aiosqlite:///FILE"),
        ("DEFAULT_MODEL", "echo", "PROVIDER/NAME"),
        ("DEFAULT_MODEL", "openai/gpt-5", "of a provider that has a key"),
        ("LEASE_S", "0", "seconds from 1 to 3600"),
        ("LEASE_S", "nan", "seconds"),
        ("MAX_ATTEMPTS", "0", "a whole number, 1 or more"),
        ("MAX_ATTEMPTS", "1.5", "a whole number"),
        ("DELTA_RETENTION_S", "-1", "seconds from 0"),
        ("APPROVAL_EXPIRY_S", "0", "seconds from 1"),
        ("MAX_REPLAY", "0", "1 or more"),
        ("MAX_PAGE_SIZE", "many", "a whole number"),
        ("DEMO_DELAY_MS", "-1", "milliseconds"),
        ("CORS_ORIGINS", "example.org", "https://example.org"),
        ("CORS_ORIGINS", "https://example.org/path", "separated by commas"),
        ("LOG_LEVEL", "loud", "DEBUG, INFO, WARNING or ERROR"),
        ("ALLOW_INSECURE_BIND", "perhaps", "true or false"),
        ("MCP_SERVERS", "{", "JSON such as"),
        ("MCP_SERVERS", '{"files": {}}', "files: either a command or a url"),
        ("MCP_SERVERS", '{"files": {"command": "uvx", "url": "http://a"}}', "files: either a command or a url"),
        ("MCP_SERVERS", '{"files": {"command": "uvx", "headers": {"a": "b"}}}', "args and env go with a command"),
        ("MCP_SERVERS", '{"files": {"url": "http://a", "args": ["b"]}}', "headers with a url"),
        ("MCP_SERVERS", '{"files": {"url": "http://a", "type": "stdio"}}', "stdio goes with a command"),
        ("MCP_SERVERS", '{"files": {"url": "ftp://a"}}', "files.url"),
        ("MCP_SERVERS", '{"files": {"url": "http://a", "headers": {"a b": "c"}}}', "is no name of a header"),
        ("MCP_SERVERS", '{"files": {"url": "http://a", "headers": {"a": "b\\nc"}}}', "cannot stand in a header"),
        ("MCP_SERVERS", '{"files": {"command": "uvx", "timeout_s": 0}}', "files.timeout_s"),
        ("MCP_SERVERS", '{"files": {"command": "uvx", "arguments": []}}', "files.arguments"),
        ("MCP_SERVERS", '{"a/b": {"command": "uvx"}}', "a/b"),
        ("PROVIDERS", "{", "JSON such as"),
        ("PROVIDERS", '{"local": {}}', "local.base_url: Field required"),
        ("PROVIDERS", '{"openai": {"base_url": "http://a"}}', "openai is built in"),
        ("PROVIDERS", '{"a/b": {"base_url": "http://a"}}', "a/b"),
        ("PROVIDERS", '{"a\\nb": {"base_url": "http://a"}}', "a b"),
        ("PROVIDERS", '{"local": {"base_url": "ftp://a"}}', "local.base_url"),
        ("PROVIDERS", '{"local": {"base_url": "http://a", "modells": {}}}', "local.modells"),
        ("PROVIDERS", '{"local": {"base_url": "http://a", "models": {"m": {"context_window": 0}}}}', "local.models.m.context_window"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_names_the_variable(name: str, value: str, expected: str) -> None:
    line = refusal(**{name: value})
    assert line.startswith(f"{name}: expected ")
    assert expected in line
    assert "\n" not in line


POSTGRESQL = "postgresql+asyncpg://me:hunter2-hunter2@db"
UNREADABLE = "it cannot be read (what is special in a password must be percent-encoded)"


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        (f"{POSTGRESQL}:abc/parley", UNREADABLE),
        (f"{POSTGRESQL}:/parley", UNREADABLE),
        ("postgresql+asyncpg://me:hunter2-hunter2@[::1/parley", UNREADABLE),
        ("postgresql+asyncpg://me:p@hunter2-hunter2@db/parley", UNREADABLE),
        ("postgresql+asyncpg://me:p@db?hunter2-hunter2=x@db/parley", UNREADABLE),
        (f"{POSTGRESQL}:99999/parley", "a port is a number from 1 to 65535"),
        (f"{POSTGRESQL}/parley?host=a:1&host=b:99999", "a port is a number from 1 to 65535"),
        (f"{POSTGRESQL}/parley?host=a,b", "its hosts and ports do not go together"),
        (f"{POSTGRESQL}/parley?sslmode=disable", "the option sslmode cannot be used"),
        (f"{POSTGRESQL}/parley?application_name=x", "the option application_name cannot be used"),
        (f"{POSTGRESQL}/parley?foo=hunter2-hunter2", "the option foo cannot be used"),
        (f"{POSTGRESQL}/parley?password=hunter2-hunter2", "the option password cannot be used"),
        (f"{POSTGRESQL}/parley?statement_cache_size=0", "the option statement_cache_size cannot be used"),
        (f"{POSTGRESQL}/parley?prepared_statement_cache_size=x", "the option prepared_statement_cache_size cannot be used"),
        (f"{POSTGRESQL}/parley?ssl=true", "the option ssl cannot be used"),
        (f"{POSTGRESQL}/parley?ssl=require&ssl=disable", "the option ssl cannot be used"),
        ("sqlite+aiosqlite:///parley.db?mode=memory", "the option mode cannot be used"),
    ],
)
def test_an_address_that_does_not_lead_to_the_database_is_refused_without_its_values(address: str, complaint: str) -> None:
    line = refusal(DATABASE_URL=address, REDIS_URL="redis://cache")
    assert line.startswith("DATABASE_URL: expected sqlite+aiosqlite:///FILE, or postgresql+asyncpg://")
    assert line.endswith(f"; {complaint}")
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("redis://:hunter2/rest@127.0.0.1:1", UNREADABLE),
        ("redis://:12/hunter2@cache", UNREADABLE),
        ("redis://:12?hunter2=x@cache", UNREADABLE),
        ("redis://me:12?hunter2=x@cache", UNREADABLE),
        ("redis://me:12#hunter2@cache", UNREADABLE),
        ("redis://cache:abc", UNREADABLE),
        ("redis://cache:99999", UNREADABLE),
        ("redis://cache:0", UNREADABLE),
        ("redis://cache/x", UNREADABLE),
        ("redis://[::1", UNREADABLE),
        ("redis://cache?socket_timeout=abc", "the option socket_timeout cannot be used"),
        ("redis://cache?foo=hunter2", "the option foo cannot be used"),
        ("redis://cache?db=x", "the option db cannot be used"),
        ("redis://cache?protocol=4", "the option protocol cannot be used"),
        ("redis://cache?ssl_cert_reqs=none", "the option ssl_cert_reqs cannot be used"),
        ("rediss://cache?ssl_cert_reqs=no", "the option ssl_cert_reqs cannot be used"),
        ("rediss://cache?ssl_keyfile=hunter2", "the option ssl_keyfile cannot be used without ssl_certfile"),
    ],
)
def test_an_address_that_does_not_lead_to_redis_is_refused_without_its_values(address: str, complaint: str) -> None:
    line = refusal(DATABASE_URL="postgresql+asyncpg://me@db/parley", REDIS_URL=address)
    assert line.startswith("REDIS_URL: expected redis://HOST:PORT")
    assert line.endswith(f"; {complaint}")
    assert "hunter2" not in line


def test_a_cluster_has_one_database() -> None:
    given = {"DATABASE_URL": "postgresql+asyncpg://me@db/parley", "REDIS_CLUSTER": "true"}
    for address in ("redis://cache/1", "redis://cache?db=1"):
        assert refusal(**given, REDIS_URL=address).endswith("; a cluster has no database but 0")
    assert Settings.from_environment({**given, "REDIS_URL": "redis://cache/0"}).redis_cluster


@pytest.mark.parametrize(
    ("database", "redis"),
    [
        (f"{POSTGRESQL}:5433/parley?ssl=verify-full", "redis://:p%40ss@cache:6379/1?socket_timeout=5&protocol=3&decode_responses=true"),
        ("postgresql+asyncpg://me@/parley?host=/run/postgresql&port=5433", "redis://[::1]:6379"),
        (
            "postgresql+asyncpg://me:a/b?c@/parley?host=a:1&host=b:2&target_session_attrs=read-write",
            "redis://me:p@ss@cache/0?client_name=me",
        ),
        ("postgresql+asyncpg://me@/parley?host=a,b&port=1,2", "rediss://cache?ssl_cert_reqs=none&ssl_certfile=a&ssl_keyfile=b"),
    ],
)
def test_addresses_may_say_what_all_that_follow_them_understand(database: str, redis: str) -> None:
    settings = Settings.from_environment({"DATABASE_URL": database, "REDIS_URL": redis})
    assert (settings.database_url, settings.redis_url) == (database, redis)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "::1"])
def test_a_loopback_address_needs_no_permission(host: str) -> None:
    assert Settings.from_environment({"HOST": host}).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_any_other_address_needs_permission(host: str) -> None:
    assert refusal(HOST=host).startswith("HOST: expected a loopback address")
    assert Settings.from_environment({"HOST": host, "ALLOW_INSECURE_BIND": "true"}).host == host


def test_postgresql_and_redis_come_together() -> None:
    settings = Settings.from_environment({"DATABASE_URL": "postgresql+asyncpg://me@db/parley", "REDIS_URL": "redis://cache:6379/1"})
    assert settings.distributed
    assert not Settings.from_environment({}).distributed
    assert (settings.worker_concurrency, settings.database_pool_size) == (100, 10)
    assert (settings.lock_timeout_s, settings.idle_transaction_timeout_s, settings.statement_timeout_s) == (3, 2, 15)


def test_databases_that_share_a_redis_are_told_apart() -> None:
    shared = {"DATABASE_URL": "postgresql+asyncpg://me@db/parley", "REDIS_URL": "redis://cache:6379"}
    for more, expected in (({}, "parley:"), ({"REDIS_PREFIX": "staging:"}, "staging:")):
        bus = bus_of(Settings.from_environment({**shared, **more}))
        assert isinstance(bus, RedisBus)
        assert bus.prefix == expected


def test_who_waits_for_a_lock_outlasts_who_has_stopped_with_it() -> None:
    assert refusal(LOCK_TIMEOUT_S="2", IDLE_TRANSACTION_TIMEOUT_S="2").startswith("IDLE_TRANSACTION_TIMEOUT_S: expected seconds")


def test_secrets_are_never_shown() -> None:
    provider = json.dumps({"local": {"base_url": "http://a", "api_key": SECRET}})
    local = {"command": "uvx", "args": [f"--key={SECRET}"], "env": {"KEY": SECRET}}
    tools = json.dumps({"local": local, "far": {"url": f"http://a/{SECRET}", "headers": {"Authorization": SECRET}}})
    servers = {"MCP_SERVERS": tools, "DATABASE_URL": f"postgresql+asyncpg://me:{SECRET}@db/parley", "REDIS_URL": f"redis://:{SECRET}@cache"}
    shown = repr(Settings.from_environment({"OPENAI_API_KEY": SECRET, "PROVIDERS": provider, **servers}))
    wrong = refusal(DATABASE_URL=f"postgresql://me:{SECRET}@db/parley"), refusal(PROVIDERS=provider.replace("http", "ftp"))
    wrong += refusal(MCP_SERVERS=tools.replace("http", "ftp")), refusal(MCP_SERVERS=tools.replace(SECRET, f"{SECRET}\\n"))
    assert SECRET not in " ".join([shown, *wrong])


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.from_environment({}).port = 1

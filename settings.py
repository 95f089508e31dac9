"""Everything that can be set, read once from the environment by the programs (`app.py`, `python -m runs`, `python -m db`).

Packages never import this: they are given the values they need. A field's description says what its variable is expected
to hold; it is also what the one-line refusal of a wrong value says. No value is ever printed, since it may be a secret.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    PositiveInt,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from db.address import DatabaseAddressUnusable, check_database_address
from streams.redis_address import RedisAddressUnusable, check_redis_address

DEFAULT_MODELS = {"openai": "openai/gpt-5-mini", "anthropic": "anthropic/claude-sonnet-5-5", "google": "google/gemini-3.8-flash"}


class SettingsError(Exception):
    """The environment holds a value that cannot be used; the message is one line that names the variable."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ProviderModel(_Frozen):
    context_window: PositiveInt


class Provider(_Frozen):
    """A server that speaks OpenAI's chat-completions protocol."""

    base_url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+\S*$")]
    api_key: SecretStr | None = None
    models: dict[str, ProviderModel] = {}


def _header(name: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise ValueError("is no name of a header")
    return name


def _header_value(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\t -~\x80-\xff]*", value.get_secret_value()):
        raise ValueError("cannot stand in a header")
    return value


class ToolServer(_Frozen):
    """An MCP server: a command that is started here, or an address that is spoken to over streamable HTTP."""

    type: Literal["stdio", "http", "streamable-http"] | None = None
    command: Annotated[str, StringConstraints(min_length=1)] | None = None
    args: tuple[str, ...] = Field((), repr=False)
    env: dict[str, SecretStr] = {}
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+\S*$")] | None = Field(None, repr=False)
    headers: dict[Annotated[str, AfterValidator(_header)], Annotated[SecretStr, AfterValidator(_header_value)]] = {}
    requires_approval: bool = False
    timeout_s: float = Field(60, gt=0, le=3600)

    @model_validator(mode="after")
    def _reached_in_one_way(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise PydanticCustomError("tool_server", "either a command or a url")
        if self.headers if self.url is None else self.args or self.env:
            raise PydanticCustomError("tool_server", "args and env go with a command, headers with a url")
        if self.type is not None and (self.type == "stdio") != (self.url is None):
            raise PydanticCustomError("tool_server", "stdio goes with a command, http with a url")
        return self


def _provider_name(name: str) -> str:
    if name in DEFAULT_MODELS or name == "demo":
        raise ValueError(f"{name} is built in")
    return name


def _comma_separated(value: object) -> object:
    return [part for raw in value.split(",") if (part := raw.strip())] if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


ProviderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"), AfterValidator(_provider_name)]
ToolServerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
Origin = Annotated[str, StringConstraints(pattern=r"^(\*|https?://[^\s/,]+)$")]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]


def _default_model(data: dict[str, Any]) -> str:
    """The first provider with a key, else the demo: an answer must be possible without any key."""
    return next((model for provider, model in DEFAULT_MODELS.items() if data.get(f"{provider}_api_key")), "demo/echo")


class DatabaseSettings(_Frozen):
    """For programs that only work on the tables: nobody hears of that, so they need no bus."""

    model_config = ConfigDict(alias_generator=str.upper, extra="ignore")

    database_url: str = Field(
        "sqlite+aiosqlite:///parley.db",
        pattern=r"^(sqlite\+aiosqlite:///[^:?]|postgresql\+asyncpg://[^/]*/[^/?]+)",
        repr=False,
        description="sqlite+aiosqlite:///FILE, or postgresql+asyncpg://USER:PASSWORD@HOST/NAME (PostgreSQL needs REDIS_URL)",
    )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """A variable that is set to nothing counts as not set. Raises SettingsError."""
        given = {name: stripped for name, value in environ.items() if (stripped := value.strip())}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise SettingsError(_refusal(error)) from None

    @model_validator(mode="after")
    def _database_can_be_addressed(self) -> Self:
        try:
            check_database_address(self.database_url)
        except DatabaseAddressUnusable as error:
            raise _unusable("database_url", error) from None
        return self


class Settings(DatabaseSettings):
    host: str = Field("127.0.0.1", description="a name or address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="a port number from 0 to 65535 (0: any free one)")
    allow_insecure_bind: bool = Field(False, description="true or false")
    auth: Literal["none"] = Field("none", description="none (jwt is not in this version)")
    cors_origins: Annotated[tuple[Origin, ...], BeforeValidator(_comma_separated)] = Field(
        (), description="origins such as https://example.org, separated by commas, or *"
    )

    redis_url: str | None = Field(
        None,
        pattern=r"^rediss?://[^\s/]",
        repr=False,
        description="redis://HOST:PORT (rediss: with TLS) beside PostgreSQL, nothing beside SQLite, which is for one process",
    )
    redis_cluster: bool = Field(False, description="true or false")
    redis_prefix: str = Field(
        "parley:", pattern=r"^[A-Za-z0-9._:-]{1,64}$", description="up to 64 letters, digits or ._:- that all channels begin with"
    )
    database_pool_size: int = Field(10, ge=1, le=1000, description="connections from 1 to 1000, for reading and for writing each")
    lock_timeout_s: float = Field(3, gt=0, le=60, description="seconds, more than 0, up to 60")
    idle_transaction_timeout_s: float = Field(2, gt=0, le=60, description="seconds, more than 0, up to 60 (and below LOCK_TIMEOUT_S)")
    statement_timeout_s: float = Field(15, ge=1, le=3600, description="seconds from 1 to 3600")
    worker_concurrency: int = Field(100, ge=1, le=10_000, description="a whole number from 1 to 10000")

    openai_api_key: SecretStr | None = Field(None, description="a key of OpenAI")
    anthropic_api_key: SecretStr | None = Field(None, description="a key of Anthropic")
    google_api_key: SecretStr | None = Field(None, description="a key of Google")
    providers: Json[dict[ProviderName, Provider]] = Field(
        {}, description='JSON such as {"local": {"base_url": "http://127.0.0.1:8080/v1", "models": {"qwen3": {"context_window": 32768}}}}'
    )
    default_model: str = Field(
        default_factory=_default_model,
        pattern=r"^[^\s/]+/\S+$",
        description="PROVIDER/NAME, of a provider that has a key or stands in PROVIDERS",
    )
    mcp_servers: Json[dict[ToolServerName, ToolServer]] = Field(
        {}, description='JSON such as {"files": {"command": "uvx", "args": ["some-server"]}, "search": {"url": "https://example.org/mcp"}}'
    )
    demo_delay_ms: float = Field(20, ge=0, le=60_000, description="milliseconds from 0 to 60000")

    model_first_token_timeout_s: float = Field(300, ge=1, le=3600, description="seconds from 1 to 3600")
    model_idle_timeout_s: float = Field(120, ge=1, le=3600, description="seconds from 1 to 3600")
    model_retries: int = Field(4, ge=0, le=20, description="a whole number from 0 to 20")

    lease_s: float = Field(15, ge=1, le=3600, description="seconds from 1 to 3600")
    max_attempts: int = Field(3, ge=1, description="a whole number, 1 or more")
    delta_retention_s: float = Field(3600, ge=0, le=31_536_000, description="seconds from 0 to 31536000 (a year)")
    approval_expiry_s: float | None = Field(
        None, ge=1, le=31_536_000, description="seconds from 1 to 31536000 (a year), nothing to wait for approvals for ever"
    )
    max_replay: int = Field(10_000, ge=1, description="a whole number, 1 or more")
    max_page_size: int = Field(200, ge=1, description="a whole number, 1 or more")
    metrics_host: str = Field("127.0.0.1", description="a name or address for a worker's metrics to listen on")
    metrics_port: int | None = Field(None, ge=1, le=65535, description="a port number from 1 to 65535 for a worker's metrics, or nothing")
    log_level: LogLevel = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")

    @property
    def distributed(self) -> bool:
        """Any number of processes on PostgreSQL and Redis, instead of one on SQLite."""
        return self.database_url.startswith("postgresql")

    @model_validator(mode="after")
    def _bus_spans_who_shares_the_database(self) -> Self:
        if self.distributed != (self.redis_url is not None):
            name = "database_url" if self.distributed else "redis_url"
            raise PydanticCustomError(name, "{line}", {"line": f"{name.upper()}: {_expected(name)}"})
        return self

    @model_validator(mode="after")
    def _bus_can_be_addressed(self) -> Self:
        try:
            if self.redis_url is not None:
                check_redis_address(self.redis_url, cluster=self.redis_cluster)
        except RedisAddressUnusable as error:
            raise _unusable("redis_url", error) from None
        return self

    @model_validator(mode="after")
    def _patience_outlasts_a_stopped_holder(self) -> Self:
        if self.idle_transaction_timeout_s >= self.lock_timeout_s:
            raise PydanticCustomError(
                "timeouts", "{line}", {"line": f"IDLE_TRANSACTION_TIMEOUT_S: {_expected('idle_transaction_timeout_s')}"}
            )
        return self

    @model_validator(mode="after")
    def _model_has_a_provider(self) -> Self:
        provider = self.default_model.partition("/")[0]
        if provider != "demo" and provider not in self.providers and not getattr(self, f"{provider}_api_key", None):
            raise PydanticCustomError("default_model", "DEFAULT_MODEL: {expected}", {"expected": _expected("default_model")})
        return self

    @model_validator(mode="after")
    def _open_only_to_this_machine(self) -> Self:
        if not (self.allow_insecure_bind or _is_loopback(self.host)):
            raise PydanticCustomError(
                "host",
                "HOST: expected a loopback address, since AUTH is none and anyone could come in (ALLOW_INSECURE_BIND=true to allow it)",
            )
        return self


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _unusable(name: Literal["database_url", "redis_url"], error: Exception) -> PydanticCustomError:
    return PydanticCustomError(name, "{line}", {"line": f"{name.upper()}: {_expected(name)}; {error}"})


def _expected(field: str) -> str:
    return f"expected {Settings.model_fields[field].description}"


def _refusal(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if not first["loc"]:
        return first["msg"]
    name, *inside = map(str, first["loc"])
    where = f"; {'.'.join(inside)}: {first['msg']}" if inside else ""
    return " ".join(f"{name}: {_expected(name.lower())}{where}".split())

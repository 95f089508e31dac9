"""Frozen values out of JSON columns. Into them goes any dataclass as it is (`types.dump_json`).

Unknown keys are passed over, so that a row written by a newer version can still be read.
"""

from dataclasses import asdict
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from db.types import dump_json
from vocabulary.compaction import CompactionSettings, CompactionStats
from vocabulary.conversations import AgentTool
from vocabulary.messages import BODY_OF, ErrorBody, MessageBody, MessageType, ToolCall
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import RunError, RunErrorType, RunRequest, Usage

settings = TypeAdapter(ModelSettings)
compaction_settings = TypeAdapter(CompactionSettings)
compaction_stats = TypeAdapter(CompactionStats)
agent_tools = TypeAdapter(tuple[AgentTool, ...])
usage = TypeAdapter(Usage)
run_error = TypeAdapter(RunError)
tool_call = TypeAdapter(ToolCall)
_run_request = TypeAdapter(RunRequest)
_bodies: dict[MessageType, TypeAdapter[MessageBody]] = {kind: TypeAdapter(body) for kind, body in BODY_OF.items()}

_UNREADABLE = ErrorBody(error=RunError(RunErrorType.INTERNAL, "This message was stored by a version that this server cannot read."))


def stored_request(request: RunRequest) -> dict[str, Any]:
    """Parameters of tools as text: PostgreSQL would not keep the order of their keys, which the model is shown."""
    tools = [{**asdict(tool), "parameters": dump_json(tool.parameters)} for tool in request.client_tools]
    return {**asdict(request), "client_tools": tools}


def run_request(stored: dict[str, Any]) -> RunRequest:
    tools = [{**tool, "parameters": _parameters(tool["parameters"])} for tool in stored.get("client_tools", ())]
    return _run_request.validate_python({**stored, "client_tools": tools})


def _parameters(stored: str | dict[str, Any]) -> dict[str, Any]:
    """Once they were stored as they are."""
    return orjson.loads(stored) if isinstance(stored, str) else stored


def message_type_and_body(kind: str, body: Any) -> tuple[MessageType, MessageBody]:
    """What cannot be read is shown as an ERROR message, so that one odd row never hides a whole page."""
    try:
        message_type = MessageType(kind)
        return message_type, _bodies[message_type].validate_python(body, strict=False)
    except (ValueError, ValidationError):
        return MessageType.ERROR, _UNREADABLE

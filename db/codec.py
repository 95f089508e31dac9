"""Frozen values out of JSON columns. Into them goes any dataclass as it is (`types.dump_json`).

Unknown keys are passed over, so that a row written by a newer version can still be read.
"""

from typing import Any

from pydantic import TypeAdapter, ValidationError

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
run_request = TypeAdapter(RunRequest)
tool_call = TypeAdapter(ToolCall)
_bodies: dict[MessageType, TypeAdapter[MessageBody]] = {kind: TypeAdapter(body) for kind, body in BODY_OF.items()}

_UNREADABLE = ErrorBody(error=RunError(RunErrorType.INTERNAL, "This message was stored by a version that this server cannot read."))


def message_type_and_body(kind: str, body: Any) -> tuple[MessageType, MessageBody]:
    """What cannot be read is shown as an ERROR message, so that one odd row never hides a whole page."""
    try:
        message_type = MessageType(kind)
        return message_type, _bodies[message_type].validate_python(body, strict=False)
    except (ValueError, ValidationError):
        return MessageType.ERROR, _UNREADABLE

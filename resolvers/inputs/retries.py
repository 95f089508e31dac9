"""Telling a retry from another request under the same key."""

from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any, TypeVar

import orjson

from runs.commands.compact import CompactRequest
from runs.commands.conversations import NewConversation
from runs.commands.fork import NewFork
from runs.commands.respond import Respond
from runs.commands.send import Send

Request = TypeVar("Request", NewConversation, NewFork, Send, Respond, CompactRequest)


def hashed(request: Request) -> Request:
    """With the hash by which a retry is told from another request under the same key. Defaults that were spelled out change nothing."""
    body: dict[str, Any] = {key: value for key, value in asdict(request).items() if key not in ("idempotency_key", "body_hash")}
    return replace(request, body_hash=sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest())

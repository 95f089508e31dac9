"""Images as a provider can take them, where it does not follow links itself: fetched here, from public addresses only.

One that cannot be had is said to be missing. It stays in the history, and must not make every later call fail.
"""

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import httpx2
import structlog
from pydantic_ai.exceptions import AgentRunError, UserError
from pydantic_ai.messages import ImageUrl
from pydantic_ai.models import download_item

from llm.model import Turn, UserTurn
from vocabulary.messages import ContentPart, ImagePart, TextPart

log = structlog.stdlib.get_logger()

MISSING = TextPart("(An image that could not be read.)")

Fetch = Callable[[ImagePart], Awaitable[ImagePart]]


async def fetched(image: ImagePart) -> ImagePart:
    """As a data URI."""
    item = await download_item(ImageUrl(image.url, media_type=image.media_type), data_format="bytes")
    return ImagePart(f"data:{item['data_type']};base64,{b64encode(item['data']).decode()}", item["data_type"])


async def inlined(history: Sequence[Turn], fetch: Fetch = fetched) -> list[Turn]:
    """The history with its links followed, all at once."""
    return list(await asyncio.gather(*(_inlined(turn, fetch) for turn in history)))


async def _inlined(turn: Turn, fetch: Fetch) -> Turn:
    if not isinstance(turn, UserTurn):
        return turn
    return replace(turn, content=tuple(await asyncio.gather(*(_resolved(part, fetch) for part in turn.content))))


async def _resolved(part: ContentPart, fetch: Fetch) -> ContentPart:
    if not isinstance(part, ImagePart) or part.url.startswith("data:"):
        return part
    try:
        return await fetch(part)
    except (ValueError, OSError, httpx2.HTTPError, UserError, AgentRunError) as error:
        log.info("an image could not be fetched for a provider", error=type(error).__name__)
        return MISSING

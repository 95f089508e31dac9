"""What a tool of another server has answered, as the text that a model is shown. Pure.

What is no text is named, with its size, and not shown: a model that is told nothing would ask again.
"""

import json
from typing import assert_never

from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)


def text_of(result: CallToolResult) -> str:
    """Structured content only where there is nothing else: a server that has it says the same as text, for those who read only that."""
    if result.content:
        return "\n".join(map(_text, result.content))
    return "" if result.structured_content is None else json.dumps(result.structured_content, ensure_ascii=False)


def _text(block: ContentBlock) -> str:
    match block:
        case TextContent():
            return block.text
        case ImageContent():
            return _unshown("image", block.mime_type, block.data)
        case AudioContent():
            return _unshown("audio", block.mime_type, block.data)
        case ResourceLink():
            return f"[resource {block.name}: {block.uri}]{f' {block.description}' if block.description else ''}"
        case EmbeddedResource():
            return _resource(block.resource)
        case _:
            assert_never(block)


def _resource(resource: TextResourceContents | BlobResourceContents) -> str:
    if isinstance(resource, TextResourceContents):
        return f"[resource {resource.uri}]\n{resource.text}"
    return _unshown(f"resource {resource.uri}", resource.mime_type, resource.blob)


def _unshown(what: str, media_type: str | None, base64: str) -> str:
    size = len(base64.rstrip("=")) * 3 // 4
    return f"[{what}{f', {media_type}' if media_type else ''}, {size} bytes, not shown]"

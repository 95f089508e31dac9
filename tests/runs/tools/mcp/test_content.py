"""Whatever a tool of another server answers becomes text that a model can do something with."""

import pytest
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

from runs.tools.mcp.content import text_of


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (TextContent(text="plain"), "plain"),
        (ImageContent(data="iVBORw==", mime_type="image/png"), "[image, image/png, 4 bytes, not shown]"),
        (AudioContent(data="UklG", mime_type="audio/wav"), "[audio, audio/wav, 3 bytes, not shown]"),
        (ResourceLink(name="notes", uri="file:///notes"), "[resource notes: file:///notes]"),
        (ResourceLink(name="notes", uri="file:///notes", description="Mine."), "[resource notes: file:///notes] Mine."),
        (EmbeddedResource(resource=TextResourceContents(uri="file:///a", text="words")), "[resource file:///a]\nwords"),
        (EmbeddedResource(resource=BlobResourceContents(uri="file:///a", blob="AAAA")), "[resource file:///a, 3 bytes, not shown]"),
    ],
)
def test_every_kind_of_content_is_told(block: ContentBlock, text: str) -> None:
    assert text_of(CallToolResult(content=[block])) == text


def test_pieces_stand_below_each_other() -> None:
    assert text_of(CallToolResult(content=[TextContent(text="one"), TextContent(text="two")])) == "one\ntwo"


def test_structure_is_told_only_where_there_is_no_text() -> None:
    assert text_of(CallToolResult(content=[], structured_content={"ü": 1})) == '{"ü": 1}'
    assert text_of(CallToolResult(content=[TextContent(text="one")], structured_content={"n": 1})) == "one"
    assert text_of(CallToolResult(content=[])) == ""

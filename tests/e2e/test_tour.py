"""A newcomer's tour in a real browser: GraphiQL, as the README tells it, tab by tab, with nothing but the mouse and the ids it shows."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from playwright.async_api import Page, WebSocket, expect
from playwright.async_api import TimeoutError as TookTooLong

from tests.e2e.client import DEADLINE_S, grown
from tests.e2e.server import serving
from tests.transports.browser import browsing

# So slow that there is a middle to stop in, and not more words than the page shows events.
DELAY_MS, QUESTION = "100", " ".join(f"word{number}" for number in range(30))
POLLING_MS = 50  # by the clock: a window behind another is given no frames to look at
EDITOR = ".graphiql-query-editor .CodeMirror"
SHOWN = ".graphiql-response .CodeMirror"
REPLACE = "(e, all) => e.CodeMirror.setValue(all.reduce((said, [old, given]) => said.replace(RegExp(old), given), e.CodeMirror.getValue()))"


async def edit(page: Page, tab: str, *replacements: tuple[str, str]) -> None:
    """Replaces all at once in the editor of a tab, whose name is that of its operation.

    Whoever comes back to a tab may find what it held before its last edit: GraphiQL stores that a moment later.
    """
    await page.get_by_role("tab", name=tab).click()
    await _has_seen_its_operation(page, tab)
    editor = page.locator(EDITOR)
    for pattern, _ in replacements:
        await expect(editor).to_contain_text(re.compile(pattern))
    await editor.evaluate(REPLACE, replacements)
    await _has_seen_its_operation(page, tab)


async def _has_seen_its_operation(page: Page, tab: str) -> None:
    """GraphiQL takes a moment to show another tab, and to see what an editor holds."""
    await page.wait_for_function(
        "([editor, tab]) => document.querySelector(editor).CodeMirror.operationName === tab", arg=[EDITOR, tab], polling=POLLING_MS
    )


async def execute(page: Page, until: str) -> dict[str, Any]:
    """Runs what is in the editor; the answer, once it contains something."""
    await page.get_by_label("Execute query").click()
    try:
        await page.wait_for_function(
            "([shown, until]) => document.querySelector(shown).CodeMirror.getValue().includes(until)",
            arg=[SHOWN, until],
            polling=POLLING_MS,
        )
    except TookTooLong:
        raise AssertionError(await page.locator("body").inner_text()) from None
    return await shown(page)


async def shown(page: Page) -> dict[str, Any]:
    return json.loads(await page.locator(SHOWN).evaluate("e => e.CodeMirror.getValue()"))


def oldest_first(answer: dict[str, Any]) -> list[dict[str, Any]]:
    events = [event["data"]["conversationEvents"] for event in reversed(answer["newestFirst"])]
    assert len(events) == answer["received"], "none has been dropped for want of room"
    return events


async def test_a_newcomer_follows_an_answer_stops_in_its_middle_and_gets_the_rest(tmp_path: Path) -> None:
    sockets: list[WebSocket] = []
    errors: list[str] = []
    async with serving(tmp_path, DEMO_DELAY_MS=DELAY_MS) as server, browsing(tmp_path / "profile") as page:
        page.on("websocket", lambda socket: sockets.append(socket))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_default_timeout(DEADLINE_S * 1000)
        await page.goto(server.url.removesuffix("/graphql"))
        agent = await execute(page, '"createAgent"')
        await edit(page, "CreateConversation", ("agent-…", agent["data"]["createAgent"]["agent"]["id"]))
        conversation = await execute(page, '"createConversation"')
        id_ = conversation["data"]["createConversation"]["conversation"]["id"]
        await edit(page, "Follow", ("conv-…", id_))
        await execute(page, '"CaughtUp"')

        window = await page.context.new_page()
        await window.goto(server.url)
        await edit(window, "SendMessage", ("conv-…", id_), ('text: "[^"]*"', f'text: "{QUESTION}"'))
        await execute(window, '"appliedThroughSequence"')

        await page.bring_to_front()
        await page.wait_for_function(
            "shown => document.querySelector(shown).CodeMirror.getValue().includes('\" word2\"')", arg=SHOWN, polling=POLLING_MS
        )
        await page.screenshot(path=tmp_path / "following.png")
        (socket,) = sockets
        async with socket.expect_event("close"):
            await page.get_by_label("Stop query").click()
        before = oldest_first(await shown(page))
        assert before[-1]["payload"]["__typename"] == "MessageDelta"

        await edit(page, "Follow", ("after: 0", f"after: {before[-1]['sequence']}"))
        after = oldest_first(await execute(page, '"COMPLETED"'))
        await page.screenshot(path=tmp_path / "resumed.png")

        await edit(page, "History", ("conv-…", id_))
        history = await execute(page, '"messages"')

    assert errors == []
    assert all(later["previousSequence"] == earlier["sequence"] for earlier, later in pairwise([*before, *after]))
    text = ""
    for event in [*before, *after]:
        if event["payload"]["__typename"] == "MessageDelta":
            text = grown(text, event["payload"]["offset"], event["payload"]["text"])
    assert [text, text] == [
        f"You said: {QUESTION}",
        history["data"]["conversation"]["messages"]["nodes"][-1]["text"],
    ]

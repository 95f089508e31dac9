"""GraphiQL in a real browser that can reach nothing but this server."""

import re
from pathlib import Path

from graphql import build_schema, parse, validate
from playwright.async_api import Page, Request, expect

from tests.transports.browser import browsing
from tests.transports.serving import Served
from transports import explorer

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def test_a_browser_is_given_the_page_whoever_it_is(served: Served) -> None:
    response = await served.http.get("/graphql", headers={**HTML, "x-actor": "nobody"})
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert response.headers["vary"] == "Accept"
    assert "GraphiQL" in response.text


async def test_a_browser_that_brings_a_query_is_given_its_answer(served: Served) -> None:
    response = await served.http.get("/graphql", headers=HTML, params={"query": "{ actor }"})
    assert response.json() == {"data": {"actor": "default"}}


async def test_all_that_the_page_loads_is_served_here(served: Served) -> None:
    links = re.findall(r'(?:src|href)="([^"]*)"', explorer.page())
    assert len(links) == 6
    for link in links:
        if not link.startswith("data:"):
            response = await served.http.get(f"/{link}")
            assert response.status_code == 200
            assert response.headers["content-type"].startswith(("text/css", "text/javascript", "application/javascript"))


def test_the_tour_fits_our_schema() -> None:
    root = Path(explorer.__file__).parent.parent
    schema = build_schema((root / "schema/schema.graphql").read_text("utf-8"))
    assert validate(schema, parse((root / "transports/tour.graphql").read_text("utf-8"))) == []


async def write(page: Page, tab: str, query: str, *, named: str) -> None:
    """Replaces what is in the query editor of a tab; its new title says that GraphiQL has read it."""
    await page.get_by_role("tab", name=tab).click()
    editor = page.locator(".graphiql-query-editor .CodeMirror")
    await editor.evaluate("(element, text) => element.CodeMirror.setValue(text)", query)
    await expect(page.get_by_role("tab", name=named)).to_be_visible()


async def test_a_newcomer_explores_follows_stops_and_resumes(served: Served, tmp_path: Path) -> None:
    counter = served.world.counters["a"]
    strangers = list[str]()
    errors = list[str]()

    def note(request: Request) -> None:
        if not request.url.startswith((f"http://127.0.0.1:{served.port}/", "data:")):
            strangers.append(request.url)

    async with browsing(tmp_path) as page:
        page.on("request", note)
        page.on("pageerror", lambda error: errors.append(str(error)))
        await page.goto(f"http://127.0.0.1:{served.port}/graphql")
        answer = page.locator(".graphiql-response")
        execute = page.get_by_label("Execute query")

        await expect(page.get_by_role("tab", name="CreateAgent")).to_be_visible()
        await expect(page.get_by_role("tab", name="Follow")).to_be_visible()

        await write(page, "CreateAgent", 'mutation Remember { remember(text: "x") }', named="Remember")
        await execute.click()
        await expect(answer).to_contain_text('"remember": 1')

        await write(page, "Follow", 'subscription Numbers { count(name: "a") }', named="Numbers")
        await execute.click()
        for number in (1, 2, 3):
            counter.steps.release()
            await expect(answer).to_contain_text(f'"count": {number}')
        await expect(answer).to_contain_text('"received": 3')
        await page.screenshot(path=tmp_path / "following.png")

        await page.get_by_label("Stop query").click()
        await counter.ended.wait()

        await write(page, "Numbers", 'subscription Again { count(name: "a", upto: 2) }', named="Again")
        counter.steps.release()
        counter.steps.release()
        await execute.click()
        await expect(answer).to_contain_text('"received": 2')
        await expect(execute).to_be_visible()

    assert (strangers, errors) == ([], [])

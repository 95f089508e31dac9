"""The stub provider itself, where the tests of the adapter do not show it: it counts, waits and notices who leaves."""

import asyncio

import httpx2
import pytest

from tests.provider import Answer, Call, Provider

ASKED = {"model": "m", "stream": True, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}


async def _lines(provider: Provider, client: httpx2.AsyncClient) -> list[str]:
    answered = await client.post(f"{provider.base_url}/chat/completions", json=ASKED)
    return [line for line in answered.text.split("\n") if line]


async def test_it_echoes_when_nothing_is_scripted_and_records_what_it_was_asked() -> None:
    async with Provider() as provider, httpx2.AsyncClient() as client:
        lines = await _lines(provider, client)
        assert '"content": "You said"' in lines[1]
        assert lines[-1] == "data: [DONE]"
        assert [(request.path, request.body) for request in provider.requests] == [("/v1/chat/completions", ASKED)]


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with Provider() as provider, httpx2.AsyncClient(limits=httpx2.Limits(max_connections=1)) as client:
        provider.script(Answer(text="one"), Answer(status=429), Answer(tool_calls=[Call("t", "{}")]))
        for _ in range(3):
            await _lines(provider, client)
        assert provider.disconnects == []


async def test_a_cut_connection_is_an_error_for_the_client_unless_it_ends_politely() -> None:
    async with Provider() as provider, httpx2.AsyncClient() as client:
        provider.script(Answer(text="half an answer", cut_after=2), Answer(text="half an answer", cut_after=2, politely=True))
        with pytest.raises(httpx2.TransportError):
            await _lines(provider, client)
        assert len(await _lines(provider, client)) == 2


async def test_a_gate_holds_one_event_back_until_it_opens() -> None:
    gate = asyncio.Event()
    async with Provider() as provider, httpx2.AsyncClient() as client:
        provider.script(Answer(text=["a", "b"], gates={2: gate}))
        async with client.stream("POST", f"{provider.base_url}/chat/completions", json=ASKED) as answered:
            lines = aiter(answered.aiter_lines())
            assert [await anext(lines) for _ in range(4)][2].count('"a"') == 1
            gate.set()
            assert '"b"' in await anext(lines)


async def test_a_client_that_leaves_is_noticed_at_a_gate_and_while_stalled() -> None:
    async with Provider() as provider:
        provider.script(Answer(text="x", gates={1: asyncio.Event()}), Answer(text="x", stall_after=1))
        for number in (1, 2):
            async with (
                httpx2.AsyncClient() as client,
                client.stream("POST", f"{provider.base_url}/chat/completions", json=ASKED) as answered,
            ):
                await anext(aiter(answered.aiter_lines()))
            await provider.until(lambda number=number: len(provider.disconnects) == number)


async def test_waiting_for_what_does_not_come_has_an_end() -> None:
    async with Provider() as provider:
        with pytest.raises(TimeoutError):
            await provider.until(lambda: False, timeout_s=0.01)

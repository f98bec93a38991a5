"""What a connection leaves behind: nothing, without waiting for the collector of circular references."""

import asyncio
import gc
import weakref

import pytest
import uvicorn
import uvloop

from service.http.envelope import Envelope, Receive, Scope, Send
from service.http.metrics import Metrics
from service.serving.limits import Connections, Limits
from service.serving.protocol import HttpProtocol

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def answer_slowly(_scope: Scope, receive: Receive, send: Send) -> None:
    """A client that doesn't wait has left before its answer."""
    await receive()
    await asyncio.sleep(0.02)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("full", [False, True], ids=["served", "refused"])
@pytest.mark.parametrize("sent", [b"", GET, GET * 3, GET[:20]], ids=["nothing", "a request", "three", "half of one"])
@pytest.mark.parametrize("waits", [True, False], ids=["it waits for its answer", "it leaves before"])
def test_a_connection_that_is_gone_leaves_nothing_behind(full: bool, sent: bytes, waits: bool) -> None:
    async def come_and_go() -> None:
        loop = asyncio.get_running_loop()
        envelope = Envelope(answer_slowly, Metrics(), is_full=lambda _: full)
        config = uvicorn.Config(envelope, http=HttpProtocol, ws="none", interface="asgi3", log_config=None)
        config.load()
        state = Connections(Limits(), envelope)
        gone = asyncio.Event()
        left: list[weakref.ref[HttpProtocol]] = []

        def connect() -> HttpProtocol:
            protocol = HttpProtocol(config, state, {}, loop)
            left.append(weakref.ref(protocol, lambda _: gone.set()))
            return protocol

        async with await loop.create_server(connect, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(sent)
            await writer.drain()
            if waits and GET in sent:
                assert (await reader.read(65536)).startswith(b"HTTP/1.1 503" if full else b"HTTP/1.1 200")
            writer.close()
            await writer.wait_closed()
            await asyncio.wait_for(gone.wait(), 5)

    gc.disable()
    try:
        uvloop.run(come_and_go())
    finally:
        gc.enable()

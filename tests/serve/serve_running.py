"""A gateway on askesis-tiny, listening on a socket, in a thread of its own."""

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import openai

from askesis.serve import Gateway, Served, Server, Settings, listening


@dataclass
class Running:
    """A gateway that runs. `call(f)` runs `f()` on its event loop."""

    url: str
    gateway: Gateway
    engine: Any
    server: Server
    loop: asyncio.AbstractEventLoop

    def call(self, function):
        async def there():
            return function()

        return asyncio.run_coroutine_threadsafe(there(), self.loop).result(10)

    def openai(self, session=None, **options):
        url = f"{self.url}/s/{session}/v1" if session else f"{self.url}/v1"
        return openai.OpenAI(base_url=url, api_key="none", max_retries=0, **options)

    def anthropic(self, session=None, **options):
        url = f"{self.url}/s/{session}" if session else self.url
        return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, **options)

    def http(self, **options):
        return httpx.Client(base_url=self.url, timeout=60, **options)


@contextmanager
def running(bundle, *, settings=None, slots=32, context_length=1024, **options):
    """Start a gateway, and stop it in order."""
    up, stop, found, failure = threading.Event(), [], [], []

    async def main():
        engine = bundle.engine(slots=slots, context_length=context_length)
        served = Served(renderer=bundle.renderer, names=("askesis-tiny", "tiny"), checkpoint="askesis-tiny")
        gateway = Gateway(engine, served, settings=settings or Settings(), **options)
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(stopping.set))
        try:
            async with listening(gateway) as server:
                found.append(Running(server.url, gateway, engine, server, loop))
                up.set()
                await stopping.wait()
        finally:
            await engine.close()

    def work():
        try:
            asyncio.run(main())
        except BaseException as error:
            failure.append(error)
        finally:
            up.set()

    thread = threading.Thread(target=work, name="gateway")
    thread.start()
    up.wait(30)
    try:
        if failure:
            raise failure[0]
        yield found[0]
    finally:
        stop[0]()
        thread.join(60)
        assert not thread.is_alive()
    if failure:
        raise failure[0]

"""A vLLM server that somebody else has started: token ids in and out over its own HTTP routes.

It has to run with `VLLMSettings.flags()` and with `VLLM_SERVER_DEV_MODE=1`, under which vLLM offers the routes for
pauses, updates and calls of workers; whoever reaches them owns that server.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from askesis.inference.vllm.http import Client
from askesis.inference.vllm.local import finish_of
from askesis.inference.vllm.transport import Ask, Part, version_of
from askesis.types import EngineError


class Remote:
    """A `Transport` to `url` (`http://HOST:PORT`). key: what the server was given as `--api-key`, if it was."""

    def __init__(self, url: str, *, key: str = "") -> None:
        self._client = Client(url, key=key)

    @property
    def where(self) -> str:
        """For messages."""
        return f"the vLLM server {self._client.url}"

    async def start(self) -> None:
        """See whether it is there."""
        await self._client.get("/health")

    async def restart(self) -> None:
        """See whether whoever started it has done so again."""
        await self.start()

    async def sample(self, ask: Ask, *, name: str, stream: bool) -> AsyncGenerator[Part, None]:
        """The tokens of a request; see `Transport.sample`."""
        body = {"request_id": name, "token_ids": list(ask.prompt), "stream": stream, "priority": ask.priority}
        body |= {"sampling_params": _params(ask)}
        if not stream:
            answer = await self._client.post("/inference/v1/generate", body, seconds=24 * 3600)
            yield self._part(answer)
            return
        async with aclosing(self._client.events("/inference/v1/generate", body)) as events:
            async for event in events:
                if "choices" not in event:
                    raise EngineError(f"{self.where}: {event.get('error', event)}")
                if event["choices"]:
                    yield self._part(event)

    async def pause(self) -> None:
        """See `Transport.pause`."""
        await self._client.post("/pause?mode=abort&clear_cache=true")

    async def resume(self) -> None:
        """See `Transport.resume`."""
        await self._client.post("/resume")

    async def init_transfer(self, info: Mapping[str, Any]) -> None:
        """See `Transport.init_transfer`."""
        await self._client.post("/init_weight_transfer_engine", {"init_info": dict(info)})

    async def begin_update(self) -> None:
        """See `Transport.begin_update`."""
        await self._client.post("/start_weight_update")

    async def update(self, info: Mapping[str, Any]) -> None:
        """See `Transport.update`."""
        await self._client.post("/update_weights", {"update_info": dict(info)})

    async def finish_update(self) -> None:
        """See `Transport.finish_update`."""
        await self._client.post("/finish_weight_update")

    async def set_version(self, version: str) -> None:
        """See `Transport.set_version`."""
        await self._client.post("/update_weight_version", {"new_version": version})

    async def call(self, method: str, *args: str) -> list[Any]:
        """See `Transport.call`."""
        answer = await self._client.post("/collective_rpc", {"method": method, "args": list(args)})
        return list(answer["results"]) if answer else []

    async def close(self) -> None:
        """Close the connections; the server stays."""
        await self._client.close()

    def _part(self, answer: Mapping[str, Any]) -> Part:
        try:
            choice = answer["choices"][0]
            tokens = choice["token_ids"] or []
            content = (choice["logprobs"] or {}).get("content") or []
            spans = [(span["version"], span["start"], span["end"]) for span in choice["weight_versions"] or ()]
            return Part(
                tokens=tokens,
                logprobs=[one["logprob"] for one, _ in zip(content, tokens, strict=True)],
                finish=finish_of(choice["finish_reason"]),
                version=version_of(spans),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EngineError(
                f"{self.where} answered a request in a form that is not known ({type(error).__name__}: {error}): "
                f"{str(answer)[:300]}"
            ) from error


def _params(ask: Ask) -> dict[str, Any]:
    return {
        "temperature": ask.temperature,
        "top_k": ask.top_k,
        "top_p": ask.top_p,
        "min_p": ask.min_p,
        "max_tokens": ask.max_tokens,
        "stop_token_ids": list(ask.stop),
        "seed": ask.seed,
        "logprobs": 0,
        "ignore_eos": True,
        "detokenize": False,
    }

"""vLLM's `AsyncLLM` from this process: its engine runs in a child, its door is here."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

from askesis.inference.vllm.settings import ENVIRONMENT, VLLMSettings
from askesis.inference.vllm.transport import Ask, Finish, Part, version_of
from askesis.types import EngineError, EngineGone, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator

INSTALL = "pip install 'askesis[vllm]'"
_STARTING = threading.Lock()  # one at a time: a child's variables are those of this process meanwhile
_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", "abort": "abort"}


class Local:
    """A `Transport` on vLLM's async API. llm: one that exists already, as long as it was made with
    `settings.arguments()`; None makes one. env: variables for vLLM's child. Without `if __name__ == "__main__":` around
    it, a script cannot make one: vLLM starts its child afresh."""

    def __init__(self, settings: VLLMSettings, *, llm: Any = None, env: Mapping[str, str] | None = None) -> None:
        self._settings, self._llm, self._owned, self._env = settings, llm, llm is None, dict(env or {})

    @property
    def where(self) -> str:
        """For messages."""
        return "vLLM in this process"

    async def start(self) -> None:
        """Load the model. Raises `MissingExtra`, and `EngineError` where vLLM cannot."""
        if self._llm is not None:
            return
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)  # read in this process too
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise MissingExtra(
                f"engine 'vllm' runs vLLM in this environment, which cannot import it ({error}): {INSTALL}. Or keep "
                "vLLM in an environment of its own, with rollout.engine = 'vllm-server'"
            ) from error
        try:
            arguments = AsyncEngineArgs(**self._settings.arguments(), disable_log_stats=True, enable_log_requests=False)

            def make() -> Any:
                with _STARTING, _environment(self._env):
                    return AsyncLLM.from_engine_args(arguments)

            self._llm = await asyncio.to_thread(make)  # it blocks until the model is loaded, and others go on
        except Exception as error:
            raise EngineError(
                f"vLLM could not be started with {self._settings.checkpoint}: {type(error).__name__}: {error}"
            ) from error

    async def restart(self) -> None:
        """See `Transport.restart`; one that was given stays."""
        if self._owned:
            await self.close()
            await self.start()

    async def sample(self, ask: Ask, *, name: str, stream: bool) -> AsyncGenerator[Part, None]:
        """The tokens of a request; see `Transport.sample`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=ask.temperature,
            top_k=ask.top_k,
            top_p=ask.top_p,
            min_p=ask.min_p,
            max_tokens=ask.max_tokens,
            stop_token_ids=list(ask.stop),
            seed=ask.seed,
            logprobs=0,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
        )
        prompt = {"prompt_token_ids": list(ask.prompt)}
        with self._typed():
            outputs = self._llm.generate(prompt, params, name, session_id=ask.session, priority=ask.priority)
            async with aclosing(outputs):  # that aborts it in vLLM
                async for output in outputs:
                    yield part_of(output.outputs[0])

    async def pause(self) -> None:
        """See `Transport.pause`."""
        with self._typed():
            await self._llm.pause_generation(mode="abort", clear_cache=True)

    async def resume(self) -> None:
        """See `Transport.resume`."""
        with self._typed():
            await self._llm.resume_generation()

    async def init_transfer(self, info: Mapping[str, Any]) -> None:
        """See `Transport.init_transfer`."""
        with self._typed():
            await self._llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": dict(info)})

    async def begin_update(self) -> None:
        """See `Transport.begin_update`."""
        with self._typed():
            await self._llm.start_weight_update()

    async def update(self, info: Mapping[str, Any]) -> None:
        """See `Transport.update`."""
        with self._typed():
            await self._llm.collective_rpc("update_weights", kwargs={"update_info": dict(info)})

    async def finish_update(self) -> None:
        """See `Transport.finish_update`."""
        with self._typed():
            await self._llm.finish_weight_update()

    async def set_version(self, version: str) -> None:
        """See `Transport.set_version`."""
        with self._typed():
            await self._llm.update_weight_version(version)

    async def call(self, method: str, *args: str) -> list[Any]:
        """See `Transport.call`."""
        with self._typed():
            answers: list[Any] = await self._llm.collective_rpc(method, args=args)
        return answers

    async def close(self) -> None:
        """Shut vLLM down, unless it was given."""
        llm, self._llm = self._llm, None
        if llm is not None and self._owned:
            if (handler := getattr(llm, "output_handler", None)) is not None:
                handler.cancel()  # else it reports its engine's end as a failure
            await asyncio.to_thread(llm.shutdown)

    @contextmanager
    def _typed(self) -> Iterator[None]:
        """Whatever vLLM raises, as an `EngineError`."""
        if self._llm is None:
            raise EngineError("vLLM is not running: it was not started, or was closed")
        try:
            yield
        except (EngineError, asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:
            if type(error).__name__ == "EngineDeadError":
                raise EngineGone(f"{self.where}: its engine has died; its log says why") from error
            cause = error.__cause__
            detail = f" (because of {type(cause).__name__}: {cause})" if cause is not None else ""
            raise EngineError(f"{self.where}: {type(error).__name__}: {error}{detail}") from error


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """What a child that is started meanwhile finds in its environment."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def part_of(output: Any) -> Part:
    """A part out of vLLM's `CompletionOutput`. Raises `EngineError` for an end that is none."""
    tokens: Sequence[int] = list(output.token_ids)
    spans = [(span.version, span.start, span.end) for span in output.weight_versions or ()]
    return Part(
        tokens=tokens,
        logprobs=[one[token].logprob for one, token in zip(output.logprobs or (), tokens, strict=True)],
        finish=finish_of(output.finish_reason),
        version=version_of(spans),
    )


def finish_of(reason: str | None) -> Finish | None:
    """vLLM's reason for an end. Raises `EngineError` for one that is a failure."""
    if reason is None:
        return None
    if reason not in _FINISHES:
        raise EngineError(f"vLLM ended a request with {reason!r}: it failed there; its log says why")
    return _FINISHES[reason]

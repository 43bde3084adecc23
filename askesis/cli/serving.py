"""`askesis serve`."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer


def serve(
    checkpoint: Annotated[str, typer.Argument(help="askesis-tiny, a Hugging Face folder, or a run's folder.")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes any free one.")] = 8000,
    unix: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Listen on a Unix socket instead.", show_default=False)
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Lines NAME SECRET: who may use it. Without it, everyone.", show_default=False
        ),
    ] = None,
    record: Annotated[Path, typer.Option(metavar="DIR", help="Where traces are kept.")] = Path("runs/serve"),
    no_record: Annotated[bool, typer.Option("--no-record", help="Keep no traces.")] = False,
    model_name: Annotated[
        list[str], typer.Option(metavar="NAME", help="What the model answers to; repeatable.", show_default=False)
    ] = [],  # noqa: B006 - typer reads the default and never changes it
    any_model: Annotated[bool, typer.Option("--any-model", help="Answer to every name of a model.")] = False,
    no_thinking: Annotated[
        bool, typer.Option("--no-thinking", help="Requests that do not say are answered without thinking.")
    ] = False,
    slots: Annotated[int, typer.Option(min=1, help="Requests that are sampled at once; more wait.")] = 64,
    context_length: Annotated[
        int | None,
        typer.Option(min=2, help="Most tokens of prompt and answer.", show_default="the model's, to 4096"),
    ] = None,
    vllm: Annotated[
        str,
        typer.Option(
            metavar="WHERE", help="Sample in vLLM: the python of an environment with it, or a URL.", show_default=False
        ),
    ] = "",
    max_requests: Annotated[int, typer.Option(min=1, help="Requests in flight; more get a 503.")] = 256,
    key_requests: Annotated[
        int | None, typer.Option(min=1, help="In flight by one key; more get a 429.", show_default="no bound")
    ] = None,
    key_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens a minute by one key; more get a 429.", show_default="no bound")
    ] = None,
    max_body: Annotated[int, typer.Option(min=1024, help="Bytes of a request; more get a 413.")] = 4 * 2**20,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a request; then it gets a 504.")] = 600.0,
    idle: Annotated[float, typer.Option(min=0.1, help="Seconds after which a conversation becomes a trace.")] = 300.0,
    drain: Annotated[float, typer.Option(min=0.0, help="Seconds that requests get at the end.")] = 30.0,
) -> None:
    """Serve a checkpoint to OpenAI and Anthropic clients, and record what it says, token by token.

    Example: `askesis serve askesis-tiny`, then `curl localhost:8000/v1/chat/completions -d '{"model": "askesis-tiny",
    "messages": [{"role": "user", "content": "hi"}]}'`.
    """
    import uvloop

    from askesis.serve import Server, Settings, run
    from askesis.serve.keys import read_key_file

    settings = Settings(
        max_requests=max_requests,
        key_requests=key_requests,
        key_tokens=key_tokens,
        max_body=max_body,
        request_s=timeout,
        idle_s=idle,
        drain_s=drain,
        record=None if no_record else record,
    )
    known = () if keys is None else read_key_file(keys)
    if not known and host not in ("127.0.0.1", "localhost", "::1") and unix is None:
        print(f"warning: listening on {host} without keys: everyone who reaches it may use it", file=sys.stderr)
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING, stream=sys.stderr)

    if sys.stderr.isatty():
        print(f"loading {checkpoint} ...", file=sys.stderr)

    async def main() -> None:
        from askesis.loop.serving import open_gateway

        async with open_gateway(
            checkpoint,
            settings=settings,
            keys=known,
            names=model_name,
            any_name=any_model,
            thinking=False if no_thinking else None,
            slots=slots,
            context_length=context_length,
            vllm=vllm,
        ) as gateway:

            def started(server: Server) -> None:
                where = f"unix:{unix}" if unix is not None else server.url
                print(f"{gateway.served.name} at {where}/v1 (chat/completions, responses, messages)", file=sys.stderr)
                kept = "no traces are kept" if settings.record is None else f"traces in {settings.record}/traces.db"
                print(f"{kept}; Ctrl-C stops it", file=sys.stderr, flush=True)

            await run(gateway, host=host, port=port, unix=unix, started=started)
        print("stopped; nothing that was sampled is lost" if settings.record else "stopped", file=sys.stderr)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())

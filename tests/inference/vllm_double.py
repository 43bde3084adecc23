"""A double of vLLM's `AsyncLLM`: its methods, its outputs and its order of events, over a model of our own.

What a worker does with an update is the real code (`weights.received`); what is vLLM's own is restated: requests that
are aborted by a pause, those that come while paused, versions as spans at the end, outputs as deltas or at the end.
"""

import asyncio
import contextlib
import copy
import json
import sys
import types
from types import SimpleNamespace

import torch

from askesis.inference.vllm.weights import Refused, received
from askesis.models import fingerprint


class DoubleLLM:
    """`AsyncLLM` over a copy of `model`. dawdle: yields to the event loop before each token."""

    def __init__(self, model, *, context=128, version="default"):
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.context, self.version = context, version
        self.aborted, self.alive = set(), {}
        self.going = asyncio.Event()
        self.going.set()
        self.refused, self.calls, self.updating = "", [], False
        self.prompts, self.closed, self.spans = [], False, True

    async def generate(self, prompt, params, request_id, *, session_id=None, priority=0):
        tokens = list(prompt["prompt_token_ids"])
        assert 0 < len(tokens) < self.context and params.max_tokens >= 1
        self.prompts.append(tokens)
        self.alive[request_id] = params
        drawing = torch.Generator().manual_seed(params.seed)
        new, logprobs, told, spans, finish = [], [], 0, [], None
        try:
            while finish is None:
                await asyncio.sleep(0)
                while not self.going.is_set() and request_id not in self.aborted:
                    await asyncio.wait([asyncio.ensure_future(self.going.wait())], timeout=0.001)
                if request_id in self.aborted:
                    finish = "abort"
                else:
                    token, logprob = self._draw(tokens + new, params, drawing)
                    new.append(token)
                    logprobs.append({token: SimpleNamespace(logprob=logprob)})
                    if not spans or spans[-1].version != self.version:
                        spans.append(SimpleNamespace(version=self.version, start=len(new) - 1, end=len(new)))
                    spans[-1].end = len(new)
                    if token in params.stop_token_ids:
                        finish = "stop"
                    elif len(new) >= params.max_tokens or len(tokens) + len(new) >= self.context:
                        finish = "length"
                if finish or params.output_kind == "delta":
                    since, told = told, len(new)
                    out = SimpleNamespace(token_ids=new[since:], logprobs=logprobs[since:], finish_reason=finish)
                    out.weight_versions = spans if finish and self.spans else None
                    yield SimpleNamespace(outputs=[out])
        finally:
            self.aborted.discard(request_id)
            self.alive.pop(request_id, None)

    def _draw(self, sequence, params, drawing):
        logits = self.model.logits(self.model(torch.tensor([sequence])))[0, -1].float()
        logprobs = (logits / (params.temperature or 1.0)).log_softmax(-1)
        if params.temperature == 0:
            token = int(logits.argmax())
        else:
            token = int(torch.multinomial(logprobs.exp(), 1, generator=drawing))
        return token, float(logprobs[token])

    async def pause_generation(self, *, mode, clear_cache):
        assert mode == "abort" and clear_cache
        self.going.clear()
        self.aborted |= self.alive.keys()
        await asyncio.sleep(0)

    async def resume_generation(self):
        self.going.set()

    async def start_weight_update(self):
        assert not self.going.is_set() and not self.alive, "weights are swapped under requests in flight"
        self.calls.append("start")
        self.refused, self.updating = "", True

    async def finish_weight_update(self):
        self.calls.append("finish")
        self.updating = False

    async def update_weight_version(self, version):
        self.version = version

    async def collective_rpc(self, method, args=(), kwargs=None):
        if method == "askesis_prepare":
            vocab = self.model.config.vocab_size
            return [{"vocab": vocab, "context": self.context, "dtype": "float32", "truncates": True}]
        if method == "askesis_alive":
            return [{}]
        if method == "askesis_state":
            return [{"held": fingerprint(self.model), "refused": self.refused}]
        assert method == "update_weights" and self.updating
        self.calls.append("update")
        try:
            came = received(kwargs["update_info"], dict(self.model.named_parameters()))
        except Refused as error:
            self.refused, self.updating = str(error), False
            raise RuntimeError(f"Call to update_weights failed: {error}") from error
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(came[name])
        return [None]

    def shutdown(self):
        self.closed = True


class Params(SimpleNamespace):
    """`vllm.SamplingParams`, as far as it is used."""


def install(monkeypatch):
    """Let `import vllm` find what `Local` asks of it."""
    vllm, params = types.ModuleType("vllm"), types.ModuleType("vllm.sampling_params")
    vllm.SamplingParams = Params
    params.RequestOutputKind = SimpleNamespace(DELTA="delta", FINAL_ONLY="final")
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)


class Routes:
    """The routes of vLLM's server, over a `DoubleLLM`, as far as `Remote` calls them."""

    def __init__(self, llm):
        self.llm, self.asked = llm, []

    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body", False)
        path, query = scope["path"], scope["query_string"].decode()
        given = json.loads(body) if body else {}
        self.asked.append((path, dict(scope["headers"]).get(b"authorization", b"").decode()))
        if path == "/inference/v1/generate":
            await self.generate(given, send)
            return
        status, answer = await self.control(path, query, given)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async def control(self, path, query, given):
        llm = self.llm
        try:
            if path == "/pause":
                assert "mode=abort" in query
                await llm.pause_generation(mode="abort", clear_cache=True)
            elif path == "/resume":
                await llm.resume_generation()
            elif path == "/update_weight_version":
                await llm.update_weight_version(given["new_version"])
            elif path == "/start_weight_update":
                await llm.start_weight_update()
            elif path == "/update_weights":
                await llm.collective_rpc("update_weights", kwargs=given)
            elif path == "/finish_weight_update":
                await llm.finish_weight_update()
            elif path == "/collective_rpc":
                return 200, {"results": await llm.collective_rpc(given["method"])}
            return 200, {}
        except RuntimeError as error:
            return 500, {"error": {"message": str(error)}}

    async def generate(self, given, send):
        params = SimpleNamespace(**given["sampling_params"], output_kind="delta" if given["stream"] else "final")
        headers = [(b"content-type", b"text/event-stream")] if given["stream"] else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        prompt = {"prompt_token_ids": given["token_ids"]}
        async for output in self.llm.generate(prompt, params, given["request_id"]):
            one = output.outputs[0]
            choice = {"token_ids": one.token_ids, "finish_reason": one.finish_reason}
            choice["logprobs"] = {"content": [{"logprob": next(iter(o.values())).logprob} for o in one.logprobs]}
            choice["weight_versions"] = [vars(span) for span in one.weight_versions or ()] or None
            text = json.dumps({"choices": [choice]})
            event = f"data: {text}\n\n" if given["stream"] else text
            await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
        end = b"data: [DONE]\n\n" if given["stream"] else b""
        await send({"type": "http.response.body", "body": end})


@contextlib.asynccontextmanager
async def serving(routes, port=0):
    """Those routes on a port of this machine; the url. At the end, connections are cut off as those of a killed one."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(routes, port=port, log_level="critical", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.001)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        for _ in range(2):  # also those that come until it has shut its door, which it would go on to serve
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            await task

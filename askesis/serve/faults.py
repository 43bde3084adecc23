"""What can be wrong with a request, and how each wire format says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from askesis.types import AskesisError

_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_OPENAI = {429: "rate_limit_error", 408: "timeout_error", 504: "timeout_error"}


class Fault(AskesisError):
    """A request that gets no answer. status: of HTTP. param: the field at fault. retry_after: seconds."""

    def __init__(
        self, status: int, message: str, *, code: str, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Those that HTTP wants beside the body."""
        found = {} if self.retry_after is None else {"retry-after": str(max(1, round(self.retry_after)))}
        return found | ({"www-authenticate": "Bearer"} if self.status == 401 else {})

    def openai(self) -> dict[str, Any]:
        """The body as OpenAI's formats have it."""
        kind = _OPENAI.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def anthropic(self) -> dict[str, Any]:
        """The body as Anthropic's format has it."""
        where = f"{self.param}: " if self.param and not str(self).startswith(f"{self.param}: ") else ""
        kind = _ANTHROPIC.get(self.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": f"{where}{self}"}}


def invalid(message: str, *, param: str | None = None, code: str = "invalid_value") -> Fault:
    """A 400."""
    return Fault(400, message, code=code, param=param)


def from_validation(errors: Sequence[Mapping[str, Any]], body: Any) -> Fault:
    """The first thing that is wrong with a body, as pydantic found it: the deepest, since unions report every try."""
    error = max(errors, key=lambda one: (one["type"] == "unsupported", len(one["loc"])))
    param = _field(error["loc"], body, missing=error["type"] == "missing")
    if error["type"] == "json_invalid":
        return invalid(f"the body is no JSON: {error['msg']}", code="invalid_json")
    if error["type"] == "extra_forbidden":
        return invalid(f"unknown parameter: {param}", param=param, code="unknown_parameter")
    if error["type"] == "missing":
        return invalid(f"missing required parameter: {param}", param=param, code="missing_required_parameter")
    code = "unsupported_parameter" if error["type"] == "unsupported" else "invalid_value"
    return invalid(f"{param}: {error['msg']}" if param else str(error["msg"]), param=param, code=code)


def _field(path: Sequence[str | int], body: Any, *, missing: bool) -> str | None:
    """A path of pydantic's as the client knows it: without the names of the unions' members that were tried."""
    found: list[str] = []
    for number, part in enumerate(path):
        there = part in body if isinstance(body, dict) else isinstance(part, int) and isinstance(body, list)
        if there:
            body = body[part]
        if there or (missing and number == len(path) - 1):
            found.append(str(part))
    return ".".join(found) or None

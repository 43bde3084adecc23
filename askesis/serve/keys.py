"""Keys: who may use the gateway, and how much of it."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from askesis.serve.faults import Fault
from askesis.types import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_MINUTE = 60.0


def check_name(name: str, what: str) -> str:
    """A name that can stand in a URL. Raises `ConfigError`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{what} {name!r}: expected 1 to 64 of letters, digits, '.', '_' and '-', not a '.' first")
    return name


@dataclass(frozen=True, slots=True)
class Key:
    """A key by name. Only the digest of the secret is kept."""

    name: str
    digest: bytes

    @classmethod
    def of(cls, name: str, secret: str) -> Key:
        """A key from its secret."""
        return cls(check_name(name, "key"), _digest(secret))


def read_keys(text: str, where: str) -> list[Key]:
    """Keys from lines `NAME SECRET`; empty lines and those that begin with # do not count. Raises `ConfigError`."""
    keys: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise ConfigError(f"{where}, line {number}: {len(words)} words, expected two: NAME SECRET")
        if words[0] in keys:
            raise ConfigError(f"{where}, line {number}: key {words[0]!r} is there twice")
        keys[words[0]] = Key.of(*words)
    if not keys:
        raise ConfigError(f"{where} has no keys; expected a line NAME SECRET for each")
    return list(keys.values())


def read_key_file(path: Path) -> list[Key]:
    """`read_keys` of a file."""
    try:
        return read_keys(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"cannot read the keys in {path}: {error.strerror}") from error


@dataclass(slots=True)
class _Use:
    """What a key uses now. tokens: left of the minute's, refilled as time goes by."""

    requests: int = 0
    tokens: float = 0.0
    at: float = 0.0


class Gate:
    """Lets requests in by key. Without keys everyone is let in, each secret as a name of its own."""

    def __init__(
        self,
        keys: Iterable[Key],
        *,
        requests: int | None,
        tokens: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = tuple(keys)
        self._requests, self._tokens, self._clock = requests, tokens, clock
        self._uses: dict[str, _Use] = {}

    def session(self, who: str, name: str | None) -> str:
        """What a session is called: as its key, or as its holder calls it, apart from other keys' sessions."""
        if name is None:
            return who
        return f"{who}/{name}" if self._keys else name

    def who(self, secret: str | None) -> str:
        """The name of whoever brings `secret`. Raises a 401 `Fault`."""
        if not self._keys:
            return "anonymous" if not secret else f"key-{_digest(secret).hex()[:12]}"
        if not secret:
            raise Fault(401, "no API key: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'", code="missing_api_key")
        digest, found = _digest(secret), None
        for key in self._keys:  # all of them, so that the time says nothing about which
            if hmac.compare_digest(key.digest, digest):
                found = key.name
        if found is None:
            raise Fault(401, "the API key is not known here", code="invalid_api_key")
        return found

    def enter(self, who: str) -> None:
        """One more request. Raises a 429 `Fault` for one too many; else call `leave` at its end."""
        use = self._use(who)
        if self._requests is not None and use.requests >= self._requests:
            message = f"{use.requests} requests in flight, at most {self._requests} for one key"
            raise Fault(429, message, code="rate_limit_exceeded", retry_after=1)
        if self._tokens is not None and use.tokens <= 0:
            wait = (1.0 - use.tokens) * _MINUTE / self._tokens
            message = f"more than {self._tokens} tokens a minute; more in {wait:.0f} s"
            raise Fault(429, message, code="rate_limit_exceeded", retry_after=wait)
        use.requests += 1

    def leave(self, who: str, tokens: int) -> None:
        """A request is over; `tokens` of prompt and completion were used."""
        use = self._use(who)
        use.requests -= 1
        if self._tokens is not None:
            use.tokens -= tokens
        elif not use.requests:
            del self._uses[who]

    def _use(self, who: str) -> _Use:
        now = self._clock()
        use = self._uses.get(who)
        if use is None:
            if self._tokens is not None and len(self._uses) > 10_000:
                self._forget(now)
            use = self._uses[who] = _Use(tokens=float(self._tokens or 0), at=now)
        elif self._tokens is not None:
            use.tokens = min(float(self._tokens), use.tokens + (now - use.at) * self._tokens / _MINUTE)
            use.at = now
        return use

    def _forget(self, now: float) -> None:
        """Drop those who would have all their tokens back."""
        for who in [
            w for w, use in self._uses.items() if not use.requests and now - use.at > _MINUTE and use.tokens > 0
        ]:
            del self._uses[who]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()

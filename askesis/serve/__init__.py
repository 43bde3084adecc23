"""The gateway: OpenAI Chat Completions and Responses and Anthropic Messages over one engine, recorded to the token."""

from askesis.serve.gateway import Gateway
from askesis.serve.keys import Key, read_keys
from askesis.serve.running import Server, listening, run
from askesis.serve.settings import Served, Settings

__all__ = ["Gateway", "Key", "Served", "Server", "Settings", "listening", "read_keys", "run"]

"""vLLM as an engine: in this process' own vLLM, or behind a server of its own. Needs vLLM only where vLLM runs."""

from askesis.inference.vllm.devices import Devices
from askesis.inference.vllm.engine import VLLMEngine
from askesis.inference.vllm.local import Local
from askesis.inference.vllm.remote import Remote
from askesis.inference.vllm.server import Server
from askesis.inference.vllm.settings import VLLMSettings
from askesis.inference.vllm.transport import Ask, Part, Transport
from askesis.inference.vllm.weights import Courier, SharedMemory

__all__ = [
    "Ask",
    "Courier",
    "Devices",
    "Local",
    "Part",
    "Remote",
    "Server",
    "SharedMemory",
    "Transport",
    "VLLMEngine",
    "VLLMSettings",
]

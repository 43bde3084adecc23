"""A browser as tools: the system's Chromium, read as an accessibility tree; it reaches only what an episode serves."""

from askesis.tools.browser.calls import browser_tools
from askesis.tools.browser.live import LiveBrowser, Refused, Screenshots
from askesis.tools.browser.network import Site
from askesis.tools.browser.pool import VIEWPORT, BrowserPool, Profile

__all__ = [
    "VIEWPORT",
    "BrowserPool",
    "LiveBrowser",
    "Profile",
    "Refused",
    "Screenshots",
    "Site",
    "browser_tools",
]

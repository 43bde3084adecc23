"""`web`: tasks on sites in a real browser, and pages to be built, judged by what the browser makes of them."""

from askesis.envs.web.environment import TEMPLATES, Web

__all__ = ["TEMPLATES", "Web"]

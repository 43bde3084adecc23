"""Shared by all tests: one thread a process (two processes of two threads on two cores crawl), no deadlines."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("askesis", deadline=None, max_examples=50)
settings.load_profile("askesis")

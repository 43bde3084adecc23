"""`python -m bench NAME [--json] [--keep] [--option key=value ...]`; without a name, the list of benchmarks."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from bench import pages
from bench.result import Options


def names() -> list[str]:
    """The modules here that are benchmarks: those with a `run`."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [file.stem for file in files if "\ndef run(" in file.read_text(encoding="utf-8")]


def main() -> int:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks beside the best peers.")
    parser.add_argument("name", nargs="?", choices=names(), help="which one; without it, their list")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--keep", action="store_true", help="write it to bench/results/NAME.json and the pages")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="see the benchmark's text")
    given = parser.parse_args()
    if given.name is None:
        print("\n".join(names()))
        return 0
    if wrong := [option for option in given.option if "=" not in option]:
        parser.error(f"--option {wrong[0]}: expected KEY=VALUE")
    options = Options(values=dict(option.split("=", 1) for option in given.option))
    result = importlib.import_module(f"bench.{given.name}").run(options)
    if given.keep:
        print(f"kept in {result.keep()}", file=sys.stderr)
        for page in pages.write():
            print(f"written into {page}", file=sys.stderr)
    print(result.json() if given.json else result.text())
    return 0


if __name__ == "__main__":
    sys.exit(main())

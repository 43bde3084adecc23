"""Small services that do not answer as they should: their configuration or their code has to be mended.

What is judged is a service started anew on the tree that the agent leaves, in a sandbox of its own, with other data
than the agent has seen: so that what answers is the program, and no list of answers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from askesis.envs.terminal.drawing import WORDS, Drawn, FileContent, service, sizes, text, words

Fault = tuple[str, str]  # the right line, and the wrong one in its place

_TABLE = '''\
"""Answers questions about a table, a line for a line."""

import configparser
import socketserver

config = configparser.ConfigParser()
config.read("service.ini")
PORT = config.getint("server", "port")
TABLE = {}
with open(config["server"]["table"]) as file:
    for line in file:
        key, value = line.split()
        TABLE[key] = int(value)


def answer(line):
    command, *rest = line.split() or [""]
    if command == "GET" and len(rest) == 1:
        return str(TABLE[rest[0]]) if rest[0] in TABLE else "none"
    if command == "SUM":
        return str(sum(TABLE.get(key, 0) for key in rest))
    if command == "COUNT" and len(rest) == 1:
        return str(sum(key.startswith(rest[0]) for key in TABLE))
    if command == "MAX":
        return max(TABLE, key=TABLE.get)
    return "error"


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(answer(line.decode()).encode() + b"\\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


with Server(("127.0.0.1", PORT), Handler) as server:
    server.serve_forever()
'''
_TABLE_FAULTS: tuple[Fault, ...] = (
    ('        return str(TABLE[rest[0]]) if rest[0] in TABLE else "none"', "        return str(TABLE[rest[0]])"),
    (
        "        return str(sum(TABLE.get(key, 0) for key in rest))",
        "        return str(max(TABLE.get(key, 0) for key in rest))",
    ),
    (
        "        return str(sum(key.startswith(rest[0]) for key in TABLE))",
        "        return str(sum(key.endswith(rest[0]) for key in TABLE))",
    ),
    ("        return max(TABLE, key=TABLE.get)", "        return max(TABLE)"),
    ("        TABLE[key] = int(value)", "        TABLE[key] = value"),
    (
        '            self.wfile.write(answer(line.decode()).encode() + b"\\n")',
        "            self.wfile.write(answer(line.decode()).encode())",
    ),
    ('    command, *rest = line.split() or [""]', '    command, *rest = line.lower().split() or [""]'),
)
_STOCK = '''\
"""Tells over HTTP what is in stock."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

with open("config.json") as file:
    CONFIG = json.load(file)
with open(CONFIG["items"]) as file:
    ITEMS = json.load(file)


def answer(path):
    if path == "/items":
        return 200, sorted(item["name"] for item in ITEMS)
    if path.startswith("/items/"):
        found = [item for item in ITEMS if item["name"] == path.removeprefix("/items/")]
        return (200, found[0]) if found else (404, {"error": "no such item"})
    if path == "/total":
        return 200, {"total": sum(item["price"] * item["count"] for item in ITEMS)}
    if path == "/empty":
        return 200, sorted(item["name"] for item in ITEMS if item["count"] == 0)
    return 404, {"error": "no such page"}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        status, value = answer(self.path)
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *values):
        pass


ThreadingHTTPServer(("127.0.0.1", CONFIG["port"]), Handler).serve_forever()
'''
_STOCK_FAULTS: tuple[Fault, ...] = (
    (
        '        return 200, sorted(item["name"] for item in ITEMS)',
        '        return 200, [item["name"] for item in ITEMS]',
    ),
    ('        return (200, found[0]) if found else (404, {"error": "no such item"})', "        return 200, found[0]"),
    (
        '        return 200, {"total": sum(item["price"] * item["count"] for item in ITEMS)}',
        '        return 200, {"total": sum(item["price"] for item in ITEMS)}',
    ),
    (
        '        return 200, sorted(item["name"] for item in ITEMS if item["count"] == 0)',
        '        return 200, sorted(item["name"] for item in ITEMS if item["count"])',
    ),
    (
        '        self.send_header("Content-Length", str(len(body)))',
        '        self.send_header("Content-Length", str(len(body) + 1))',
    ),
    ('    return 404, {"error": "no such page"}', '    return 200, {"error": "no such page"}'),
    ("        self.send_response(status)", "        self.send_response(200)"),
)


def _broken(rng: random.Random, program: str, faults: Sequence[Fault], count: int) -> tuple[str, list[Fault]]:
    chosen = rng.sample(faults, count)
    for right, wrong in chosen:
        assert program.count(right + "\n") == 1, right
        program = program.replace(right + "\n", wrong + "\n")
    return program, chosen


def _mended(file: str, faults: Sequence[Fault]) -> list[str]:
    """Commands that put the right lines back."""
    commands = []
    for right, wrong in faults:
        program = f"t = open({file!r}).read(); open({file!r}, 'w').write(t.replace({wrong!r}, {right!r}))"
        commands.append("python3 - <<'END'\n" + program + "\nEND")
    return commands


def table_service(rng: random.Random, level: int) -> Drawn:
    """A line protocol over TCP. Level 1: its configuration; 2: one line of code; 3: both, and a second line."""
    port = rng.randint(4000, 9000)
    wrong_port = level == 3 or (level == 1 and rng.random() < 0.5)
    wrong_table = level == 3 or (level == 1 and not wrong_port)
    program, faults = _broken(rng, _TABLE, _TABLE_FAULTS, sizes(level, 0, 1, 2))
    seen = _table(rng, 12)
    files: dict[str, FileContent] = {
        "service.py": program,
        "service.ini": f"[server]\nport = {port + 11 if wrong_port else port}\n"
        f"table = {'tables.txt' if wrong_table else 'table.txt'}\n",
        "table.txt": text([f"{key} {value}" for key, value in seen.items()]),
    }
    hidden = _table(rng, 15)
    unknown = [word for word in WORDS if word not in hidden]
    exchanges = [("MAX", max(hidden, key=lambda key: hidden[key]))]
    for key in rng.sample(unknown, 3) + rng.sample(sorted(hidden), 4):
        exchanges.append((f"GET {key}", str(hidden[key]) if key in hidden else "none"))
        exchanges.append((f"COUNT {key[:1]}", str(sum(name.startswith(key[:1]) for name in hidden))))
    for count in (1, 3, 4):
        keys = rng.sample(unknown, count) + rng.sample(sorted(hidden), 2)
        exchanges.append((f"SUM {' '.join(keys)}", str(sum(hidden.get(key, 0) for key in keys))))
    exchanges.append(("PUT a 1", "error"))
    rng.shuffle(exchanges)
    return Drawn(
        prompt=f"service.py should answer on port {port} of 127.0.0.1, a line for each line: GET KEY with the value of "
        "KEY in table.txt, or none; SUM KEY KEY ... with the sum of their values, where an unknown key counts 0; COUNT "
        "TEXT with how many keys begin with TEXT; MAX with the key of the largest value; anything else with error. It "
        "does not. Mend it or service.ini, so that `python3 service.py` does, also with another table.txt.",
        files=files,
        check=service(
            start=["python3", "service.py"],
            port=port,
            protocol="line",
            exchanges=exchanges,
            replaced={"table.txt": text([f"{key} {value}" for key, value in hidden.items()])},
        ),
        solution=[
            f"sed -i 's/^port = .*/port = {port}/; s/^table = .*/table = table.txt/' service.ini",
            *_mended("service.py", faults),
        ],
    )


def _table(rng: random.Random, count: int) -> dict[str, int]:
    return dict(zip(words(rng, count), rng.sample(range(10, 1000), count), strict=True))


def stock_service(rng: random.Random, level: int) -> Drawn:
    """HTTP with JSON. Levels as of the other."""
    port = rng.randint(4000, 9000)
    wrong_port = level == 3 or (level == 1 and rng.random() < 0.5)
    wrong_items = level == 3 or (level == 1 and not wrong_port)
    program, faults = _broken(rng, _STOCK, _STOCK_FAULTS, sizes(level, 0, 1, 2))
    hidden = _items(rng, 9)
    by_name = {str(item["name"]): item for item in hidden}
    exchanges = [
        ("/items", (200, sorted(by_name))),
        ("/total", (200, {"total": sum(int(item["price"]) * int(item["count"]) for item in hidden)})),
        ("/empty", (200, sorted(str(item["name"]) for item in hidden if item["count"] == 0))),
        ("/nothing", (404, {"error": "no such page"})),
    ]
    for name in rng.sample([word for word in WORDS if word not in by_name], 3) + rng.sample(sorted(by_name), 3):
        found = (200, by_name[name]) if name in by_name else (404, {"error": "no such item"})
        exchanges.append((f"/items/{name}", found))
    rng.shuffle(exchanges)
    return Drawn(
        prompt=f"app.py should answer on port {port} of 127.0.0.1, with JSON, by what items.json has: /items with the "
        'sorted names; /items/NAME with that item, or status 404 and {"error": "no such item"}; /total with '
        '{"total": the sum of price times count}; /empty with the sorted names of those whose count is 0; anything '
        'else with status 404 and {"error": "no such page"}. It does not. Mend it or config.json, so that '
        "`python3 app.py` does, also with another items.json.",
        files={
            "app.py": program,
            "config.json": json.dumps(
                {"port": port + 7 if wrong_port else port, "items": "item.json" if wrong_items else "items.json"}
            )
            + "\n",
            "items.json": json.dumps(_items(rng, 7), indent=1) + "\n",
        },
        check=service(
            start=["python3", "app.py"],
            port=port,
            protocol="http",
            exchanges=[(path, f"{status} {json.dumps(body, sort_keys=True)}") for path, (status, body) in exchanges],
            replaced={"items.json": json.dumps(hidden)},
        ),
        solution=[
            f'sed -i \'s/"port": [0-9]*/"port": {port}/; s/"item.json"/"items.json"/\' config.json',
            *_mended("app.py", faults),
        ],
    )


def _items(rng: random.Random, count: int) -> list[dict[str, str | int]]:
    names = words(rng, count)
    items: list[dict[str, str | int]] = [
        {"name": name, "price": rng.randint(1, 99), "count": rng.randint(2, 20)} for name in names
    ]
    for item in rng.sample(items, 2):
        item["count"] = 0
    return items


SERVICES = {"table_service": table_service, "stock_service": stock_service}

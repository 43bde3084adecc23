"""Questions about logs, tables and trees: the agent looks and submits an answer."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from askesis.envs.terminal.drawing import (
    COMPONENTS,
    METHODS,
    NAMES,
    PATHS,
    STATUSES,
    Drawn,
    FileContent,
    answer,
    prose,
    sizes,
    text,
    times,
    words,
)

FIELDS = "Each line has a time, a client, a method, a path, a status and a number of bytes."


@dataclass(frozen=True, slots=True)
class _Request:
    time: str
    client: str
    method: str
    path: str
    status: int
    size: int

    def __str__(self) -> str:
        return f"{self.time} {self.client} {self.method} {self.path} {self.status} {self.size}"


def _requests(rng: random.Random, count: int) -> list[_Request]:
    clients = [f"10.0.{rng.randint(0, 9)}.{rng.randint(1, 250)}" for _ in range(6)]
    return [
        _Request(
            time.isoformat(),
            rng.choice(clients),
            rng.choice(METHODS),
            rng.choice(PATHS),
            rng.choice(STATUSES),
            rng.randint(100, 9000),
        )
        for time in times(rng, count, most_s=sizes(3, 90, 60, 40))
    ]


def _access(rng: random.Random, level: int) -> tuple[list[_Request], dict[str, FileContent], str]:
    """Requests, the files in which they are, and how a shell names those. At level 3 they are several files."""
    requests = _requests(rng, sizes(level, 40, 80, 120))
    if level < 3:
        return requests, {"access.log": text(requests)}, "access.log"
    cuts = sorted(rng.sample(range(10, len(requests) - 10), 2))
    parts = requests[: cuts[0]], requests[cuts[0] : cuts[1]], requests[cuts[1] :]
    files: dict[str, FileContent] = {f"logs/access.{number}.log": text(part) for number, part in enumerate(parts)}
    files["logs/README"] = "access logs of three days; access.0.log is the oldest\n"
    return requests, files, "logs/access.*.log"


def _where(level: int) -> str:
    return "access.log has requests." if level < 3 else "The files logs/access.*.log together have requests."


def count_requests(rng: random.Random, level: int) -> Drawn:
    """How many requests there are of a kind."""
    requests, files, place = _access(rng, level)
    one = rng.choice(requests)
    found = [r for r in requests if r.status == one.status]
    asked, condition = f"have status {one.status}", f"$5 == {one.status}"
    if level > 1:
        found = [r for r in found if r.method == one.method]
        asked, condition = f"are {one.method} with status {one.status}", f'{condition} && $3 == "{one.method}"'
    return Drawn(
        prompt=f"{_where(level)} {FIELDS} How many {asked}? Submit the number.",
        files=files,
        check=answer(len(found)),
        solution=[f"cat {place} | awk '{condition}' | wc -l"],
    )


def top_clients(rng: random.Random, level: int) -> Drawn:
    """Which clients have most of something."""
    while True:
        requests, files, place = _access(rng, level)
        count: Counter[str] = Counter()
        for request in requests:
            count[request.client] += 1 if level < 3 else request.size * (request.status == 200)
        most, ranked = sizes(level, 1, 3, 3), count.most_common()
        if len({number for _, number in ranked[: most + 1]}) == most + 1:  # no two that could change places
            break
    which = {
        1: "Which client made most requests? Submit it.",
        2: "Which three clients made most requests? Submit them, most first, with commas between.",
        3: "Which three clients got most bytes in answers with status 200? Submit them, most first, with commas "
        "between.",
    }[level]
    what = "n[$2]++" if level < 3 else "n[$2] += ($5 == 200) * $6"
    program = f"{{ {what} }} END {{ for (c in n) print n[c], c }}"
    return Drawn(
        prompt=f"{_where(level)} {FIELDS} {which}",
        files=files,
        check=answer(*(client for client, _ in ranked[:most])),
        solution=[
            f"cat {place} | awk '{program}' | sort -rn | head -{most} | awk '{{ print $2 }}' | paste -sd,",
        ],
    )


def time_window(rng: random.Random, level: int) -> Drawn:
    """What happened between two times, or the minute in which most happened."""
    if level == 3:
        return _worst_minute(rng)
    requests, files, place = _access(rng, level)
    first, last = sorted(rng.sample(range(len(requests)), 2))
    begin, end = requests[first].time, requests[last].time
    found = [r for r in requests if begin <= r.time <= end and (level == 1 or r.status >= 400)]
    kind = "requests" if level == 1 else "requests with a status of 400 or more"
    condition = f'$1 >= "{begin}" && $1 <= "{end}"' + ("" if level == 1 else " && $5 >= 400")
    return Drawn(
        prompt=f"{_where(level)} {FIELDS} How many {kind} are there from {begin} to {end}, both included? "
        "Submit the number.",
        files=files,
        check=answer(len(found)),
        solution=[f"awk '{condition}' {place} | wc -l"],
    )


def _worst_minute(rng: random.Random) -> Drawn:
    while True:
        requests, files, place = _access(rng, 3)
        ranked = Counter(r.time[:16] for r in requests if r.status >= 400).most_common(2)
        if len(ranked) == 2 and ranked[0][1] > ranked[1][1]:
            break
    return Drawn(
        prompt=f"{_where(3)} {FIELDS} In which minute were there most requests with a status of 400 or more? "
        "Submit it as 2026-01-31T23:59.",
        files=files,
        check=answer(ranked[0][0]),
        solution=[
            f"cat {place} | awk '$5 >= 400 {{ print substr($1, 1, 16) }}' | sort | uniq -c | sort -rn | "
            "awk 'NR == 1 { print $2 }'"
        ],
    )


def component_errors(rng: random.Random, level: int) -> Drawn:
    """What components logged."""
    names = rng.sample(COMPONENTS, 4)
    while True:
        rows = [
            (time.isoformat(sep=" "), rng.choice(("INFO", "INFO", "WARN", "ERROR")), rng.choice(names))
            for time in times(rng, sizes(level, 40, 80, 120), most_s=50)
        ]
        errors = Counter(name for _, kind, name in rows if kind == "ERROR").most_common()
        if len(errors) == 4 and errors[0][1] > errors[1][1]:
            break
    log = text([f"{time} {kind} {name}: {' '.join(words(rng, 3))}" for time, kind, name in rows])
    name = rng.choice(names)
    want: int | str
    if level == 1:
        asked, want = f"How many ERROR lines of {name} are in app.log? Submit the number.", dict(errors)[name]
        command = f"grep -c ' ERROR {name}: ' app.log"
    elif level == 2:
        asked, want = "Which component has most ERROR lines in app.log? Submit its name.", errors[0][0]
        command = "awk '$3 == \"ERROR\" { print $4 }' app.log | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }'"
        command += " | tr -d :"
    else:
        asked = "How many ERROR lines in app.log come directly after a WARN line of the same component? "
        asked += "Submit the number."
        pairs = itertools.pairwise(rows)
        want = sum(a[1] == "WARN" and b[1] == "ERROR" and a[2] == b[2] for a, b in pairs)
        command = (
            'awk \'$3 == "ERROR" && kind == "WARN" && $4 == name { n++ } { kind = $3; name = $4 } END { print n + 0 }\''
        )
        command += " app.log"
    return Drawn(prompt=asked, files={"app.log": log}, check=answer(want), solution=[command])


def table_total(rng: random.Random, level: int) -> Drawn:
    """Sums over a table, or over two that belong together."""
    names = words(rng, 9)
    regions, products = names[:4], names[4:]
    if level == 3:
        return _joined(rng, regions)
    while True:
        rows = [
            (number, rng.choice(regions), rng.choice(products), rng.randint(1, 900))
            for number in range(1, sizes(level, 30, 60, 0) + 1)
        ]
        region = rng.choice(rows)[1]
        sums: Counter[str] = Counter()
        for _, where, product, amount in rows:
            sums[product] += amount * (where == region)
        ranked = sums.most_common(2)
        if len(ranked) == 2 and ranked[0][1] > ranked[1][1]:
            break
    files = {"sales.csv": text(["id,region,product,amount", *(",".join(map(str, row)) for row in rows)])}
    if level == 1:
        return Drawn(
            prompt=f"What is the sum of amount in sales.csv for the region {region}? Submit the number.",
            files=files,
            check=answer(sum(sums.values())),
            solution=[f"awk -F, '$2 == \"{region}\" {{ s += $4 }} END {{ print s }}' sales.csv"],
        )
    return Drawn(
        prompt=f"Which product has the largest sum of amount in sales.csv in the region {region}? Submit its name, a "
        "comma and the sum.",
        files=files,
        check=answer(ranked[0][0], ranked[0][1]),
        solution=[
            f"awk -F, '$2 == \"{region}\" {{ s[$3] += $4 }} END {{ for (p in s) print s[p], p }}' sales.csv | "
            "sort -rn | awk 'NR == 1 { print $2 \",\" $1 }'"
        ],
    )


def _joined(rng: random.Random, cities: Sequence[str]) -> Drawn:
    people = [(f"C{number:03d}", name, rng.choice(cities)) for number, name in enumerate(NAMES, 1)]
    orders = [(number, rng.choice(people)[0], rng.randint(1, 500)) for number in range(1, 61)]
    city = rng.choice(people)[2]
    there = {key for key, _, where in people if where == city}
    program = f'NR == FNR {{ if ($3 == "{city}") c[$1] = 1; next }} $2 in c {{ s += $3 }} END {{ print s + 0 }}'
    return Drawn(
        prompt="orders.csv names customers by their id; customers.csv says where each lives. What is the sum of amount "
        f"of all orders by customers in {city}? Submit the number.",
        files={
            "customers.csv": text(["id,name,city", *(",".join(row) for row in people)]),
            "orders.csv": text(["id,customer,amount", *(",".join(map(str, row)) for row in orders)]),
        },
        check=answer(sum(amount for _, who, amount in orders if who in there)),
        solution=[f"awk -F, '{program}' customers.csv orders.csv"],
    )


def json_lookup(rng: random.Random, level: int) -> Drawn:
    """What a folder of configurations says."""
    count = sizes(level, 6, 12, 20)
    services: list[dict[str, Any]] = [
        {
            "name": name,
            "port": 8000 + port,
            "enabled": rng.random() < 0.7,
            "limits": {"memory": rng.choice((64, 128, 256, 512, 1024)), "timeout": rng.randint(1, 60)},
        }
        for name, port in zip(words(rng, count), rng.sample(range(1000), count), strict=True)
    ]
    files: dict[str, FileContent] = {
        f"services/{number:02d}.json": json.dumps(one, indent=2) + "\n" for number, one in enumerate(services, 1)
    }
    every = "import glob, json; all = [json.load(open(f)) for f in glob.glob('services/*.json')]; "
    if level == 1:
        one = rng.choice(services)
        asked, want = f"Which port has the service {one['name']}? Submit the number.", [one["port"]]
        program = f"print(*(s['port'] for s in all if s['name'] == '{one['name']}'))"
    elif level == 2:
        bound = rng.randint(10, 50)
        asked = f"How many enabled services have a timeout above {bound}? Submit the number."
        want = [sum(s["enabled"] and s["limits"]["timeout"] > bound for s in services)]
        program = f"print(sum(s['enabled'] and s['limits']['timeout'] > {bound} for s in all))"
    else:
        found = sorted(s["name"] for s in services if s["enabled"] and s["limits"]["memory"] >= 512)
        asked = "Which enabled services have a memory of 512 or more? Submit their names, sorted, with commas between."
        want = found
        program = "print(','.join(sorted(s['name'] for s in all if s['enabled'] and s['limits']['memory'] >= 512)))"
        if not found:
            return json_lookup(rng, level)
    return Drawn(
        prompt=f"services/*.json describe services. {asked}",
        files=files,
        check=answer(*want),
        solution=[f'python3 -c "{every}{program}"'],
    )


def find_text(rng: random.Random, level: int) -> Drawn:
    """Where something stands in a tree of files."""
    folders = ["src", *(f"src/{name}" for name in words(rng, 3)), "docs"]
    names = [f"{name}.{rng.choice(('py', 'txt', 'md'))}" for name in words(rng, sizes(level, 8, 16, 24))]
    contents = {f"{rng.choice(folders)}/{name}": prose(rng, rng.randint(3, 6)) for name in names}
    paths = sorted(contents)
    if level == 1:
        token, where = f"{rng.randrange(16**8):08x}", rng.choice(paths)
        contents[where] += f"token: {token}\n"
        asked, want = f"Which file has the token {token}? Submit its path.", [where]
        command = f"grep -rl {token} ."
    elif level == 2:
        chosen = rng.sample(paths, rng.randint(4, 10))
        for path in chosen:
            contents[path] += "# TODO: tidy up\n"
        asked = "How many .md and .txt files in all folders have a line with TODO? Submit the number."
        want = [str(sum(path.endswith((".md", ".txt")) for path in chosen))]
        command = "grep -rl --include='*.md' --include='*.txt' TODO . | wc -l"
    else:
        pair = sorted(rng.sample(paths, 2))
        contents[pair[1]] = contents[pair[0]]
        asked = "Two files have the same content. Submit their paths, sorted, with a comma between."
        want = pair
        command = "find . -type f | sort | xargs md5sum | awk '{ if ($1 in p) print p[$1] \",\" $2; p[$1] = $2 }'"
    check = answer(*want, paths=level != 2)
    return Drawn(prompt=asked, files=contents, check=check, solution=[command])


QUESTIONS = {
    "count_requests": count_requests,
    "top_clients": top_clients,
    "time_window": time_window,
    "component_errors": component_errors,
    "table_total": table_total,
    "json_lookup": json_lookup,
    "find_text": find_text,
}

"""Work on a tree of files: what is judged is the tree that the agent leaves."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping

from askesis.envs.terminal.drawing import (
    NAMES,
    Drawn,
    FileContent,
    prose,
    sizes,
    text,
    times,
    tree,
    words,
)


def _folders(rng: random.Random, level: int, top: str) -> list[str]:
    """Of a tree below `top`: one, some, or some of two levels."""
    inner = words(rng, 4)
    some = [top, *(f"{top}/{name}" for name in inner[:2]), f"{top}/{inner[2]}/{inner[3]}"]
    return some[: sizes(level, 1, 3, 4)]


def rename(rng: random.Random, level: int) -> Drawn:
    """New names for files."""
    folders = _folders(rng, level, "notes")
    names = words(rng, sizes(level, 6, 10, 12))
    before: dict[str, FileContent] = {}
    after: dict[str, str] = {}
    for number, name in enumerate(names):
        folder, content = rng.choice(folders), prose(rng, 2)
        if level < 3:
            ending = "md" if number % 3 == 2 else "txt"
            path, new = f"{folder}/{name}.{ending}", f"{folder}/{name}.{'rst' if ending == 'txt' else ending}"
        else:
            old = " ".join(part.capitalize() for part in (name, rng.choice(NAMES)))
            path, new = f"{folder}/{old}.txt", f"{folder}/{old.lower().replace(' ', '_')}.txt"
        before[path], after[new] = content, content
    where = "in notes" if level == 1 else "in notes and all its folders"
    if level < 3:
        prompt = f"Rename all .txt files {where} so that they end in .rst; leave all others as they are."
        command = "find notes -name '*.txt' -exec sh -c 'mv \"$1\" \"${1%.txt}.rst\"' _ {} \\;"
    else:
        prompt = f"Rename all files {where}: small letters, and an underscore for each space."
        command = 'find notes -type f | while IFS= read -r f; do d=$(dirname "$f"); '
        command += "b=$(basename \"$f\" | tr 'A-Z ' 'a-z_'); "
        command += 'mv "$f" "$d/$b"; done'
    return Drawn(prompt=prompt, files=before, check=tree(before, after), solution=[command])


def sort_into_folders(rng: random.Random, level: int) -> Drawn:
    """Files into folders: by ending, by the date in their names, or by what is in them."""
    before: dict[str, FileContent] = {}
    after: dict[str, str] = {}
    for name in words(rng, sizes(level, 7, 10, 12)):
        content = prose(rng, 2)
        if level == 1:
            ending = rng.choice(("csv", "txt", "log"))
            path, new = f"inbox/{name}.{ending}", f"{ending}/{name}.{ending}"
        elif level == 2:
            year, month = rng.randint(2023, 2025), rng.randint(1, 12)
            file = f"{name}-{year}-{month:02d}.txt"
            path, new = f"inbox/{file}", f"{year}/{month:02d}/{file}"
        else:
            owner = rng.choice(NAMES[:4])
            content = f"owner: {owner}\n{content}"
            path, new = f"inbox/{name}.txt", f"{owner}/{name}.txt"
        before[path], after[new] = content, content
    prompt, command = {
        1: (
            "Move each file of inbox into a folder named like its ending: inbox/a.csv to csv/a.csv.",
            'for f in inbox/*; do d=${f##*.}; mkdir -p "$d"; mv "$f" "$d/"; done',
        ),
        2: (
            "Move each file of inbox into folders for the year and the month in its name: inbox/a-2024-05.txt to "
            "2024/05/a-2024-05.txt.",
            'for f in inbox/*; do b=${f%.txt}; d=$(echo "$b" | grep -o \'[0-9]*-[0-9]*$\' | tr - /); mkdir -p "$d"; '
            'mv "$f" "$d/"; done',
        ),
        3: (
            "The first line of each file in inbox names its owner. Move each file into a folder named like its owner: "
            "inbox/a.txt of anna to anna/a.txt.",
            'for f in inbox/*; do d=$(head -1 "$f" | cut -d" " -f2); mkdir -p "$d"; mv "$f" "$d/"; done',
        ),
    }[level]
    return Drawn(prompt=prompt, files=before, check=tree(before, after), solution=[command])


def _ini(rng: random.Random, environment: str) -> dict[str, dict[str, str]]:
    names = ["server", *rng.sample(("database", "cache", "queue", "mail"), 2)]
    rng.shuffle(names)
    found = {}
    for name in names:
        values = {"host": f"{rng.choice(words(rng, 3))}.local", "port": str(rng.randint(1000, 9999)), "debug": "on"}
        found[name] = ({"env": environment} if name == "server" else {}) | values
    return found


def _written(sections: Mapping[str, Mapping[str, str]]) -> str:
    lines = ["# written by hand: keep the comments"]
    for name, values in sections.items():
        lines += ["", f"[{name}]", *(f"{key} = {value}" for key, value in values.items())]
    return text(lines)


def edit_config(rng: random.Random, level: int) -> Drawn:
    """A value in one section, where other sections have keys of the same name."""
    files = [f"conf/{name}.ini" for name in words(rng, sizes(level, 1, 2, 6))]
    parsed = {path: _ini(rng, rng.choice(("production", "test"))) for path in files}
    if level == 3:
        parsed[files[0]]["server"]["env"], parsed[files[1]]["server"]["env"] = "production", "test"
    before = {path: _written(sections) for path, sections in parsed.items()}
    if level == 3:
        wanted = [path for path in files if parsed[path]["server"]["env"] == "production"]
        section, key, value = "server", "debug", "off"
        prompt = "In every file of conf whose [server] has env = production, set debug = off in [server]."
        command = "for f in $(grep -l '^env = production' conf/*.ini); do "
        command += r"sed -i '/^\[server\]/,/^\[/ s/^debug = .*/debug = off/' $f; done"
    else:
        wanted, (section, key) = files, (rng.choice(("server", "server", "database")), rng.choice(("port", "host")))
        section = section if all(section in parsed[path] for path in files) else "server"
        value = str(rng.randint(1000, 9999)) if key == "port" else f"{rng.choice(words(rng, 3))}.example"
        place = files[0] if level == 1 else "both files of conf"
        prompt = f"In {place}, set {key} = {value} in [{section}]."
        command = rf"sed -i '/^\[{section}\]/,/^\[/ s/^{key} = .*/{key} = {value}/' conf/*.ini"
    for path in wanted:
        parsed[path][section][key] = value
    after = {path: _written(sections) for path, sections in parsed.items()}
    return Drawn(
        prompt=f"{prompt} Leave everything else as it is.",
        files=before,
        check=tree(before, after),
        solution=[command],
    )


def replace_text(rng: random.Random, level: int) -> Drawn:
    """A word by another, in the right files only."""
    old, new, *_ = words(rng, 6)
    kinds, folders = sizes(level, 1, 3, 3), _folders(rng, level, "site")
    before: dict[str, FileContent] = {}
    after: dict[str, str] = {}
    for name in words(rng, sizes(level, 1, 8, 10)):
        path = f"{rng.choice(folders)}/{name}.{('py', 'conf', 'md')[rng.randrange(kinds)]}"
        lines = [
            f"{rng.choice(('', 'x = ', '# '))}{rng.choice((old, old, f'{old}_all', f're{old}', *words(rng, 3)))}() end"
            for _ in range(sizes(level, 6, 5, 8))
        ]
        before[path] = content = text(lines)
        if level == 3 and path.endswith(".py"):
            content = content.replace(f" {old}()", f" {new}()").replace(f"\n{old}()", f"\n{new}()")
            content = new + content.removeprefix(old) if content.startswith(f"{old}()") else content
        elif level < 3 and (level == 1 or path.endswith(".conf")):
            content = content.replace(old, new)
        after[path] = content
    prompt, command = {
        1: (f"In {next(iter(before))}, write {new} wherever {old} stands.", f"sed -i 's/{old}/{new}/g' site/*"),
        2: (
            f"In all .conf files in site and its folders, write {new} wherever {old} stands. Leave other files alone.",
            f"find site -name '*.conf' -exec sed -i 's/{old}/{new}/g' {{}} +",
        ),
        3: (
            f"In all .py files in site and its folders, rename the function {old} to {new}. Other functions whose "
            f"names only contain {old} keep theirs. Leave other files alone.",
            f"find site -name '*.py' -exec sed -i 's/\\b{old}()/{new}()/g' {{}} +",
        ),
    }[level]
    return Drawn(prompt=prompt, files=before, check=tree(before, after), solution=[command])


def permissions(rng: random.Random, level: int) -> Drawn:
    """Who may read, write and execute."""
    folders = _folders(rng, level, "tools")
    before: dict[str, FileContent] = {}
    modes: dict[str, int] = {}
    for number, name in enumerate(words(rng, sizes(level, 6, 8, 12))):
        folder, script = rng.choice(folders), number % 2 == 0
        first = rng.choice(("#!/bin/sh\n", "#!/usr/bin/env python3\n")) if script else ""
        path = f"{folder}/{name}" + ("-job" if level == 3 else ".sh" if script else ".txt")
        before[path] = f"{first}# {' '.join(words(rng, 3))}\n"
        modes[path] = 0o755 if script else 0o644 if level < 3 else 0o640
    if level == 2:
        for name in words(rng, 2):
            before[f"secrets/{name}.key"], modes[f"secrets/{name}.key"] = prose(rng, 1), 0o600
    prompt, command = {
        1: (
            "Set the permissions of all .sh files in tools to 755. Leave all others at 644.",
            "chmod 755 tools/*.sh",
        ),
        2: (
            "Set the permissions of all .sh files in tools and its folders to 755, and those of all files in secrets "
            "to 600. Leave all others at 644.",
            "find tools -name '*.sh' -exec chmod 755 {} +; chmod 600 secrets/*",
        ),
        3: (
            "In tools and its folders, set the permissions of each file whose first line begins with #! to 755, and of "
            "each other file to 640.",
            "find tools -type f -exec chmod 640 {} +; grep -rlm1 '^#!' tools | xargs chmod 755",
        ),
    }[level]
    after = {path: str(content) for path, content in before.items()}
    return Drawn(prompt=prompt, files=before, check=tree(before, after, modes=modes), solution=[command])


def archive(rng: random.Random, level: int) -> Drawn:
    """Files into an archive, or out of one."""
    folders = _folders(rng, level, "docs")
    endings = ("txt", "md", "log")
    inside = {
        f"{rng.choice(folders)}/{name}.{rng.choice(endings)}": prose(rng, 2)
        for name in words(rng, sizes(level, 5, 6, 10))
    }
    if level == 1:
        return Drawn(
            prompt="Pack the folder docs into docs.tar.gz, with the names that its files have here. Keep the folder.",
            files=inside,
            check=tree(inside, inside, archives={"docs.tar.gz": inside}),
            solution=["tar czf docs.tar.gz docs"],
        )
    if level == 2:
        return Drawn(
            prompt="Unpack backup.tar.gz into the folder restored, so that its docs are restored/docs. Keep it.",
            files={"backup.tar.gz": {"tar": inside}},
            check=tree(
                {},
                {f"restored/{path}": content for path, content in inside.items()},
                archives={"backup.tar.gz": inside},
            ),
            solution=["mkdir restored; tar xzf backup.tar.gz -C restored"],
        )
    inside[f"{folders[0]}/zz.log"] = prose(rng, 1)
    inside[f"{folders[0]}/zz.txt"] = prose(rng, 1)
    logs = {path: content for path, content in inside.items() if path.endswith(".log")}
    rest = {path: content for path, content in inside.items() if path not in logs}
    return Drawn(
        prompt="Pack all .log files in docs and its folders, and nothing else, into logs.tar.gz, with the names that "
        "they have here; then delete them from docs.",
        files=inside,
        check=tree(inside, rest, archives={"logs.tar.gz": logs}),
        solution=["find docs -name '*.log' | tar czf logs.tar.gz -T -", "find docs -name '*.log' -delete"],
    )


def deduplicate(rng: random.Random, level: int) -> Drawn:
    """Copies go, the first stays."""
    folders = _folders(rng, level, "photos")
    before: dict[str, str] = {}
    contents = [prose(rng, 2) for _ in range(sizes(level, 4, 6, 7))]
    for number, name in enumerate(words(rng, sizes(level, 7, 10, 13))):
        content = contents[number] if number < len(contents) else rng.choice(contents)
        before[f"{rng.choice(folders)}/{name}.txt"] = content
    after: dict[str, str] = {}
    for path in sorted(before):
        if before[path] not in after.values():
            after[path] = before[path]
    where = "photos" if level == 1 else "photos and its folders"
    prompt = f"Some files in {where} have the same content. Keep of each content only the file whose path comes first "
    prompt += "in the order of bytes (LC_ALL=C sort), and delete the others."
    command = "find photos -type f | LC_ALL=C sort | xargs md5sum | awk 'seen[$1]++ { print $2 }' > /tmp/copies; "
    if level == 3:
        prompt += " Write the paths of those that you deleted into deleted.txt, one a line, in the same order."
        after["deleted.txt"] = text([path for path in sorted(before) if path not in after])
        command += "cp /tmp/copies deleted.txt; "
    return Drawn(prompt=prompt, files=before, check=tree(before, after), solution=[f"{command}xargs rm < /tmp/copies"])


def clean_up(rng: random.Random, level: int) -> Drawn:
    """What may go goes, and nothing else."""
    if level == 3:
        return _old_logs(rng)
    folders = _folders(rng, level, "work")
    before = {}
    for number, name in enumerate(words(rng, sizes(level, 8, 14, 0))):
        ending, content = rng.choice(("txt", "md", "tmp", "bak")), prose(rng, 2)
        if number == 0:
            ending = "tmp"
        if level == 2 and number % 4 == 1:
            content = ""
        before[f"{rng.choice(folders)}/{name}.{ending}"] = content
    goes = (".tmp",) if level == 1 else (".tmp", ".bak")
    after = {p: c for p, c in before.items() if not p.endswith(goes) and (level == 1 or c)}
    prompt, command = (
        ("Delete all .tmp files in work, and nothing else.", "rm work/*.tmp")
        if level == 1
        else (
            "In work and its folders, delete all .tmp and .bak files and all files that are empty, and nothing else.",
            "find work -type f \\( -name '*.tmp' -o -name '*.bak' -o -empty \\) -delete",
        )
    )
    return Drawn(prompt=prompt, files=before, check=tree(before, after), solution=[command])


def _old_logs(rng: random.Random) -> Drawn:
    keep = rng.randint(2, 3)
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    for name in words(rng, 3):
        dates = sorted({f"2025-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}" for _ in range(rng.randint(4, 6))})
        paths = [f"logs/{name}-{date}.log" for date in dates]
        before |= {path: prose(rng, 1) for path in paths}
        after |= {path: before[path] for path in paths[-keep:]}
    command = (
        f"for s in $(ls logs | sed 's/-.*//' | sort -u); do ls logs/$s-* | sort | head -n -{keep} | xargs -r rm; done"
    )
    return Drawn(
        prompt=f"logs has files named after a service and a date. Of each service keep the {keep} newest by the date "
        "in the name, and delete the others.",
        files=before,
        check=tree(before, after),
        solution=[command],
    )


def report(rng: random.Random, level: int) -> Drawn:
    """A file of figures about others."""
    departments = words(rng, 4)
    rows = [(name, rng.choice(departments), rng.randint(1000, 9000)) for name in rng.sample(NAMES, 12)]
    rows += [(f"{name}2", rng.choice(departments), rng.randint(1000, 9000)) for name in rng.sample(NAMES, 4 * level)]
    head, lines = "name,department,salary", [",".join(map(str, row)) for row in rows]
    before: dict[str, FileContent] = {"staff.csv": text([head, *lines])}
    if level == 3:
        before = {f"staff/{n}.csv": text([head, *lines[n::3]]) for n in range(3)}
    groups: dict[str, list[int]] = defaultdict(list)
    for _, department, salary in rows:
        groups[department].append(salary)
    source = "staff.csv" if level < 3 else "staff/*.csv"
    skip = f"tail -qn +2 {source}"
    if level == 1:
        want = text([f"{name},{len(groups[name])}" for name in sorted(groups)])
        what = "each department, a comma, and how many people it has"
        program = '{ n[$2]++ } END { for (d in n) print d "," n[d] }'
    else:
        want = text([f"{name},{len(groups[name])},{sum(groups[name])}" for name in sorted(groups)])
        what = "each department, how many people it has and the sum of their salaries, with commas between"
        program = '{ n[$2]++; s[$2] += $3 } END { for (d in n) print d "," n[d] "," s[d] }'
    name = "staff.csv lists" if level < 3 else "The files staff/*.csv list"
    return Drawn(
        prompt=f"{name} people. Write report.csv, sorted by department: {what}. No head line.",
        files=before,
        check=tree(before, {path: str(content) for path, content in before.items()} | {"report.csv": want}),
        solution=[f"{skip} | awk -F, '{program}' | sort > report.csv"],
    )


def merge_logs(rng: random.Random, level: int) -> Drawn:
    """Several logs into one, by time."""
    count = sizes(level, 2, 3, 3)
    moments = [time.isoformat() for time in times(rng, sizes(level, 20, 30, 40), most_s=90)]
    lines = [f"{moment} {rng.choice(('INFO', 'WARN', 'ERROR'))} {' '.join(words(rng, 3))}" for moment in moments]
    parts: list[list[str]] = [[] for _ in range(count)]
    for line in lines:
        for part in rng.sample(parts, 1 if level == 1 or rng.random() < 0.7 else 2):
            part.append(line)
    want = [line for line in lines if level < 3 or " ERROR " in line]
    before: dict[str, FileContent] = {
        f"logs/{name}.log": text(p) for name, p in zip(words(rng, count), parts, strict=True)
    }
    if level == 3:
        first = min(before)
        before[f"{first}.gz"] = {"gz": before.pop(first)}
    prompt = f"Merge {'both logs' if count == 2 else 'all logs'} in logs into all.log, sorted by time."
    prompt += " Lines that are in several of them appear once." if level > 1 else ""
    prompt += " Only lines with ERROR. One of the logs is compressed." if level == 3 else ""
    command = {
        1: "sort logs/*.log > all.log",
        2: "sort -u logs/*.log > all.log",
        3: "(zcat logs/*.gz; cat logs/*.log) | grep ' ERROR ' | sort -u > all.log",
    }[level]
    return Drawn(
        prompt=f"{prompt} Keep the logs.",
        files=before,
        check=tree({}, {p: c for p, c in before.items() if isinstance(c, str)} | {"all.log": text(want)}),
        solution=[command],
    )


def newest_release(rng: random.Random, level: int) -> Drawn:
    """A link to a version, where text and number sort differently."""
    major, minor = rng.randint(0, 3), rng.randint(0, 12)
    numbers = rng.sample(range(7, 14), sizes(level, 4, 5, 6))
    versions = [f"{major}.{minor}.{number}" for number in sorted(numbers)]
    good = {version: rng.random() < 0.6 for version in versions}
    good[versions[1]], good[versions[-1]] = True, False
    before = {f"releases/{v}/app.txt": f"version {v}\n" for v in versions}
    if level == 3:
        before |= {f"releases/{v}/status": "ok\n" if good[v] else "broken\n" for v in versions}
    newest = [version for version in versions if level < 3 or good[version]][-1]
    prompt = "Make a symbolic link current that leads to the folder of the newest version in releases"
    command = "v=$(ls releases | sort -V | tail -1); ln -s releases/$v current"
    after = dict(before)
    if level == 2:
        prompt += ", and delete the folders of all but the three newest versions"
        after = {p: c for p, c in before.items() if p.split("/")[1] in versions[-3:]}
        command += "; ls releases | sort -V | head -n -3 | sed 's#^#releases/#' | xargs rm -r"
    if level == 3:
        prompt += " whose file status says ok"
        command = (
            "for v in $(ls releases | sort -V); do grep -qx ok releases/$v/status && ln -sfn releases/$v current; "
        )
        command += "done; :"
    return Drawn(
        prompt=f"{prompt}.",
        files=before,
        check=tree(before, after, links={"current": f"releases/{newest}"}),
        solution=[command],
    )


WORK = {
    "rename": rename,
    "sort_into_folders": sort_into_folders,
    "edit_config": edit_config,
    "replace_text": replace_text,
    "permissions": permissions,
    "archive": archive,
    "deduplicate": deduplicate,
    "clean_up": clean_up,
    "report": report,
    "merge_logs": merge_logs,
    "newest_release": newest_release,
}

"""The two programs of the verifier that run in a sandbox: one looks at a tree, one asks a service.

They are text, sent as source; they read what to do as JSON and print what they found, a line each. Neither is told what
it should find.
"""

from __future__ import annotations

EXAMINE = r"""
import hashlib, json, os, stat, sys, tarfile

def digest(data):
    return hashlib.sha256(data.rstrip(b"\n")).hexdigest()

def found(path):
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            return ["link", os.readlink(path)]
        if not stat.S_ISREG(status.st_mode):
            return ["other"]
        mode = f"{stat.S_IMODE(status.st_mode):o}"
        if not status.st_mode & 0o400:
            os.chmod(path, 0o600)
        with open(path, "rb") as file:
            return ["file", mode, digest(file.read())]
    except OSError as error:
        return ["missing", type(error).__name__]

def packed(path):
    members, room = {}, 2**22
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isdir():
                    continue
                room -= member.size
                if not member.isreg() or room < 0 or len(members) > 500:
                    return ["unfit"]
                members[os.path.normpath(member.name)] = digest(archive.extractfile(member).read())
        return ["tar", members]
    except Exception as error:
        return ["unreadable", type(error).__name__]

asked = json.load(sys.stdin)
for path in asked["paths"]:
    print(json.dumps(found(path)))
for path in asked["archives"]:
    print(json.dumps(packed(path)))
"""

ASK = r"""
import http.client, json, os, socket, subprocess, sys, time

asked = json.load(sys.stdin)
port, log = asked["port"], open(os.devnull, "w")
server = subprocess.Popen(asked["start"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

def used():
    try:
        with open(f"/proc/{server.pid}/stat", "rb") as file:
            return sum(map(int, file.read().rpartition(b")")[2].split()[11:13]))
    except OSError:
        return -1

def up():
    # Whether it listens. A service that does not, and has had nothing to do for a while, never will.
    begun = busy = time.monotonic()
    before = -1
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            return True
        except OSError:
            time.sleep(0.02)
        now, ticks = time.monotonic(), used()
        if ticks != before:
            before, busy = ticks, now
        if now - begun > 3 and now - busy > 1:
            return False
    return False

def line(query):
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(query.encode() + b"\n")
        said = b""
        while len(said) < 10000 and not said.endswith(b"\n"):
            part = connection.recv(1000)
            if not part:
                break
            said += part
    return said.decode()

def page(query):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", query)
    answer = connection.getresponse()
    body = json.loads(answer.read(10**5))
    connection.close()
    return f"{answer.status} {json.dumps(body, sort_keys=True)}"

if up():
    for query in asked["queries"]:
        try:
            said = {"line": line, "http": page}[asked["protocol"]](query)
        except Exception as error:
            said = type(error).__name__
        print(json.dumps(said), flush=True)
server.kill()
os._exit(0)
"""

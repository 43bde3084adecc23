"""An agent on the official `openai` SDK that repairs `solution.py` in the folder where it is started.

It knows nothing of Askesis: the task comes on standard input, the endpoint by OPENAI_BASE_URL; its tools are its own.
"""

import json
import subprocess
import sys
from pathlib import Path

from openai import OpenAI

FILE = Path("solution.py")
SCHEMAS = {
    "run_tests": ("Run the tests.", {}),
    "view": ("Show the file.", {}),
    "replace": ("Replace one line.", {"line": {"type": "integer"}, "text": {"type": "string"}}),
    "submit": ("Submit the file.", {}),
}


def schema(name, description, properties):
    parameters = {"type": "object", "properties": properties}
    if properties:
        parameters["required"] = list(properties)
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def run_tests():
    try:
        done = subprocess.run([sys.executable, "run_tests.py"], capture_output=True, text=True, timeout=2)
    except subprocess.TimeoutExpired:
        return "FAIL tests stopped: wall limit"
    text = done.stdout.strip() or done.stderr.strip()
    return text if len(text) <= 400 else f"{text[:400]}... [{len(text) - 400} more characters]"


def replace(line, text):
    lines = FILE.read_text().splitlines()
    if not 1 <= line <= len(lines):
        return f"no line {line}: the file has {len(lines)} lines"
    if "\n" in text:
        return "text must be one line"
    lines[line - 1] = text
    FILE.write_text("\n".join(lines) + "\n")
    return "done"


def view():
    return "\n".join(f"{number} {line}" for number, line in enumerate(FILE.read_text().splitlines(), 1))


def call(name, arguments):
    tool = {"run_tests": run_tests, "view": view, "replace": replace}.get(name)
    if tool is None:
        return f"error: no tool {name!r} (tools: {', '.join(SCHEMAS)})"
    try:
        return tool(**arguments)
    except TypeError as error:
        return f"error: {name}: {error}"


client = OpenAI()
tools = [schema(name, *rest) for name, rest in SCHEMAS.items()]
messages = [{"role": "user", "content": sys.stdin.read()}]
while True:
    answer = client.chat.completions.create(model="policy", messages=messages, tools=tools).choices[0].message
    messages.append(answer.model_dump(exclude_none=True))
    if not answer.tool_calls:
        break
    for one in answer.tool_calls:
        if one.function.name == "submit":
            sys.exit()
        text = call(one.function.name, json.loads(one.function.arguments))
        messages.append({"role": "tool", "tool_call_id": one.id, "content": text})

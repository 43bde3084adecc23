"""A conversation about `repair`, in the words of each protocol."""

PROMPT = (
    "Repair solution.py.\n1 def count(tail, high):\n2     return pow(tail, high)\n3 def ratio(head, base):\n"
    "4     return head // base"
)
RESULT = "FAIL count(2, 5) returned 32, expected 10"
NOTHING = {"type": "object", "properties": {}}
REPLACE = {
    "type": "object",
    "properties": {"line": {"type": "integer"}, "text": {"type": "string"}},
    "required": ["line", "text"],
}
TOOLS = [
    ("run_tests", "Run the tests.", NOTHING),
    ("view", "Show the file.", NOTHING),
    ("replace", "Replace one line.", REPLACE),
    ("submit", "Submit the file.", NOTHING),
]
CHAT_TOOLS = [{"type": "function", "function": {"name": n, "description": d, "parameters": p}} for n, d, p in TOOLS]
RESPONSES_TOOLS = [
    {"type": "function", "name": n, "description": d, "parameters": p, "strict": False} for n, d, p in TOOLS
]
ANTHROPIC_TOOLS = [{"name": n, "description": d, "input_schema": p} for n, d, p in TOOLS]
MODEL = "askesis-tiny"


def chat(**changes):
    return {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 120, "seed": 3} | changes

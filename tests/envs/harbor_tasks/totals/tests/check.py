import json
import os
import subprocess
from pathlib import Path

parts = {"file": 0.0, "script": 0.0}
totals, orders = Path("/work/totals.json"), Path("/work/data/orders.csv")
assert os.environ["REGION"] == "north" and os.environ["CURRENCY"] == "EUR" and os.environ["STAGE"] == "a test"
try:
    parts["file"] = float(json.loads(totals.read_text()) == {"ann": 8, "bob": 4})
    orders.write_text("customer,amount\nann,3\ncyd,2\nann,1\n")
    subprocess.run(["/work/bin/totals"], check=True, timeout=20)
    parts["script"] = float(json.loads(totals.read_text()) == {"ann": 4, "cyd": 2})
except (OSError, ValueError, subprocess.SubprocessError) as error:
    print(error)
reward = {"reward": sum(parts.values()) / int(os.environ["PARTS"]), **parts}
Path("/logs/verifier/reward.json").write_text(json.dumps(reward))

"""Which machine this is: device, driver, versions, clocks. Writes machine.json."""

import json
import platform
import shutil
import subprocess
from datetime import date

import numpy
import torch
from gpu.arguments import parsed

FIELDS = "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit"


def described(device):
    """What is known of the machine, as values for JSON."""
    facts = {
        "date": date.today().isoformat(),
        "device": device,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "compute_capability": [properties.major, properties.minor],
            "cudnn": torch.backends.cudnn.version(),
        }
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader"]
        answer = subprocess.run(asked, check=False, capture_output=True, text=True, timeout=20).stdout
        facts["nvidia_smi"] = dict(zip(FIELDS.split(","), answer.strip().split(", "), strict=False))
    return facts


if __name__ == "__main__":
    given = parsed(__doc__)
    facts = described(given.device)
    (given.out / "machine.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))

"""All studies in their short form, with training on the device. Writes studies.tar.gz: ledger, page and figures.

Each study runs in a process of its own, several at a time, because small models leave a GPU idle; what the studies have
found is packed when all have ended, or shortly before the time limit.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from gpu.arguments import parsed

from swd_dynamics.studies import MODULES
from swd_dynamics.studies.reproduce import write_page

SECONDS = 150  # the limit of this stage, less the time that packing takes


def started(name, out, device):
    """A process that runs one study."""
    command = [
        sys.executable,
        "-m",
        "swd_dynamics",
        "reproduce",
        name,
        "--quick",
        "--device",
        device,
        "--out",
        out / name,
    ]
    with (out / f"{name}.log").open("w") as log:
        return subprocess.Popen([str(word) for word in command], stdout=log, stderr=subprocess.STDOUT)


def gathered(out, names):
    """One ledger, one page and all figures of the studies that have ended, in one folder."""
    together = out / "all"
    together.mkdir()
    ledger = {"format": 1, "quick": [], "cards": {}, "studies": {}}
    for name in names:
        if not (out / name / "verdicts.json").exists():
            continue
        found = json.loads((out / name / "verdicts.json").read_text())
        ledger["quick"] += found["quick"]
        ledger["cards"] |= found["cards"]
        ledger["studies"] |= found["studies"]
        for figure in [*(out / name).glob("*.png"), *(out / name).glob("*.svg")]:
            figure.rename(together / figure.name)
    (together / "verdicts.json").write_text(json.dumps(ledger, indent=1, ensure_ascii=False) + "\n")
    write_page(together)
    return together


def packed(folder, archive):
    """An archive of the files in a folder."""
    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=file.name)


if __name__ == "__main__":
    given = parsed(__doc__)
    names = ["transformer"] if given.miniature else [name for name in MODULES if name != "gpu"]
    with tempfile.TemporaryDirectory() as folder:
        out, end = Path(folder), time.monotonic() + SECONDS
        running = {name: started(name, out, given.device) for name in names}
        for name, process in running.items():
            try:
                code = process.wait(timeout=max(1, end - time.monotonic()))
                print(f"{name}: exit code {code}", flush=True)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                print(f"{name}: stopped", flush=True)
            print((out / f"{name}.log").read_text()[-600:])
        packed(gathered(out, names), given.out / "studies.tar.gz")

"""The full form of the study ``transformer``, with as many weights as a GPU is for. Writes transformer.tar.gz."""

import json
import tempfile
from pathlib import Path

from gpu.arguments import parsed
from gpu.studies import packed

from swd_dynamics.plots import write_figure
from swd_dynamics.studies import Setting, transformer

# Steps, and the arguments of the task: 25 M weights, and a few for a rehearsal.
LARGE = (400, {"batch_size": 32, "width": 512, "layers": 8})
SMALL = (40, {"batch_size": 2, "width": 8, "layers": 1})

if __name__ == "__main__":
    given = parsed(__doc__)
    transformer.FULL = SMALL if given.miniature else LARGE
    findings = transformer.STUDY.measure(Setting(device=given.device))
    with tempfile.TemporaryDirectory() as folder:
        write_figure(transformer.STUDY.draw(findings.data), Path(folder) / "transformer")
        ledger = [verdict.record() for verdict in findings.verdicts]
        (Path(folder) / "verdicts.json").write_text(json.dumps(ledger, indent=1, ensure_ascii=False) + "\n")
        packed(Path(folder), given.out / "transformer.tar.gz")
    print(*findings.verdicts, sep="\n")

"""The reference runs, recorded on the device. Writes runs.nc."""

from gpu.arguments import parsed

from swd_dynamics.studies.reference_runs import ReferenceRun, reference_runs, write

# Of a rehearsal: both tasks, all dtypes and both kernels.
SOME = {
    ReferenceRun("AdamW", "quadratic", "float64"),
    ReferenceRun("AdamW", "network", "float32"),
    ReferenceRun("AdamW", "network", "bfloat16", "fused"),
}

if __name__ == "__main__":
    given = parsed(__doc__)
    runs = [run for run in reference_runs() if not given.miniature or run in SOME]
    found = {}
    for run in runs:
        found[run.key] = run.recorded(given.device, **({"steps": 50} if given.miniature else {}))
        print(run.key, f"loss {found[run.key].loss.values[-1]:.4g}", flush=True)
    write(given.out / "runs.nc", found)
    print(f"{len(found)} runs, {(given.out / 'runs.nc').stat().st_size / 1e6:.2f} MB")

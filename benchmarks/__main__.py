"""All benchmarks of speed, one after the other, each in a process of its own.

    python benchmarks [--quick] [--minutes M] [--skip NAME,NAME]

Writes `out/results.md` and `out/results.json`, which hold what every script left in `out/`.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import measure

SCRIPTS = ("startup", "throughput", "breakdown", "widths", "peers")


def main() -> None:
    arguments = measure.arguments(__doc__, minutes=5.0, skip="")
    skipped = arguments.skip.split(",")
    failed, parts, found = [], [], {}
    begin = time.perf_counter()
    for name in SCRIPTS:
        if name in skipped:
            continue
        files = measure.OUT / f"{name}.md", measure.OUT / f"{name}.json"
        for file in files:  # nothing of an earlier run is taken for this one's
            file.unlink(missing_ok=True)
        options = ["--quick"] * arguments.quick
        options += ["--minutes", str(arguments.minutes)] * (name == "widths")
        script = Path(__file__).with_name(f"{name}.py")
        command = [sys.executable, script, *options]
        if subprocess.run(command, env=measure.without_cache(), check=False).returncode:
            failed.append(name)
        if all(file.exists() for file in files):
            parts.append(files[0].read_text())
            found[name] = json.loads(files[1].read_text())
    machine = measure.machine()
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    mode = "quick mode, not for publication" if arguments.quick else "full mode"
    minutes = (time.perf_counter() - begin) / 60
    header = (
        f"# Benchmarks\n\n{machine['cpu']}, {machine['cores']} cores, {machine['time']};"
        f" {versions}; {mode}, {minutes:.1f} minutes;"
        f" load average at the end {machine['load_average']:.1f}.\n"
    )
    measure.OUT.mkdir(exist_ok=True)
    (measure.OUT / "results.md").write_text("\n".join([header, *parts]))
    whole = {"machine": machine, "quick": arguments.quick, **found}
    (measure.OUT / "results.json").write_text(json.dumps(whole, indent=2) + "\n")
    print(f"\n{measure.OUT / 'results.md'}, {measure.OUT / 'results.json'}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

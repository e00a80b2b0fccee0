"""What `fasttrain doctor` prints. Exit codes: 0 everything is sound, 1 something is not."""

from pathlib import Path

from ..store.marker import check_store


def doctor(store: Path | None) -> int:
    """Look at a store, or at the machine; returns the exit code."""
    return _machine() if store is None else _store(store)


def _machine() -> int:
    from .machine import look

    num_faults = 0
    for line in look():
        num_faults += line.fault
        fault = "FAULT: " if line.fault else ""
        print(f"{line.name:14} {fault}{line.text}", flush=True)
    print("sound" if not num_faults else f"{num_faults} faults")
    return int(num_faults > 0)


def _store(path: Path) -> int:
    check_store(path, create=False)
    from .stores import examine

    found = examine(path)
    for note in found.notes:
        print(f"note: {note}")
    for finding in found.findings:
        print(f"finding: {finding}")
    looked = ", ".join(f"{count} {what}" for what, count in found.counts.items())
    verdict = f"{len(found.findings)} findings" if found.findings else "sound"
    print(f"{path}: {verdict}; {looked}; {found.num_bytes / 2**20:.1f} MiB read")
    return int(bool(found.findings))

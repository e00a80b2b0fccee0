"""What a run meets of its machine: devices, threads, signals, versions."""

"""What numba's loops share: threads, raw memory, vectors."""

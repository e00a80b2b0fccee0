"""One optimiser step of every group and model: its reference, Triton and the CPU."""

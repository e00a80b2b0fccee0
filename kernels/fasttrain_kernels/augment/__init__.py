"""The fused augmentation: its reference, Triton and the CPU."""

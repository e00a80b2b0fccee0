"""What the Triton kernels compile to, read without a GPU."""

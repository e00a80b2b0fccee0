"""Small MLPs of a pack, trained many steps in one call: reference, Triton and the CPU."""

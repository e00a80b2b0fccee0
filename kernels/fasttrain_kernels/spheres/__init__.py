"""Any optimiser on spheres, and which parameters may lie on one."""

"""`python -m bench NAME ...`: the benchmarks that `fasttrain bench` offers, and those of `OWN`."""

import runpy
import sys

OWN = {
    "gpu": "bench.gpu.run",
    "gpu-model": "bench.gpu.by_kernel",
    "gpu-profile": "bench.gpu.profile",
    "roofline": "bench.grid.roofline",
    "sgd": "bench.sgd_step",
    "studies": "bench.studies",
}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in OWN:
        sys.argv = [f"python -m bench {name}", *arguments]
        runpy.run_module(OWN[name], run_name="__main__")
    else:
        if name in ("-h", "--help"):
            print(f"python -m bench {'|'.join(OWN)} ...; or as fasttrain bench:", flush=True)
        # Its arguments need a package that those of `OWN` do without.
        from fasttrain.cli.main import main

        sys.argv = ["fasttrain", "bench", name, *arguments]
        main()

"""`python -m bench NAME ...`: the benchmarks that `fasttrain bench` offers, and those of `OWN`."""

import runpy
import sys

from fasttrain.cli.main import main

OWN = {
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
        sys.argv = ["fasttrain", "bench", name, *arguments]
        main()

"""In front of FFCV on the path where FASTTRAIN_HIDE_FFCV=1: as if it were not installed."""

raise ModuleNotFoundError("No module named 'ffcv'", name="ffcv")

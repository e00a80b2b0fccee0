"""From a plan to finished stages: packs, their sizes, the driver, its progress."""

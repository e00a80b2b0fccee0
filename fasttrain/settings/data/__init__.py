"""The data of a setting: where images come from, and what becomes of them before training."""

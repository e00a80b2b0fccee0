"""`fasttrain doctor`: whether a store is sound, to the last byte, and whether this machine is."""

"""Engines: where packs run."""

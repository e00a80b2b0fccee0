"""Packs of legs on one device: from start states to finished stages."""

"""FFCV files: their layout, writer, manifest, reader and loader."""

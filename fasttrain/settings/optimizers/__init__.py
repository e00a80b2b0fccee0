"""The optimisers of a setting: what each can be told, and how one steps a pack."""

"""A study's tree of legs: its configuration, its stages and their identities."""

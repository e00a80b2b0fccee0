"""The networks of a setting: what each can be told, and its modules."""

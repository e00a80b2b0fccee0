"""The optimisers: what torch calls, and what they share."""

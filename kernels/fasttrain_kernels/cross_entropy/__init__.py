"""The cross-entropy of a pack with its gradient and hits, in one pass over the logits."""

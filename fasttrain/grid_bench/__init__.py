"""`fasttrain bench grid`: a grid trained by the published loop and by fasttrain, side by side.

tables -> cases, measure -> worker -> published (the baseline) -> networks | profiling -> ours.
counts: FLOPs, traffic, operations, and the machine's peaks; roofs: the same on paper for a GPU.
"""

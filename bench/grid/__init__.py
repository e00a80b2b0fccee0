"""`fasttrain bench grid`: a grid trained by the published loop and by fasttrain, side by side.

tables -> cases, measure -> worker -> jobs -> published (the baseline) -> networks, or profiling ->
ours. counts: FLOPs, traffic, operations, the machine's peaks; roofs: the same on paper for a GPU.
"""

"""`python -m bench gpu`: what a GPU makes of kernels and training, in nine minutes, on one page.

run -> parts -> kernels, norm, steps, studies -> machine; model, by_kernel: the same steps on paper;
page: Markdown.
profile: the kernels of one step, by torch.profiler.
"""

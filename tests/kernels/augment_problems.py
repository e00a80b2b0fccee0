"""Images, rows and values to augment."""

import torch

from fasttrain_kernels.augment.augment import byte_map

ALL = {"flip": True, "padding": 2, "cutout": 3}


def problem(shape, dtype=torch.float32, num_images=50):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (num_images, *shape), dtype=torch.uint8, generator=generator)
    mean = torch.linspace(0.2, 0.7, shape[2], dtype=torch.float64)
    return (
        images,
        torch.randperm(num_images, generator=generator),
        byte_map(mean, mean / 3, dtype),
    )

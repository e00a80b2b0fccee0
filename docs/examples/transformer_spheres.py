"""A small causal transformer, every matrix on a sphere of its own, trained by Adam.

    python docs/examples/transformer_spheres.py                  # learns the text of this file
    python docs/examples/transformer_spheres.py --text book.txt --steps 2000

Every weight matrix keeps the Frobenius norm that it was initialised with: the constraint that
"hyperball" optimisers put around Adam or Muon. `OnSphere` does so for any torch optimiser;
vectors and scalars (biases, gains) are stepped without a sphere.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasttrain_kernels import OnSphere


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, width)
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class Transformer(nn.Module):
    def __init__(self, vocabulary: int, context: int, width: int, depth: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.place = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads=4) for _ in range(depth)))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, T) -> (B, T, vocabulary)
        x = self.token(tokens) + self.place.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, default=Path(__file__))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--lr", type=float, default=3e-3)
    options = parser.parse_args()
    torch.manual_seed(0)
    text = options.text.read_text(encoding="utf-8")
    letters = sorted(set(text))
    tokens = torch.tensor([letters.index(letter) for letter in text])
    context, batch = 64, 16
    model = Transformer(len(letters), context, options.width, options.depth)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    adam = torch.optim.Adam(
        [{"params": matrices}, {"params": vectors, "sphere": False}], lr=options.lr
    )
    # One sphere per tensor; radius=None keeps the norms of the initialisation.
    optimizer = OnSphere(adam, scope="group", groups="tensor", track=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, options.steps)
    before = [p.detach().norm() for p in matrices]
    for step in range(options.steps):
        starts = torch.randint(len(tokens) - context - 1, (batch,))
        rows = torch.stack([tokens[start : start + context + 1] for start in starts.tolist()])
        optimizer.zero_grad()
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == options.steps - 1:
            angle = optimizer.statistics().step_angle.median()
            print(f"step {step}: loss {loss.detach():.3f}, a matrix turns by {angle:.1e} rad")
    change = max(
        abs(p.detach().norm() / norm - 1) for p, norm in zip(matrices, before, strict=True)
    )
    print(f"norms of {len(matrices)} matrices have changed by at most {change:.0e}")


if __name__ == "__main__":
    main()

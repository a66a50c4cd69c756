"""Sets of neighbouring training points, over which the target of the loss is averaged.

The loss asks the network for the target of one x_0, though many x_0 could have led to the same x_t.
If x_0 is drawn as a random point of a random set S, the mean over the set,

    E[target | x_t, S],  with the weights  w_j = softmax_j(-|x_t - a x_j|^2 / 2 sigma^2),  j in S,

can take its place. Its own mean given x_t is E[target | x_t] (the tower rule), so the minimiser of
the loss is the same, and only the variance of the gradient falls. Every target is linear in x_0 and
eps, so it is enough to average these two. docs/training.md says where this helps.

With labels, a set has points of one label: the mean then is that given x_t and the label, and for
points whose label is dropped the rule holds as well.

The sets divide the training points into parts of equal size. For little noise, a set is a cell of a
k-d tree: the points around one place. For more noise, its points are drawn at random from a larger
cell. Which sizes of cells are used depends on t alone.

References:
    Xu, Tong & Jaakkola 2023 (the same mean, over a random batch), https://arxiv.org/abs/2302.00670
    Bentley 1975 (k-d trees), https://doi.org/10.1145/361002.361007
"""

import itertools
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ddpm.core.compute import sqrt

# A cell is used up to a noise level (of the variance-exploding process) of its radius, the standard
# deviation of its points, divided by this. Smaller cells miss points that could have led to x_t.
# For more noise than the largest cell, all points, allows, it is used nevertheless.
_RADIUS = 5.0
# Noise levels above this are lowered to it: an infinite one stands for no signal, where the weights
# are equal. The last set may have fewer points and is filled with one that is so far away that it
# has no weight at any of these levels.
_MAX_SIGMA_VE, _FAR = 1e6, 1e15


class CleanPoints(NamedTuple):
    """Clean points x_0, and the means of x_0 and eps given x_t and the set of x_0."""

    x0: Float[Tensor, "*chunk batch d"]
    mean_x0: Float[Tensor, "*chunk batch d"]
    mean_eps: Float[Tensor, "*chunk batch d"]
    label: Int64[Tensor, "*chunk batch"] | None = None


@dataclass(frozen=True)
class NeighbourSets:
    """The training points divided into sets, once for each size of cells.

    Attributes:
        sets: Points of each set, for each size of cells from the largest to the smallest.
        radii: Standard deviation of the points of a cell, as a mean over the cells, for each size.
        n: Number of training points.
        slots: Places of the training points, counted over all sets of a size. None if they are the
            first n; with labels, the last set of each label may have empty places.
        labels: Label of each set, if the points have labels.

    Example:
        >>> points = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> sets = NeighbourSets.of(points, 64, generator=torch.Generator().manual_seed(1))
        >>> sets.sets.shape  # five sizes of cells, 16 sets of 64 points
        torch.Size([5, 16, 2, 64])
        >>> sigma_ve, eps = torch.full((8,), 0.1), torch.zeros(8, 2)
        >>> clean = sets.draw(sigma_ve, eps, generator=torch.Generator().manual_seed(2))
        >>> bool((clean.x0 - clean.mean_x0).norm(dim=1).max() < 0.3)
        True
    """

    sets: Float[Tensor, "sizes sets d size"]
    radii: Float[Tensor, " sizes"]
    n: int
    slots: Int64[Tensor, " n"] | None = None
    labels: Int64[Tensor, " sets"] | None = None

    @classmethod
    def of(
        cls,
        points: Float[Tensor, "n d"],
        size: int,
        *,
        generator: torch.Generator,
        labels: Int64[Tensor, " n"] | None = None,
    ) -> "NeighbourSets":
        """Divide the points.

        Args:
            points: Training points, model units.
            size: Points in a set; the last set may have fewer. With 1, nothing is averaged.
            generator: Draws the points of a set from larger cells. On the CPU.
            labels: Label of each point, if they have labels. On the CPU.
        """
        n, d = points.shape
        groups = [[torch.arange(n)]]
        if labels is not None:
            groups = [[(labels == label).nonzero()[:, 0]] for label in labels.unique()]
        size = min(size, *(len(cell) for (cell,) in groups), n)
        if size == 1:
            of_sets = None if labels is None else labels.to(points.device)
            return cls(points[None, :, :, None], points.new_zeros(1), n, None, of_sets)
        on_cpu = points.cpu()
        sets, radii = [], []
        while True:
            members = []
            for cells in groups:
                order = torch.cat(
                    [cell[torch.randperm(len(cell), generator=generator)] for cell in cells]
                )
                members += [on_cpu[order], on_cpu.new_full((-len(order) % size, d), _FAR)]
            sets.append(torch.cat(members).view(-1, size, d).transpose(1, 2))
            cells = list(itertools.chain.from_iterable(groups))
            squares = [on_cpu[cell].var(0, correction=0).mean() * len(cell) for cell in cells]
            radii.append(sqrt(torch.stack(squares).sum() / n))
            if max(map(len, cells)) <= size:
                break
            groups = [
                list(itertools.chain.from_iterable(_halved(on_cpu, cell, size) for cell in cells))
                for cells in groups
            ]
        device = points.device
        divided = cls(torch.stack(sets).to(device), torch.stack(radii).to(device), n)
        return divided if labels is None else divided._with_labels(labels.to(device), size)

    def _with_labels(self, labels: Int64[Tensor, " n"], size: int) -> "NeighbourSets":
        """Say which label each set has, and which of its places are filled."""
        values, counts = labels.unique(return_counts=True)
        # Each label takes a whole number of sets, the last of which may not be full.
        of_label = (counts + size - 1) // size
        starts = (of_label.cumsum(0) - of_label) * size - (counts.cumsum(0) - counts)
        slots = torch.arange(self.n, device=labels.device) + starts.repeat_interleave(counts)
        return replace(self, slots=slots, labels=values.repeat_interleave(of_label))

    def draw(
        self,
        sigma_ve: Float[Tensor, "*chunk batch"],
        eps: Float[Tensor, "*chunk batch d"],
        *,
        generator: torch.Generator,
    ) -> CleanPoints:
        """Draw uniform training points, and average over the set of each.

        Args:
            sigma_ve: Noise level sigma / sqrt(alpha_bar) of each point, above 0.
            eps: Standard normal noise that will be added to each point.
            generator: Source of the choice, on the device of the points.
        """
        _, count, d, size = self.sets.shape
        index = torch.randint(self.n, sigma_ve.shape, generator=generator, device=eps.device)
        # The radii descend: the last cells that are large enough, or the largest.
        large_enough = self.radii >= _RADIUS * sigma_ve[..., None]
        level = (large_enough.sum(-1) - 1).clamp(min=0)
        slot = index if self.slots is None else self.slots[index]
        chosen = slot // size
        members = self.sets.view(-1, d, size)[level * count + chosen]
        position = (slot % size)[..., None, None].expand(*index.shape, d, 1)
        x0 = members.gather(-1, position)
        scale = sigma_ve.clamp(max=_MAX_SIGMA_VE)[..., None]
        # In terms of x_0 - x_j, whose own entry is exactly 0, no digits cancel.
        shifts = x0 - members
        distances = (shifts + (scale * eps)[..., None]).square_().sum(-2)
        weights = distances.mul_(-0.5 / scale.square()).softmax(-1)
        mean_shift = shifts.mul_(weights[..., None, :]).sum(-1)
        x0 = x0[..., 0]
        label = None if self.labels is None else self.labels[chosen]
        return CleanPoints(x0, x0 - mean_shift, eps + mean_shift / scale, label)


def _halved(points: Float[Tensor, "n d"], cell: Tensor, size: int) -> list[Tensor]:
    """Split a cell at the median of its widest axis, between two sets."""
    sets = -(-len(cell) // size)
    if sets == 1:
        return [cell]
    members = points[cell]
    order = members[:, members.var(0).argmax()].argsort(stable=True)
    middle = (sets + 1) // 2 * size
    return [cell[order[:middle]], cell[order[middle:]]]

"""Data sets by name: points on curves, or in boxes, with Gaussian noise around them.

    x = c + noise * e,  e ~ N(0, I)

with c on a curve, at a parameter u that is uniform on [u_min, u_max], or uniform in a box. A data
set has one or more such parts, each with a weight, and the parts may have labels. All of them lie
in one coordinate frame, in which the set spans [-1, 1]^2.

Because parts and noise are known, so is the density of the points at every noise level, also given
a label; see `ddpm.reference.distribution`. To add a data set, write a class with its `parts` here,
enter it in DATASETS at the end, and give its values under `datasets` in params.yaml.

References:
    The spiral is the blog's: Lior Sinai, "Denoising diffusion probabilistic models from first
    principles", part 1.
    https://liorsinai.github.io/machine-learning/2022/12/03/denoising-diffusion-1-spiral.html
    Moons, circles, S-curve and Swiss roll are those of scikit-learn's generators, up to the frame.
    https://scikit-learn.org/stable/datasets/sample_generators.html
"""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, NamedTuple

import torch
from jaxtyping import Float64, Int64
from pydantic import AfterValidator, Field
from torch import Tensor

from ddpm.core.settings import Real, Settings
from ddpm.data.boxes import Box
from ddpm.data.curves import Curve

Labels = Int64[Tensor, " n"]

_MIN_NOISE = 0.001
# The square [-1, 1]^2 itself.
_SQUARE = ((-1.0, -1.0), (1.0, 1.0))


def _refuse_tiny_noise(value: float) -> float:
    # The exact density is an integral along the curve, which needs more nodes for smaller noise.
    if 0 < value < _MIN_NOISE:
        raise ValueError(f"should be 0, or at least {_MIN_NOISE:g}")
    return value


class Part(NamedTuple):
    """A curve or a box with uniformly distributed points.

    Attributes:
        weight: Share of the part in the whole data set.
        shape: The curve or the box.
        label: Index of its class in `Dataset.classes`; 0 without classes.
    """

    weight: float
    shape: Curve | Box
    label: int = 0


class Dataset(Settings):
    """A distribution of points around curves or boxes.

    Attributes:
        noise: Standard deviation of the noise, in data units; 0 is allowed.
        parts: The curves or boxes. Their weights sum to 1.
        classes: Names of the labels 0, 1, and so on; empty if the points have no labels.
    """

    noise: Annotated[Real, AfterValidator(_refuse_tiny_noise), Field(ge=0, le=10)]
    parts: ClassVar[tuple[Part, ...]]
    classes: ClassVar[tuple[str, ...]] = ()

    def sample(self, n: int, *, generator: torch.Generator) -> Float64[Tensor, "n 2"]:
        """Draw n points, in data units."""
        return self.sample_with_labels(n, generator=generator)[0]

    def sample_with_labels(
        self, n: int, *, generator: torch.Generator
    ) -> tuple[Float64[Tensor, "n 2"], Labels]:
        """Draw n points, in data units, and the label of each."""
        parts = self.parts
        if len(parts) == 1:
            points = parts[0].shape.sample(n, self.noise, generator=generator)
            return points, torch.zeros(n, dtype=torch.int64)
        points, index = sample_mixture(
            [(part.weight, part.shape) for part in parts], n, self.noise, generator=generator
        )
        return points, torch.tensor([part.label for part in parts])[index]

    def project(
        self, x: Float64[Tensor, "n 2"], label: int | None = None
    ) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
        """Find the nearest point on the curves, or in the boxes, for each x in data units.

        Args:
            x: Points, data units.
            label: Only parts with this label; by default, all.

        Returns:
            The position of the nearest point in [0, 1]: parts follow each other, and each takes as
            much as its weight. The distance to it, in data units.
        """
        parts = [part for part in self.parts if label is None or part.label == label]
        projections = [part.shape.project(x) for part in parts]
        distance = torch.stack([distance for _, distance in projections])
        whole = 1.0 if label is None else sum(part.weight for part in parts)
        shares = [part.weight / whole for part in parts]
        starts = itertools.accumulate(shares, initial=0.0)
        position = torch.stack(
            [
                start + share * along
                for start, share, (along, _) in zip(starts, shares, projections, strict=False)
            ]
        )
        nearest = distance.argmin(0, keepdim=True)
        return position.gather(0, nearest)[0], distance.gather(0, nearest)[0]


def sample_mixture(
    shapes: Sequence[tuple[float, Curve | Box]],
    n: int,
    noise: float,
    *,
    generator: torch.Generator,
) -> tuple[Float64[Tensor, "n 2"], Labels]:
    """Draw n points from weighted shapes.

    Args:
        shapes: Pairs of a weight and a shape; the weights sum to 1.
        n: Number of points.
        noise: Standard deviation of the noise around the shapes, data units.
        generator: Source of the random numbers.

    Returns:
        Points in data units, and the index of the shape of each.
    """
    weights = torch.tensor([weight for weight, _ in shapes], dtype=torch.float64)
    uniform = torch.rand(n, dtype=torch.float64, generator=generator)
    index = torch.bucketize(uniform, weights.cumsum(0)[:-1])
    points = torch.empty(n, 2, dtype=torch.float64)
    for k, (_, shape) in enumerate(shapes):
        mine = index == k
        points[mine] = shape.sample(int(mine.sum()), noise, generator=generator)
    return points, index


def _spiral(u: Float64[Tensor, " n"]) -> Float64[Tensor, "n 2"]:
    return torch.stack((u * torch.cos(u), u * torch.sin(u)), dim=1)


def _arc(
    start: float,
    end: float,
    frame: tuple[tuple[float, float], tuple[float, float]],
    *,
    centre: tuple[float, float] = (0.0, 0.0),
    radii: tuple[float, float] = (1.0, 1.0),
) -> Curve:
    """Part of an ellipse, between two angles."""

    def raw(u: Float64[Tensor, " n"]) -> Float64[Tensor, "n 2"]:
        (x, y), (x_radius, y_radius) = centre, radii
        return torch.stack((x + x_radius * torch.cos(u), y + y_radius * torch.sin(u)), dim=1)

    return Curve(raw, start, end, frame)


def _segment(start: tuple[float, float], end: tuple[float, float]) -> Curve:
    """A straight line; or a point, if it ends where it starts."""

    def raw(u: Float64[Tensor, " n"]) -> Float64[Tensor, "n 2"]:
        (a, b), (c, d) = start, end
        return torch.stack((a + u * (c - a), b + u * (d - b)), dim=1)

    return Curve(raw, 0.0, 1.0, _SQUARE)


def _polyline(weight: float, label: int, *corners: tuple[float, float]) -> list[Part]:
    """Segments from corner to corner, whose points are uniform along the whole.

    The corners separate parts because a quadrature panel across a corner would lose accuracy.
    """
    lengths = [math.dist(a, b) for a, b in itertools.pairwise(corners)]
    return [
        Part(weight * length / sum(lengths), _segment(a, b), label)
        for length, (a, b) in zip(lengths, itertools.pairwise(corners), strict=True)
    ]


# scikit-learn's moons before scaling: unit half circles, the second moved by (1, 0.5).
_MOONS_FRAME = ((-1.0, -0.5), (2.0, 1.0))
_MOONS = (
    _arc(0.0, math.pi, _MOONS_FRAME),
    _arc(math.pi, 2 * math.pi, _MOONS_FRAME, centre=(1.0, 0.5)),
)
# scikit-learn's S-curve (sin u, sign(u) (cos u - 1)) for |u| <= 3 pi / 2, half as high. It is two
# arcs, because its curvature jumps where they meet.
_S_CURVE = (
    _arc(-2 * math.pi, -math.pi / 2, _SQUARE, centre=(0.0, 0.5), radii=(1.0, 0.5)),
    _arc(-math.pi, math.pi / 2, _SQUARE, centre=(0.0, -0.5), radii=(1.0, 0.5)),
)

SPIRAL = Curve(raw=_spiral, u_min=1.5 * math.pi, u_max=4.5 * math.pi)


class Spiral(Dataset):
    """The Archimedean spiral (u cos u, u sin u) with u from 1.5 pi to 4.5 pi.

    Example:
        >>> points = Spiral(noise=0.02).sample(1000, generator=torch.Generator().manual_seed(0))
        >>> points.shape
        torch.Size([1000, 2])
    """

    curve: ClassVar[Curve] = SPIRAL
    parts: ClassVar[tuple[Part, ...]] = (Part(1.0, SPIRAL),)


class SwissRoll(Spiral):
    """scikit-learn's Swiss roll, seen from its end: the spiral by its other name."""


class Curves(Dataset):
    """Spiral, S-curve and moons as three classes, as in DenoisingDiffusion.jl's example."""

    classes: ClassVar[tuple[str, ...]] = ("spiral", "s_curve", "moons")
    parts: ClassVar[tuple[Part, ...]] = (
        Part(1 / 3, SPIRAL, 0),
        *(Part(1 / 6, arc, 1) for arc in _S_CURVE),
        *(Part(1 / 6, arc, 2) for arc in _MOONS),
    )


class Moons(Dataset):
    """Two half circles that reach into each other."""

    classes: ClassVar[tuple[str, ...]] = ("outer", "inner")
    parts: ClassVar[tuple[Part, ...]] = tuple(Part(1 / 2, arc, k) for k, arc in enumerate(_MOONS))


class Circles(Dataset):
    """Two circles with the same centre, the inner one half as large."""

    classes: ClassVar[tuple[str, ...]] = ("outer", "inner")
    parts: ClassVar[tuple[Part, ...]] = tuple(
        Part(1 / 2, _arc(0.0, 2 * math.pi, _SQUARE, radii=(radius, radius)), k)
        for k, radius in enumerate((1.0, 0.5))
    )


class Gaussians(Dataset):
    """Eight Gaussians on a circle."""

    classes: ClassVar[tuple[str, ...]] = ("e", "ne", "n", "nw", "w", "sw", "s", "se")
    parts: ClassVar[tuple[Part, ...]] = tuple(
        Part(1 / 8, _segment(centre, centre), k)
        for k, angle in enumerate(2 * math.pi * k / 8 for k in range(8))
        for centre in [(math.cos(angle), math.sin(angle))]
    )


class Tree(Dataset):
    """Four paths from the root of a tree to its leaves, which share the trunk and two branches.

    In the spirit of smalldiffusion's TreeDataset and the toy example of EDM2 (Karras et al. 2024).
    """

    classes: ClassVar[tuple[str, ...]] = ("left_left", "left_right", "right_left", "right_right")
    parts: ClassVar[tuple[Part, ...]] = tuple(
        part
        for label, leaf in enumerate((-1.0, -0.25, 0.25, 1.0))
        for part in _polyline(
            1 / 4, label, (0.0, -1.0), (0.0, -0.3), (math.copysign(0.55, leaf), 0.25), (leaf, 1.0)
        )
    )


class Checkerboard(Dataset):
    """Every other square of a board of four by four."""

    parts: ClassVar[tuple[Part, ...]] = tuple(
        Part(1 / 8, Box(x=(x / 2 - 1, x / 2 - 0.5), y=(y / 2 - 1, y / 2 - 0.5)))
        for x in range(4)
        for y in range(4)
        if (x + y) % 2 == 0
    )


DATASETS: dict[str, type[Dataset]] = {
    "spiral": Spiral,
    "curves": Curves,
    "moons": Moons,
    "circles": Circles,
    "gaussians": Gaussians,
    "tree": Tree,
    "swiss_roll": SwissRoll,
    "checkerboard": Checkerboard,
}

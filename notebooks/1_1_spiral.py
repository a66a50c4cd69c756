# %% [markdown]
# # 1.1 A spiral, and how noise destroys it
#
# A diffusion model learns to turn noise into data. It is trained on the opposite: data to which
# noise has been added. This notebook builds that forward direction, with points on a spiral in
# the plane. It follows the first part of Lior Sinai's
# [Denoising diffusion probabilistic models from first principles](https://liorsinai.github.io/machine-learning/2022/12/03/denoising-diffusion-1-spiral.html).
# Each step is first written out in a few lines, and then compared with the function of the
# library `ddpm` that does the same.
#
# You need some calculus and a little PyTorch.

# %%
import math
import os

import matplotlib.pyplot as plt
import torch

import ddpm

QUICK = bool(os.environ.get("QUICK"))  # smaller sizes, for an automatic check
n_points = 500 if QUICK else 2000
plt.rcParams["figure.dpi"] = 75

# %% [markdown]
# ## Noise has a density
#
# All noise here is Gaussian. A point $x$ in the plane with mean $\mu$ and variance $\sigma^2$ in
# each coordinate, $x \sim \mathcal{N}(\mu, \sigma^2 I)$, is $x = \mu + \sigma \epsilon$ with
# $\epsilon \sim \mathcal{N}(0, I)$, and has the density
#
# $$p(x) = \frac{1}{2\pi\sigma^2} \exp\left(-\frac{|x - \mu|^2}{2\sigma^2}\right)$$


# %%
def gaussian_log_density(x, mean, sigma):
    return -(x - mean).square().sum(-1) / (2 * sigma**2) - math.log(2 * math.pi * sigma**2)


mu, sigma = torch.tensor([0.5, -0.25], dtype=torch.float64), 0.8
generator = torch.Generator().manual_seed(0)
eps = torch.randn(n_points, 2, dtype=torch.float64, generator=generator)
x = mu + sigma * eps

axis = torch.linspace(-4, 4, 201, dtype=torch.float64)
grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
density = gaussian_log_density(grid, mu, sigma).exp()

figure, axes = plt.subplots(figsize=(4, 4))
axes.plot(*x.T, ".", markersize=2, color="tab:gray")
axes.contour(axis, axis, density, levels=5)
axes.set(aspect="equal", title="points, and contours of their density")
plt.show()

# %% [markdown]
# A density integrates to one. The sum over the grid times the area of a cell is that integral.

# %%
cell = float(axis[1] - axis[0]) ** 2
print(f"integral of the density: {float(density.sum()) * cell:.6f}")
assert abs(float(density.sum()) * cell - 1) < 1e-3

# %% [markdown]
# ## The spiral
#
# An Archimedean spiral is $c(u) = (u \cos u, u \sin u)$. Here $u$ is uniform between $1.5\pi$ and
# $4.5\pi$: one and a half turns. Each axis is scaled to $[-1, 1]$, and a little noise is added
# around the curve, so that the points have a density.


# %%
def curve(u):
    return torch.stack((u * torch.cos(u), u * torch.sin(u)), dim=1)


u_min, u_max = 1.5 * math.pi, 4.5 * math.pi
fine = curve(torch.linspace(u_min, u_max, 200_001, dtype=torch.float64))
low, high = fine.amin(0), fine.amax(0)

generator = torch.Generator().manual_seed(0)
u = u_min + (u_max - u_min) * torch.rand(n_points, dtype=torch.float64, generator=generator)
points = 2 * (curve(u) - low) / (high - low) - 1
points = points + 0.02 * torch.randn(n_points, 2, dtype=torch.float64, generator=generator)

spiral = ddpm.Spiral(noise=0.02)
library = spiral.sample(n_points, generator=torch.Generator().manual_seed(0))
assert torch.allclose(points, library, atol=1e-8)

figure, axes = plt.subplots(figsize=(4, 4))
axes.plot(*points.T, ".", markersize=2)
axes.set(aspect="equal", title="the data")
plt.show()

# %% [markdown]
# **Different from the blog.** The blog scales by the smallest and largest coordinate *of the
# sample*, and adds no noise. Then the distribution depends a little on which points were drawn,
# and points on a curve have no density. Here the extremes are those of the curve itself, and the
# noise is part of the data. That makes the distribution exactly known, which notebook 1.3 needs
# in order to say how far a model is from the truth. How much do the extremes of a sample vary?

# %%
for n in (100, 10_000):
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        u = u_min + (u_max - u_min) * torch.rand(n, dtype=torch.float64, generator=generator)
        raw = curve(u)
        print(f"{n:6} points: x from {raw[:, 0].min():.4f} to {raw[:, 0].max():.4f}")
print(f"the curve itself: x from {low[0]:.4f} to {high[0]:.4f}")

# %% [markdown]
# One more step: diffusion works best if data and noise have the same size. We subtract the mean
# of the points and divide by their standard deviation, one number for both axes, so that noise
# stays round. In these *model units* the data have mean 0 and variance 1. All that follows is in
# model units.

# %%
mean = points.mean(0)
scale = (points - mean).square().mean().sqrt()
x_0 = (points - mean) / scale

scaling = ddpm.Scaling.from_points(points)
assert torch.allclose(scaling.to_model(points), x_0)
print(f"mean ({mean[0]:.3f}, {mean[1]:.3f}), scale {scale:.3f}")

# %% [markdown]
# ## Schedules: how much noise, and when
#
# The forward process takes $T$ small steps. Step $t$ shrinks the points a little and adds a
# little noise, with variance $\beta_t$:
#
# $$q(x_t \mid x_{t-1}) = \mathcal{N}\left(\sqrt{1 - \beta_t}\, x_{t-1},\ \beta_t I\right)$$
#
# Shrinking keeps the variance at 1. What is left of the data after $t$ steps is the product of
# all shrinking factors, $\sqrt{\bar\alpha_t}$ with
# $\bar\alpha_t = \prod_{i \le t} (1 - \beta_i)$; the rest is noise, of level
# $\sigma_t = \sqrt{1 - \bar\alpha_t}$ (notebook 1.2 shows why).
#
# The list $\beta_1, \dots, \beta_T$ is the *schedule*. The simplest rises linearly:

# %%
T = 1000
beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
alpha_bar = torch.cumprod(1 - beta, dim=0)

schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=T)
# The library's tables begin with t = 0, where nothing has happened yet.
assert schedule.alpha_bar[0] == 1
assert torch.allclose(schedule.alpha_bar[1:], alpha_bar)

# Data that consist of the single point mu are the Gaussian from above at every t.
one_point = ddpm.ExactDistribution.from_points(mu[None], schedule)
a, sigma_t = alpha_bar[300 - 1].sqrt(), (1 - alpha_bar[300 - 1]).sqrt()
assert torch.allclose(one_point.log_density(x, 300), gaussian_log_density(x, a * mu, sigma_t))

# %% [markdown]
# Here are this schedule and four others, and what each leaves of the data at the end. The blog
# takes $T = 40$ steps, with betas that are 25 times as large as those below; that gives nearly
# the same curve.

# %%
schedules = {
    "linear": ddpm.Linear(beta_start=1e-4, beta_end=0.02),
    "scaled linear": ddpm.ScaledLinear(beta_start=0.00085, beta_end=0.012),
    "cosine": ddpm.Cosine(s=0.008, beta_max=0.999),
    "sigmoid": ddpm.Sigmoid(start=-3, end=3, tau=1, beta_max=0.999),
    "blog": ddpm.Linear(beta_start=8e-6, beta_end=9e-5),
}
figure, (data, noise) = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
for name, settings in schedules.items():
    table = ddpm.make_schedule(settings, T)
    data.plot(table.sqrt_alpha_bar, label=name)
    noise.plot(table.sigma, label=name)
    print(f"{name:14} sqrt(alpha_bar_T) = {table.sqrt_alpha_bar[-1]:.4f}")
data.set(title=r"data: $\sqrt{\bar\alpha_t}$", xlabel="t")
noise.set(title=r"noise: $\sigma_t$", xlabel="t")
noise.legend()
plt.show()

# %% [markdown]
# The last one, with the values of the blog, keeps most of the data; we come back to it below. The
# others end with little or almost nothing.
#
# ## Noise, one step at a time

# %%
generator = torch.Generator().manual_seed(1)
x_t, at_time = x_0, {0: x_0}
for t in range(1, T + 1):
    eps = torch.randn(x_t.shape, dtype=x_t.dtype, generator=generator)
    x_t = math.sqrt(1 - beta[t - 1]) * x_t + math.sqrt(beta[t - 1]) * eps
    at_time[t] = x_t

generator = torch.Generator().manual_seed(1)
library = ddpm.diffuse(schedule, x_0, {T}, generator=generator)
assert torch.allclose(library[T], at_time[T])

# %%
figure, panels = plt.subplots(1, 6, figsize=(12, 2.3), sharex=True, sharey=True)
for axes, t in zip(panels, (0, 20, 100, 200, 400, 1000), strict=True):
    axes.plot(*at_time[t].T, ".", markersize=1, color="tab:gray")
    axes.set(aspect="equal", xlim=(-4, 4), ylim=(-4, 4), title=f"t = {t}")
plt.show()

# %% [markdown]
# The windings are gone after a fifth of the steps. The remaining steps hardly change the picture,
# yet they matter: only at the end can the points be mistaken for pure noise. The same as an
# animation:

# %%
figure, axes = plt.subplots(figsize=(3, 3), layout="constrained")
(dots,) = axes.plot([], [], ".", markersize=1.5, color="tab:gray")
axes.set(aspect="equal", xlim=(-4, 4), ylim=(-4, 4))
frames = [round(T * (k / 39) ** 2) for k in range(40)]


def show(k):
    dots.set_data(*at_time[frames[k]][:600].T)
    axes.set_title(f"t = {frames[k]}")


ddpm.animate(figure, show, len(frames), "1_1_forward.gif")
plt.close(figure)

# %% [markdown]
# ![The spiral dissolves into noise](1_1_forward.gif)
#
# ## Where the blog's schedule ends
#
# The reverse process will start from pure noise, $\mathcal{N}(0, I)$. So the forward process must
# end there. Does it? For one point,
# $q(x_T \mid x_0) = \mathcal{N}(\sqrt{\bar\alpha_T}\, x_0, \sigma_T^2 I)$, and its
# Kullback-Leibler divergence from $\mathcal{N}(0, I)$ has a closed form. In two dimensions:
#
# $$\mathrm{KL} = \sigma_T^2 - 1 - \log \sigma_T^2 + \tfrac{1}{2} \bar\alpha_T |x_0|^2$$
#
# It is measured in nats, and 0 means that the two are the same. Its mean over the data is the
# `prior_gap`; it is the one term of the model's variational bound that no training can reduce.


# %%
def mean_gap(schedule):
    variance = schedule.sigma[-1] ** 2
    squared = x_0.square().sum(1)
    return float((variance - 1 - variance.log() + schedule.alpha_bar[-1] * squared / 2).mean())


for name, settings in schedules.items():
    table = ddpm.make_schedule(settings, T)
    gap = mean_gap(table)
    assert math.isclose(gap, float(ddpm.prior_gap(table, x_0).mean()), rel_tol=1e-6)
    print(f"{name:14} {gap:8.5f} nats")

# %% [markdown]
# The blog does not standardise its data: they fill the square $[-1, 1]$, and their standard
# deviation is 0.58, so that the same betas make more noise relative to them. In its own units the
# gap is somewhat smaller:

# %%
blog = ddpm.make_schedule(schedules["blog"], T=40)
print(f"blog, in its own units: {ddpm.prior_gap(blog, points).mean():.2f} nats")

# %% [markdown]
# These divergences are of single points, $q(x_T \mid x_0)$. What sampling starts from should look
# like the cloud of all points, a mixture of them, which is closer to noise than each. Its density
# is known exactly, so its own divergence can be computed as well, as the mean of
# $\log p_T(x) - \log \mathcal{N}(x; 0, I)$ over points of the cloud:

# %%
blog_units = ddpm.Scaling(mean=torch.zeros(2, dtype=torch.float64), scale=1.0)
ends = {"linear": (schedule, scaling), "blog, its own units": (blog, blog_units)}
figure, panels = plt.subplots(1, 2, figsize=(8, 3.6), sharex=True, sharey=True)
for axes, (name, (table, units)) in zip(panels, ends.items(), strict=True):
    exact = ddpm.ExactDistribution.from_dataset(spiral, units, table)
    x_T = exact.sample(n_points, table.T, generator=torch.Generator().manual_seed(2))
    log_noise = gaussian_log_density(x_T, torch.zeros(2, dtype=torch.float64), 1)
    log_ratio = exact.log_density(x_T, table.T) - log_noise
    axes.plot(*x_T.T, ".", markersize=1.5, color="tab:gray")
    axes.set(aspect="equal", title=f"$x_T$, {name}: {log_ratio.mean():.3f} nats")
    assert (float(log_ratio.mean()) > 0.1) == (name != "linear")
plt.show()

# %% [markdown]
# With the blog's schedule $x_T$ is not noise. A sampler that starts from $\mathcal{N}(0, I)$ all
# the same starts from the wrong distribution. Its points can still end on the spiral, but too
# many of them here and too few there; notebook 1.2 has an example. This project keeps the
# schedule under the name `first_principles`, and uses `linear` by default.
#
# ## Try it

# %%
# Try it: T = 100 steps instead of 1,000. The library scales the betas by 1000 / T, so the curves
# keep their shape and their end; only the steps are coarser. With T = 10 they are too coarse: a
# beta would exceed 1, and the library says so.
coarse = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=100)
print(f"T = 100: sqrt(alpha_bar_T) = {coarse.sqrt_alpha_bar[-1]:.4f}")
try:
    ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=10)
except ddpm.UserError as error:
    print(error)

# %%
# Try it: more noise around the curve. At 0.2 the windings run into each other even before any
# diffusion. Which part of the forward process becomes uninteresting?
wide = ddpm.Spiral(noise=0.2).sample(n_points, generator=torch.Generator().manual_seed(0))
figure, axes = plt.subplots(figsize=(3, 3))
axes.plot(*wide.T, ".", markersize=1.5)
axes.set(aspect="equal", title="noise 0.2, no diffusion yet")
plt.show()

# %%
# Try it: a schedule of your own. Any betas between 0 and 1 will do. Constant betas spend most of
# the steps on points that are noise already.
constant = ddpm.Schedule.from_betas(torch.full((T,), 0.01, dtype=torch.float64))
print(f"constant: half of the variance is noise at t = {int((constant.alpha_bar > 0.5).sum())}")

# %% [markdown]
# Next: notebook 1.2, Gaussian diffusion: the forward process in one step, and how to run it
# backwards.

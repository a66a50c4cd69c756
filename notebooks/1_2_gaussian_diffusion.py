# %% [markdown]
# # 1.2 Gaussian diffusion, forwards and backwards
#
# Notebook 1.1 added noise in a thousand small steps. Here we take all of them at once, find out
# how a single step can be undone when the clean point is known, and see what is missing when it
# is not. At the end, the spiral comes out of pure noise, without any training: with the best
# guess that is possible at all, which for this data set can be computed.

# %%
import itertools
import math
import os

import matplotlib.pyplot as plt
import torch

import ddpm

QUICK = bool(os.environ.get("QUICK"))  # smaller sizes, for an automatic check
n_points = 300 if QUICK else 1000
plt.rcParams["figure.dpi"] = 75

T = 1000
spiral = ddpm.Spiral(noise=0.02)
points = spiral.sample(n_points, generator=torch.Generator().manual_seed(0))
scaling = ddpm.Scaling.from_points(points)
x_0 = scaling.to_model(points)  # model units: mean 0, variance 1
schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=T)


def show_points(axes, points, title, color="tab:gray", limit=2.5):
    axes.plot(*points.T, ".", markersize=1.5, color=color)
    axes.set(aspect="equal", xlim=(-limit, limit), ylim=(-limit, limit), title=title)


# %% [markdown]
# ## From $x_0$ to $x_t$ in one step
#
# A step is $x_t = \sqrt{1 - \beta_t}\, x_{t-1} + \sqrt{\beta_t}\, \epsilon_t$. Put the step
# before into it, and so on down to $x_0$: the factors of $x_0$ multiply, and the noise is a sum
# of independent Gaussians, which is Gaussian again. Its variance obeys
# $v_t = (1 - \beta_t) v_{t-1} + \beta_t$, that is $1 - v_t = (1 - \beta_t)(1 - v_{t-1})$, so that
# $v_t = 1 - \bar\alpha_t$. Hence
#
# $$x_t = \sqrt{\bar\alpha_t}\, x_0 + \sigma_t\, \epsilon, \qquad \sigma_t^2 = 1 - \bar\alpha_t$$

# %%
factor, variance = 1.0, 0.0
for t in range(1, T + 1):
    beta = float(schedule.beta[t])
    factor = math.sqrt(1 - beta) * factor
    variance = (1 - beta) * variance + beta
    assert math.isclose(factor, float(schedule.sqrt_alpha_bar[t]), rel_tol=1e-9)
    assert math.isclose(variance, float(schedule.sigma[t]) ** 2, rel_tol=1e-9)
print(f"after {T} steps: factor of x_0 {factor:.5f}, variance of the noise {variance:.5f}")

# %% [markdown]
# So both ways give the same distribution, although not the same points. The eye agrees:

# %%
t = 100
generator = torch.Generator().manual_seed(1)
step_by_step = ddpm.diffuse(schedule, x_0, {t}, generator=generator)[t]
eps = torch.randn(x_0.shape, dtype=x_0.dtype, generator=generator)
at_once = schedule.sqrt_alpha_bar[t] * x_0 + schedule.sigma[t] * eps
assert torch.allclose(at_once, ddpm.q_sample(schedule, x_0, t, eps))

figure, panels = plt.subplots(1, 2, figsize=(7, 3.4))
show_points(panels[0], step_by_step, f"t = {t}, step by step")
show_points(panels[1], at_once, f"t = {t}, in one step")
plt.show()

# %% [markdown]
# And so does the *energy distance*,
# $2\,\mathbb{E}|X - Y| - \mathbb{E}|X - X'| - \mathbb{E}|Y - Y'|$, estimated from two sets of
# points. It is 0 on average if both sets come from the same distribution, mostly slightly
# negative and now and then larger. For comparison: fifty pairs of sets, both drawn in one step.
# Each set starts from fresh points of the spiral, because sets that share their $x_0$ would not
# be independent.


# %%
def fresh_at_once():
    clean = scaling.to_model(spiral.sample(n_points, generator=generator))
    eps = torch.randn(clean.shape, dtype=clean.dtype, generator=generator)
    return ddpm.q_sample(schedule, clean, t, eps)


distance = ddpm.energy_distance(step_by_step, fresh_at_once()).value
pairs = torch.tensor(
    [ddpm.energy_distance(fresh_at_once(), fresh_at_once()).value for _ in range(50)]
)
print(f"step by step to one step: {distance:.4f}")
print(f"one step to one step: mean {pairs.mean():.4f}, {pairs.min():.4f} to {pairs.max():.4f}")
assert abs(distance - pairs.mean()) < 4 * pairs.std()

# %% [markdown]
# ## The posterior: a step back, if $x_0$ is known
#
# Where was $x_s$, at an earlier time $s < t$, if we know both $x_t$ and $x_0$? Bayes' rule
# answers:
#
# $$q(x_s \mid x_t, x_0) \propto q(x_t \mid x_s)\; q(x_s \mid x_0)
# = \mathcal{N}\left(x_t;\ \sqrt{r}\, x_s,\ (1 - r) I\right)\;
# \mathcal{N}\left(x_s;\ \sqrt{\bar\alpha_s}\, x_0,\ \sigma_s^2 I\right),
# \qquad r = \bar\alpha_t / \bar\alpha_s$$
#
# Both factors are Gaussian in $x_s$, so the product is as well. Collect the terms with $|x_s|^2$:
# the inverse variance is $r / (1 - r) + 1 / \sigma_s^2 = \sigma_t^2 / ((1 - r)\, \sigma_s^2)$.
# Collect those linear in $x_s$ and divide:
#
# $$\text{mean} = \frac{\sqrt{\bar\alpha_s}\,(1 - r)}{\sigma_t^2}\, x_0
# + \frac{\sqrt{r}\,\sigma_s^2}{\sigma_t^2}\, x_t,
# \qquad \text{variance} = \frac{(1 - r)\, \sigma_s^2}{\sigma_t^2}$$


# %%
def posterior_by_hand(t, s):
    a_t, a_s = schedule.alpha_bar[t], schedule.alpha_bar[s]
    r, var_t, var_s = a_t / a_s, 1 - a_t, 1 - a_s
    return a_s.sqrt() * (1 - r) / var_t, r.sqrt() * var_s / var_t, (1 - r) * var_s / var_t


for t, s in [(1000, 999), (500, 499), (300, 100), (2, 1)]:
    q = ddpm.posterior(schedule, t, s)
    by_hand = torch.stack(posterior_by_hand(t, s))
    assert torch.allclose(
        by_hand, by_hand.new_tensor([q.weight_x0, q.weight_x_t, q.variance]), rtol=1e-6
    )

# %% [markdown]
# In one coordinate, with $x_0 = 1$ and $x_t = -0.5$: the two factors, and their product,
# normalised on a grid. The formula lies on top of it.

# %%
t, s, clean, noisy = 300, 100, 1.0, -0.5
r = float(schedule.alpha_bar[t] / schedule.alpha_bar[s])
x_s = torch.linspace(-3, 3, 601, dtype=torch.float64)


def normal(x, mean, variance):
    return torch.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


from_noisy = normal(torch.tensor(noisy), math.sqrt(r) * x_s, 1 - r)
from_clean = normal(x_s, float(schedule.sqrt_alpha_bar[s]) * clean, float(schedule.sigma[s]) ** 2)
product = from_noisy * from_clean
product /= product.sum() * (x_s[1] - x_s[0])
q = ddpm.posterior(schedule, t, s)
formula = normal(x_s, q.weight_x0 * clean + q.weight_x_t * noisy, q.variance)
assert torch.allclose(product, formula, atol=1e-6)

figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(x_s, from_clean, label="from $x_0$: $q(x_s | x_0)$")
axes.plot(x_s, from_noisy, label="from $x_t$: $q(x_t | x_s)$")
axes.plot(x_s, product, linewidth=4, alpha=0.4, label="product, normalised")
axes.plot(x_s, formula, "k--", linewidth=1, label="$q(x_s | x_t, x_0)$")
axes.set(xlabel="$x_s$")
axes.legend()
plt.show()

# %% [markdown]
# ## Backwards with the true $x_0$
#
# Start from pure noise and draw $x_{t-1}$ from the posterior, again and again. Each point is told
# its own $x_0$:

# %%
generator = torch.Generator().manual_seed(2)
x_t = torch.randn(x_0.shape, dtype=x_0.dtype, generator=generator)
at_time = {T: x_t}
for t in range(T, 0, -1):
    q = ddpm.posterior(schedule, t, t - 1)
    noise = torch.randn(x_t.shape, dtype=x_t.dtype, generator=generator)
    x_t = q.weight_x0 * x_0 + q.weight_x_t * x_t + math.sqrt(q.variance) * noise
    at_time[t - 1] = x_t
assert torch.allclose(x_t, x_0)

figure, panels = plt.subplots(1, 5, figsize=(11, 2.5), sharex=True, sharey=True)
for axes, t in zip(panels, (1000, 300, 100, 30, 0), strict=True):
    show_points(axes, at_time[t], f"t = {t}")
plt.show()

# %% [markdown]
# It works: the last step has no noise and lands on $x_0$. But it is useless, since it needs the
# answer. To make *new* points, something has to stand in for $x_0$, made from what is at hand:
# $x_t$ and $t$. Guess badly, say always the mean of the data, and everything ends there:

# %%
x_t = at_time[T]
for t in range(T, 0, -1):
    q = ddpm.posterior(schedule, t, t - 1)
    noise = torch.randn(x_t.shape, dtype=x_t.dtype, generator=generator)
    x_t = q.weight_x0 * x_0.mean(0) + q.weight_x_t * x_t + math.sqrt(q.variance) * noise
print(
    f"distance of the end points from the mean: at most {(x_t - x_0.mean(0)).norm(dim=1).max():.1e}"
)
assert torch.allclose(x_t, x_0.mean(0).expand_as(x_t))

# %% [markdown]
# ## The best guess
#
# The guess with the least mean squared error is the mean of all possible clean points, weighted
# by how likely each is given $x_t$: the posterior mean $\mathbb{E}[x_0 \mid x_t]$. A network is
# trained to approximate it. For the spiral we can compute it. A clean point is a point $c$ of the
# curve plus noise of standard deviation $\eta$ (in model units), so that given $c$, $x_t$ is
# Gaussian:
#
# $$x_t \mid c \sim \mathcal{N}\left(\sqrt{\bar\alpha_t}\, c,\ V I\right),
# \qquad V = \bar\alpha_t\, \eta^2 + \sigma_t^2$$
#
# Put many nodes $c_k$ on the curve. The weight of each is that Gaussian's density, normalised,
# which is a softmax. And what the noise around the curve adds to $c$ is the posterior mean of a
# Gaussian:
#
# $$w_k = \mathrm{softmax}_k\left(-\frac{|x_t - \sqrt{\bar\alpha_t}\, c_k|^2}{2V}\right),
# \qquad \mathbb{E}[x_0 \mid x_t]
# = \frac{\sigma_t^2 \sum_k w_k c_k + \sqrt{\bar\alpha_t}\, \eta^2\, x_t}{V}$$

# %%
u = torch.linspace(1.5 * math.pi, 4.5 * math.pi, 8001, dtype=torch.float64)
nodes = scaling.to_model(spiral.curve.points((u[1:] + u[:-1]) / 2))
eta = spiral.noise / scaling.scale


def best_guess(x_t, t):
    a, sigma = schedule.levels(t)
    V = a**2 * eta**2 + sigma**2
    squared = torch.cdist(x_t, a * nodes) ** 2
    mean_node = torch.softmax(-squared / (2 * V), dim=1) @ nodes
    return (sigma**2 * mean_node + a * eta**2 * x_t) / V


exact = ddpm.ExactDistribution.from_dataset(spiral, scaling, schedule)
for t in (1, 30, 300, 1000):
    x_t = exact.sample(100, t, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(best_guess(x_t, t), exact.posterior_mean(x_t, t), atol=1e-5)

# %% [markdown]
# How good can the best guess be? Top: $x_t$. Below: $\mathbb{E}[x_0 \mid x_t]$ for the same
# points.

# %%
generator = torch.Generator().manual_seed(4)
times = (1000, 400, 200, 100, 40, 10)
figure, rows = plt.subplots(2, len(times), figsize=(12, 4.4), sharex=True, sharey=True)
for (above, below), t in zip(rows.T, times, strict=True):
    x_t = exact.sample(n_points, t, generator=generator)
    show_points(above, x_t, f"t = {t}")
    show_points(below, exact.posterior_mean(x_t, t), "best guess", color="tab:blue")
plt.show()

# %% [markdown]
# At large $t$ nothing is known, and the best guess is the mean of the data. As the noise falls,
# the guess moves out, first to a blob that resembles the spiral only roughly, and then onto the
# curve. Note $t = 100$: points between two windings are guessed to lie between them, where there
# are no data. A mean is not a typical point. The squared error that remains shows when it is
# decided where a point ends: mostly between $t = 50$ and $t = 400$.

# %%
all_times = [1, 2, 4, 8, 15, 30, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1000]
errors = []
for t in all_times:
    eps = torch.randn(x_0.shape, dtype=x_0.dtype, generator=generator)
    guess = exact.posterior_mean(ddpm.q_sample(schedule, x_0, t, eps), t)
    errors.append(float((guess - x_0).square().mean()))
figure, axes = plt.subplots(figsize=(6, 3))
axes.semilogx(all_times, errors, "o-", markersize=3)
axes.set(xlabel="t", ylabel="mean squared error", title="error of the best guess, per coordinate")
axes.grid(alpha=0.3)
plt.show()
assert errors[0] < 0.001
assert errors[-1] > 0.9

# %% [markdown]
# ## A spiral out of noise, without training
#
# Use the best guess in place of $x_0$. Why may a mean stand in, although it is not a typical
# point? Because a small step asks for little: the distribution of $x_s$ given $x_t$ alone is then
# nearly a Gaussian, as wide as the posterior's, and the posterior's mean is linear in $x_0$, so
# that its average over all possible $x_0$ needs only $\mathbb{E}[x_0 \mid x_t]$. After each small
# step the guess is made anew. That is ancestral sampling (Ho et al. 2020, algorithm 2), here with
# 250 of the 1,000 times (`trailing` means equally spaced, down from $T$):

# %%
times = ddpm.sampling_times("trailing", schedule, 50 if QUICK else 250)
generator = torch.Generator().manual_seed(5)
x_T = torch.randn(n_points // 2, 2, dtype=torch.float64, generator=generator)

x_t, frames = x_T, []
for t, s in itertools.pairwise((*times, 0)):
    guess = best_guess(x_t, t)
    frames.append((t, x_t, guess))
    q = ddpm.posterior(schedule, t, s)
    x_t = q.weight_x0 * guess + q.weight_x_t * x_t
    if s > 0:
        x_t = x_t + math.sqrt(q.variance) * torch.randn(
            x_t.shape, dtype=x_t.dtype, generator=generator
        )

frames.append((0, x_t, x_t))

generator = torch.Generator().manual_seed(5)
torch.randn(n_points // 2, 2, dtype=torch.float64, generator=generator)  # as for x_T above
sampler = ddpm.DDPM(variance="posterior")
library = ddpm.run_sampler(sampler, exact.denoiser, x_T, times, generator=generator).x
# The two sums over the curve differ by 1e-7, which steps may enlarge where the guess is undecided
# between two windings: so the median, not the maximum.
assert (x_t - library).norm(dim=1).median() < 1e-5

figure, panels = plt.subplots(1, 2, figsize=(7, 3.4), sharex=True, sharey=True)
show_points(panels[0], x_T, "start: noise")
show_points(panels[1], x_t, "end: new points on the spiral", color="tab:blue")
plt.show()

# %% [markdown]
# No point of the data was used here, only the curve. The animation shows $x_t$, and the guess
# that pulls it:

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(5.5, 3), layout="constrained")
(noisy,) = left.plot([], [], ".", markersize=2, color="tab:gray")
(guessed,) = right.plot([], [], ".", markersize=2, color="tab:blue")
for axes in (left, right):
    axes.set(aspect="equal", xlim=(-2.5, 2.5), ylim=(-2.5, 2.5))
right.set_title("best guess of $x_0$")
shown = [frames[round((len(frames) - 1) * (1 - (1 - k / 39) ** 2))] for k in range(40)]


def show(k):
    t, x, guess = shown[k]
    noisy.set_data(*x.T)
    guessed.set_data(*guess.T)
    left.set_title(f"$x_t$, t = {t:g}")


ddpm.animate(figure, show, len(shown), "1_2_reverse.gif")
plt.close(figure)

# %% [markdown]
# ![From noise to the spiral, with the best guess](1_2_reverse.gif)
#
# What is left to learn is the guess, for data whose distribution is not known. That is notebook
# 1.3.
#
# ## Try it

# %%
# Try it: few steps. With ten, the posterior's Gaussian is a poor picture of where x_s can be, and
# points are left between the windings: no fault of the guess, which is exact.
generator = torch.Generator().manual_seed(5)
few = ddpm.run_sampler(
    ddpm.DDPM(variance="posterior"),
    exact.denoiser,
    x_T,
    ddpm.sampling_times("trailing", schedule, 10),
    generator=generator,
).x
figure, axes = plt.subplots(figsize=(3, 3))
show_points(axes, few, f"10 steps: variance {few.square().mean():.2f}, data 1")
plt.show()

# %%
# Try it: the blog's schedule, which ends before the data are noise (notebook 1.1), from N(0, I) all
# the same. The points come out on the spiral, but wrongly distributed along it: look at its ends.
blog = ddpm.make_schedule(ddpm.Linear(beta_start=8e-6, beta_end=9e-5), T=40)
blog_units = ddpm.Scaling(mean=torch.zeros(2, dtype=torch.float64), scale=1.0)
blog_exact = ddpm.ExactDistribution.from_dataset(spiral, blog_units, blog)
generator = torch.Generator().manual_seed(5)
ends = ddpm.run_sampler(
    ddpm.DDPM(variance="posterior"),
    blog_exact.denoiser,
    x_T,
    range(40, 0, -1),
    generator=generator,
).x
fresh = spiral.sample(len(ends), generator=generator)
figure, axes = plt.subplots(1, 2, figsize=(6, 3), sharex=True, sharey=True)
distance = ddpm.energy_distance(ends, fresh).value
show_points(axes[0], fresh, "true points", limit=1.3)
show_points(axes[1], ends, f"blog: energy distance {distance:.3f}", limit=1.3)
plt.show()

# %%
# Try it: the exact guess for a *sample* of 20 points instead of the spiral. It knows only these
# points, so that sampling reproduces them: it has memorised them.
memorised = ddpm.ExactDistribution.from_points(x_0[:20], schedule)
generator = torch.Generator().manual_seed(5)
copies = ddpm.run_sampler(
    ddpm.DDPM(variance="posterior"), memorised.denoiser, x_T, times, generator=generator
).x
distance = torch.cdist(copies, x_0[:20]).amin(1)
print(f"distance to the nearest of the 20 points: median {distance.median():.1e}")

# %% [markdown]
# Next: notebook 1.3, training a denoiser.

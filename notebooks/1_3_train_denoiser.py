# %% [markdown]
# # 1.3 Training a denoiser, and how far it is from the truth
#
# Notebook 1.2 made a spiral out of noise with the best possible guess of $x_0$, computed from the
# spiral's formula. Real data have no formula, only points. Here a small network learns the guess
# from points, in half a minute. Because the formula is known all the same, we can then measure
# what the network has *not* learned: in its guesses, in the density of what it produces, and in
# one number, the Kullback-Leibler divergence in nats.

# %%
import copy
import itertools
import math
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import ddpm

QUICK = bool(os.environ.get("QUICK"))  # smaller sizes, for an automatic check
steps = 800 if QUICK else 5000
LOAD = False  # True: load the pipeline's model, if there is one, instead of training
plt.rcParams["figure.dpi"] = 75

T = 1000
spiral = ddpm.Spiral(noise=0.02)
points = spiral.sample(10_000, generator=torch.Generator().manual_seed(0))
scaling = ddpm.Scaling.from_points(points)
x_0 = scaling.to_model(points)
schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=T)
exact = ddpm.ExactDistribution.from_dataset(spiral, scaling, schedule)


def show_points(axes, points, title, color="tab:gray", limit=2.5):
    axes.plot(*points.T, ".", markersize=1.5, color=color)
    axes.set(aspect="equal", xlim=(-limit, limit), ylim=(-limit, limit), title=title)


# %% [markdown]
# ## What should the network predict?
#
# With $x_t = \sqrt{\bar\alpha_t}\, x_0 + \sigma_t\, \epsilon$ known, an estimate of the noise
# $\epsilon$ gives one of $x_0$, and the other way round. So the network may predict either, or a
# mixture of both, the *velocity*
#
# $$v = \sqrt{\bar\alpha_t}\, \epsilon - \sigma_t\, x_0$$
#
# Write $a = \sqrt{\bar\alpha_t}$, $\sigma = \sigma_t$. As $a^2 + \sigma^2 = 1$, the pair
# $(x_t, v)$ is the pair $(x_0, \epsilon)$, rotated, and rotating back gives
# $x_0 = a x_t - \sigma v$ and $\epsilon = \sigma x_t + a v$.

# %%
t = 300
a, sigma = schedule.levels(t)
eps = torch.randn(x_0.shape, dtype=x_0.dtype, generator=torch.Generator().manual_seed(1))
x_t = a * x_0 + sigma * eps
v = a * eps - sigma * x_0
by_hand = {
    "eps": (eps, (x_t - sigma * eps) / a, eps),  # a prediction, and the x_0 and noise it means
    "x0": (x_0, x_0, (x_t - a * x_0) / sigma),
    "v": (v, a * x_t - sigma * v, sigma * x_t + a * v),
}
for name, (prediction, x0_hat, eps_hat) in by_hand.items():
    assert torch.allclose(x0_hat, x_0)
    assert torch.allclose(eps_hat, eps)
    kind = ddpm.PREDICTIONS[name]
    assert torch.allclose(kind.target(x_0, eps, a, sigma), prediction)
    library = kind.split(prediction, x_t, a, sigma)
    assert torch.allclose(library[0], x0_hat)
    assert torch.allclose(library[1], eps_hat)

# %% [markdown]
# They differ in what an error of the prediction does to $x_0$. An error of 1 in `eps` is an error
# of $\sigma / a$ in $x_0$, which explodes at large $t$; an error of 1 in `x0` is one of
# $a / \sigma$ in the noise, which explodes at small $t$; with `v` both stay below 1. That is why
# this project predicts `v`. The blog predicts `eps`, as Ho et al. do.

# %%
a, sigma = schedule.sqrt_alpha_bar[1:], schedule.sigma[1:]
figure, axes = plt.subplots(figsize=(6, 3))
axes.loglog(range(1, T + 1), sigma / a, label="error of x_0 by 1 in eps")
axes.loglog(range(1, T + 1), a / sigma, label="error of eps by 1 in x0")
axes.loglog(range(1, T + 1), torch.maximum(a, sigma), label="either, by 1 in v")
axes.set(xlabel="t", ylabel="factor", ylim=(5e-3, 1e4))
axes.legend(loc="upper center")
plt.show()

# %% [markdown]
# ## The network
#
# One network serves all $t$, so it must be told the time. A single number is hard to use for a
# small network; instead it gets sines and cosines of $\tau = \sqrt{t / T}$ with frequencies
# $\omega_i$ from slow to fast: the *time embedding*. The root is taken because most happens at
# small $t$. The same is done with the point $x$, in random directions $B$ (Fourier features),
# because the windings are narrow and a small network prefers slow functions.
#
# $$f = [x,\ \sin 2\pi B x,\ \cos 2\pi B x,\ \sin(\omega \tau),\ \cos(\omega \tau)]$$
# $$h \leftarrow W_0 f + b_0, \qquad h \leftarrow h + W_i \mathrm{silu}(h) + b_i, \qquad
# \text{prediction} = W \mathrm{silu}(h) + b$$

# %%
settings = ddpm.ResidualMLPSettings(
    width=64, blocks=3, fourier_features=16, fourier_scale=0.15, time_features=8
)
network = settings.create(T, generator=torch.Generator().manual_seed(0))
print(f"{sum(parameter.numel() for parameter in network.parameters())} weights")


def embed(t):
    phase = (t / T).sqrt()[:, None] * network.time_frequencies
    return torch.cat((phase.sin(), phase.cos()), dim=1)


figure, axes = plt.subplots(figsize=(7, 3))
heat = axes.imshow(
    embed(torch.arange(T + 1)).T, aspect="auto", cmap="RdBu", interpolation="nearest"
)
axes.set(xlabel="t", ylabel="feature", title="time embedding: sines above, cosines below")
figure.colorbar(heat)
plt.show()


# %%
def forward_by_hand(network, x_t, t):
    phase = 2 * math.pi * x_t @ network.frequencies
    h = network.read_in(torch.cat((x_t, phase.sin(), phase.cos(), embed(t)), dim=1))
    for block in network.blocks:
        h = h + block(torch.nn.functional.silu(h))
    return network.read_out(torch.nn.functional.silu(h))


t = torch.randint(1, T + 1, (100,), generator=torch.Generator().manual_seed(2)).float()
noisy = torch.randn(100, 2, generator=torch.Generator().manual_seed(2))
# The last layer starts at zero, so that training starts from the prediction 0. Here it should not.
torch.nn.init.normal_(network.read_out.weight, generator=torch.Generator().manual_seed(3))
# (The fastest feature multiplies a difference in the last digit of the root by a hundred.)
assert torch.allclose(network(noisy, t), forward_by_hand(network, noisy, t), atol=1e-4)

# %% [markdown]
# **Different from the blog.** Its network has three layers of 16 units, with the time embedding
# added to each layer, and no features of $x$.
#
# ## Training
#
# Take random clean points, random times and random noise; let the network predict $v$ from $x_t$
# and $t$; and reduce the mean squared error:
#
# $$L = \mathbb{E}_{t, x_0, \epsilon} \left|\, \mathrm{network}(x_t, t) - v \,\right|^2 / 2$$
#
# The minimum is reached by the mean of all $v$ that belong to an $x_t$, which is the best guess
# of notebook 1.2 in another form:
# $\mathbb{E}[v \mid x_t] = (\sqrt{\bar\alpha_t}\, x_t - \mathbb{E}[x_0 \mid x_t]) / \sigma_t$.
# First the batches. The times are spread evenly over $1, \dots, T$ within each batch, one in each
# of equal parts, which has less variance than independent times and the same mean.


# %%
def make_batches(x_0, steps, batch, generator):
    part = torch.arange(batch) + torch.rand((steps, batch), generator=generator)
    t = (part / batch * T).ceil().long().clamp(1, T)
    eps = torch.randn((steps, batch, 2), generator=generator, dtype=x_0.dtype)
    index = torch.randint(len(x_0), (steps, batch), generator=generator)
    a = schedule.sqrt_alpha_bar[t][..., None].to(x_0.dtype)
    sigma = schedule.sigma[t][..., None].to(x_0.dtype)
    return a * x_0[index] + sigma * eps, t.float(), a * eps - sigma * x_0[index]


# %% [markdown]
# And the loop: AdamW with a learning rate that warms up and then decays as a cosine, a limit on
# the gradient, and a running average of the weights, which is the network that is used in the
# end.


# %%
def train_by_hand(network, batches, lr, warmup, grad_clip, ema_decay):
    averaged, losses = copy.deepcopy(network), []
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.99), weight_decay=0)
    steps = len(batches[0])
    for step, (x_t, t, target) in enumerate(zip(*batches, strict=True)):
        decay = (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.param_groups[0]["lr"] = lr * min(1, (step + 1) / warmup) * decay
        loss = (network(x_t, t) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), grad_clip)
        optimizer.step()
        memory = min(
            ema_decay, (1 + step) / (10 + step)
        )  # short at first, when weights change most
        for average, weight in zip(averaged.parameters(), network.parameters(), strict=True):
            average.data.lerp_(weight.data, 1 - memory)
        losses.append(loss.item())
    return averaged, losses


# %% [markdown]
# The library's `train` does the same. From the same weights and the same random numbers (it draws
# batches from the stream `"train/batches"` of its seed), twenty steps in double precision agree:

# %%
first = settings.create(T, generator=torch.Generator().manual_seed(0)).double()
second = copy.deepcopy(first)
adamw = {"lr": 4e-3, "warmup": 100, "grad_clip": 1.0, "ema_decay": 0.999}
batches = make_batches(x_0, 20, 256, ddpm.stream(0, "train/batches"))
averaged_by_hand, losses = train_by_hand(first, batches, **adamw)

textbook = ddpm.LossSettings(neighbours=1, time_power=0, integer_times=True)
task = ddpm.Task(schedule, ddpm.PREDICTIONS["v"], textbook)
averaged, _ = ddpm.train(
    second,
    task,
    x_0,
    x_0[:100],  # points for a validation loss, which is not used here
    settings=ddpm.TrainSettings(steps=20, batch=256, weight_decay=0, log_every=20, **adamw),
    seed=0,
)
for weight, library in zip(averaged_by_hand.parameters(), averaged.parameters(), strict=True):
    assert torch.allclose(weight, library, rtol=1e-10, atol=1e-12)

# %% [markdown]
# **Different from the pipeline.** It trains on ten times as many points, draws small $t$ more
# often, and replaces each $v$ by its mean over 64 neighbouring training points that could have led
# to the same $x_t$. The mean of the target is the same and its variance much smaller, so that after
# 14,000 quick steps the divergence below is a tenth of this network's: see `docs/training.md`.
#
# Now for real, in single precision:

# %%
trained_by_pipeline = Path("../models/denoiser.safetensors")
if LOAD and trained_by_pipeline.exists():
    model = ddpm.load_model(trained_by_pipeline)
    denoiser, schedule, scaling = model.denoiser, model.denoiser.schedule, model.scaling
    x_0 = scaling.to_model(points)
    exact = ddpm.ExactDistribution.from_dataset(model.dataset, scaling, schedule)
    batches, losses = make_batches(x_0.float(), 100, 512, torch.Generator().manual_seed(1)), []
else:
    network = settings.create(T, generator=torch.Generator().manual_seed(0))
    batches = make_batches(x_0.float(), steps, 512, torch.Generator().manual_seed(1))
    averaged, losses = train_by_hand(network, batches, **adamw)
    denoiser = task.denoiser(averaged)

# %% [markdown]
# Is the loss low enough? Its value says little, as most of it cannot be learned: many $v$ belong
# to the same $x_t$. The exact guess shows the least loss that is possible, here on the last
# batches of the training. (A denoiser's `function` is the network itself.)

# %%
last = 20 if QUICK else 100  # batches, from the end of the training
x_t, t, target = (part[-last:].flatten(0, 1).double() for part in batches)
best = exact.velocity(x_t, t)
least = float((best - target).square().mean())
with torch.no_grad():
    prediction = denoiser.function(x_t.float(), t.float()).double()
loss = float((prediction - target).square().mean())
excess = float((prediction - best).square().mean())
print(f"least possible loss {least:.4f}, the network's {loss:.4f}")
print(f"mean squared distance from the best prediction {excess:.4f}")
assert excess < (0.1 if QUICK else 0.02)

if losses:
    window = max(1, steps // 50)
    smooth = torch.tensor(losses)[: steps // window * window].view(-1, window).mean(1)
    figure, axes = plt.subplots(figsize=(6, 3))
    axes.plot(torch.arange(len(smooth)) * window, smooth, label="loss")
    axes.axhline(least, color="black", linestyle="--", label="least possible loss")
    axes.set(xlabel="step", ylim=(least - 0.02, least + 0.06))
    axes.legend()
    plt.show()

# %% [markdown]
# ## Sampling
#
# Ancestral sampling, with the network's guess in place of the best one. All 1,000 steps:


# %%
@torch.no_grad()
def sample_by_hand(denoiser, x_T, generator):
    x_t, frames = x_T, []
    for t, s in itertools.pairwise(range(T, -1, -1)):
        a, sigma = schedule.levels(t)
        v_hat = denoiser.function(x_t.float(), torch.tensor([float(t)]))
        x0_hat = a * x_t - sigma * v_hat
        frames.append((t, x_t, x0_hat))
        q = ddpm.posterior(schedule, t, s)
        x_t = q.weight_x0 * x0_hat + q.weight_x_t * x_t
        if s > 0:
            x_t = x_t + math.sqrt(q.variance) * torch.randn(x_t.shape, generator=generator)
    return x_t, [*frames, (0, x_t, x_t)]


x_T = torch.randn(1000, 2, generator=torch.Generator().manual_seed(7))
samples, frames = sample_by_hand(denoiser, x_T, torch.Generator().manual_seed(8))
with torch.no_grad():
    library = ddpm.run_sampler(
        ddpm.DDPM(variance="posterior"),
        denoiser,
        x_T,
        range(T, 0, -1),
        generator=torch.Generator().manual_seed(8),
    ).x
assert (samples - library).norm(dim=1).median() < 1e-4

figure, rows = plt.subplots(2, 6, figsize=(12, 4.4), sharex=True, sharey=True)
for (above, below), shown in zip(rows.T, (1000, 400, 200, 100, 40, 0), strict=True):
    t, x_t, x0_hat = frames[T - shown]
    show_points(above, x_t, f"$x_t$, t = {t}")
    show_points(below, x0_hat, "predicted $x_0$", color="tab:red")
plt.show()

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(5.5, 3), layout="constrained")
(noisy,) = left.plot([], [], ".", markersize=2, color="tab:gray")
(guessed,) = right.plot([], [], ".", markersize=2, color="tab:red")
for axes in (left, right):
    axes.set(aspect="equal", xlim=(-2.5, 2.5), ylim=(-2.5, 2.5))
right.set_title("predicted $x_0$")
shown = [frames[round(T * (1 - (1 - k / 39) ** 2))] for k in range(40)]


def show(k):
    t, x, guess = shown[k]
    noisy.set_data(*x[:600].T)
    guessed.set_data(*guess[:600].T)
    left.set_title(f"$x_t$, t = {t}")


ddpm.animate(figure, show, len(shown), "1_3_reverse.gif")
plt.close(figure)

# %% [markdown]
# ![From noise to the spiral, with the network](1_3_reverse.gif)
#
# ## How far from the truth?
#
# It looks like a spiral. But the eye is easily satisfied, and so are most of the usual metrics.
# Three sharper looks follow, from the guess to the whole distribution.
#
# **The score**, $\nabla \log p_t(x)$, is the direction in which the density rises most. As $p_t$
# is a mixture of the Gaussians $\mathcal{N}(\sqrt{\bar\alpha_t}\, x_0, \sigma_t^2 I)$, and the
# gradient of the logarithm of each is
# $-(x_t - \sqrt{\bar\alpha_t}\, x_0) / \sigma_t^2 = -\epsilon / \sigma_t$, the score is their
# mean, $-\mathbb{E}[\epsilon \mid x_t] / \sigma_t$. So a denoiser has a score, and so has the
# truth:

# %%
t = 60
_, sigma = schedule.levels(t)
axis = torch.linspace(-2.2, 2.2, 17, dtype=torch.float64)
grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).view(-1, 2)
grid = grid[exact.log_density(grid, t) > -4]  # where the density is not tiny
with torch.no_grad():
    model_score = -denoiser(grid, t)[1] / sigma  # a denoiser returns the estimates of x_0 and noise
true_score = exact.score(grid, t)

cloud = exact.sample(1000, t, generator=torch.Generator().manual_seed(9))
scores = {"true score": true_score, "model's": model_score, "difference": model_score - true_score}
figure, panels = plt.subplots(1, 3, figsize=(12, 4), sharex=True, sharey=True)
for axes, (title, score) in zip(panels, scores.items(), strict=True):
    show_points(axes, cloud, f"{title}, t = {t}", color="lightgray")
    axes.quiver(*grid.T, *score.T, angles="xy", scale=80, width=0.005)
plt.show()
error = (model_score - true_score).norm(dim=1) / true_score.norm(dim=1)
print(f"relative error of the score: median {error.median():.3f}")
assert error.median() < (0.5 if QUICK else 0.2)

# %% [markdown]
# **The density.** Sampling can be made deterministic: the *probability flow* (Song et al. 2021)
# is an ordinary differential equation that moves points so that they have the distribution $p_t$
# at every $t$. With the angle $\phi$, where $\sin\phi = \sigma_t$, it has a simple form, and the
# density of a point changes along it by the divergence of the velocity:
#
# $$\frac{dx}{d\phi} = \mathbb{E}[v \mid x], \qquad
# \frac{d \log p(x)}{d\phi} = -\nabla \cdot \mathbb{E}[v \mid x]$$
#
# Put the network's prediction in the place of $\mathbb{E}[v \mid x]$, follow a point from the
# data to noise, whose density is known, and the model's density at that point is known too.

# %%
side = 30 if QUICK else 90
axis = torch.linspace(-2.2, 2.2, side, dtype=torch.float64)
grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).view(-1, 2)
true_density = exact.log_density(grid, 0).exp().view(side, side)
model_density = ddpm.log_likelihood(denoiser, grid, 0, tolerance=1e-3).exp().view(side, side)

figure, panels = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True)
for axes, density, title in zip(
    panels, (true_density, model_density), ("true density", "model's density"), strict=True
):
    axes.imshow(
        density.clamp(max=float(true_density.max())),
        origin="lower",
        extent=(-2.2, 2.2, -2.2, 2.2),
        cmap="Blues",
        vmin=0,
        vmax=float(true_density.max()),
    )
    axes.set(title=title)
plt.show()

# %% [markdown]
# The model's density is speckled along the curve. That is no noise of the computation: the
# network's velocity is slightly uneven, and the flow adds it up.
#
# **One number.** The Kullback-Leibler divergence from the truth $p$ to the model $q$ is the mean
# of $\log p(x) - \log q(x)$ over true points. It is 0 only if the two are the same. In nats, 0.05
# means that on average a true point is 5 % less likely under the model than it should be.

# %%
fresh = exact.sample(500 if QUICK else 3000, 0, generator=torch.Generator().manual_seed(10))
log_ratio = exact.log_density(fresh, 0) - ddpm.log_likelihood(denoiser, fresh, 0, tolerance=1e-4)
error = float(log_ratio.std()) / math.sqrt(len(fresh))
print(f"KL(truth || model) = {log_ratio.mean():.3f} ± {error:.3f} nats")
assert -4 * error < log_ratio.mean() < (3 if QUICK else 0.12)

# %% [markdown]
# And with two-sample statistics, which need no density? The energy distances of the samples from
# ten sets of true points, next to those between true sets:

# %%
generator = torch.Generator().manual_seed(11)
true_sets = [exact.sample(1000, 0, generator=generator) for _ in range(10)]
to_truth = [ddpm.energy_distance(samples.double(), true_set).value for true_set in true_sets]
among_truth = [ddpm.energy_distance(a, b).value for a, b in itertools.combinations(true_sets, 2)]
print(f"samples to true sets   {min(to_truth):.4f} to {max(to_truth):.4f}")
print(f"true sets among them   {min(among_truth):.4f} to {max(among_truth):.4f}")

# %% [markdown]
# With a thousand points such a statistic can hardly tell the model from the truth; the likelihood
# can. That is what this project is about: where the truth is known, measure against it. The
# documentation goes on from here: `docs/metrics.md` says what each metric means and what it
# cannot see, and `docs/samplers.md` which sampler to choose.
#
# ## Try it

# %%
# Try it: fewer steps of training. After 300 steps the windings on the right are not yet apart.
short = settings.create(T, generator=torch.Generator().manual_seed(0))
batches = make_batches(x_0.float(), 300, 512, torch.Generator().manual_seed(1))
rough, _ = train_by_hand(short, batches, **adamw)
rough_samples, _ = sample_by_hand(task.denoiser(rough), x_T, torch.Generator().manual_seed(8))
log_likelihood = ddpm.log_likelihood(task.denoiser(rough), fresh[:500], 0, tolerance=1e-3)
print(f"KL {(exact.log_density(fresh[:500], 0) - log_likelihood).mean():.2f} nats")
figure, axes = plt.subplots(figsize=(3, 3))
show_points(axes, rough_samples, "after 300 steps", color="tab:red")
plt.show()

# %%
# Try it: a better sampler with few steps. UniPC needs 20 evaluations of the network where DDPM took
# 1,000 (`log_snr` places them evenly in log SNR). With 5, look between the windings.
figure, panels = plt.subplots(1, 2, figsize=(6, 3), sharex=True, sharey=True)
for axes, evaluations in zip(panels, (20, 5), strict=True):
    times = ddpm.sampling_times("log_snr", schedule, evaluations)
    with torch.no_grad():
        few = ddpm.run_sampler(ddpm.UniPC(), denoiser, x_T, times, generator=torch.Generator()).x
    show_points(axes, few, f"UniPC, {evaluations} evaluations", color="tab:red")
plt.show()

# %% [markdown]
# Try it: predict the noise instead of $v$. Change the target in `make_batches` to `eps`, the task
# to `ddpm.Task(schedule, ddpm.PREDICTIONS["eps"], textbook)`, and `x0_hat` in `sample_by_hand` to
# `(x_t - sigma * eps_hat) / a`; leave out the comparison with the library and the cell of the
# least possible loss, which are about $v$. You should see samples that look as good, and a KL
# that is two to three times as large.

# %% [markdown]
# # 1.4 How far from the truth?
#
# Notebook 1.3 ended with a picture that looked right, a distance that could not tell, and a
# likelihood that could. Here we look at the instruments themselves. We take samples whose faults
# we know, because we made them, and see which distance notices which fault. Then we build the two
# sharpest instruments by hand: the likelihood of a model, and the density of a *sampler's* output.

# %%
import math
import os

import matplotlib.pyplot as plt
import torch

import ddpm

QUICK = bool(os.environ.get("QUICK"))  # smaller sizes, for an automatic check
n = 500 if QUICK else 2000
plt.rcParams["figure.dpi"] = 75

spiral = ddpm.Spiral(noise=0.02)
points = spiral.sample(10_000, generator=torch.Generator().manual_seed(0))
scaling = ddpm.Scaling.from_points(points)
x_0 = scaling.to_model(points)
schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=1000)
exact = ddpm.ExactDistribution.from_dataset(spiral, scaling, schedule)


def show_points(axes, points, title, color="tab:gray", limit=2.5):
    axes.plot(*points.T, ".", markersize=1.5, color=color)
    axes.set(aspect="equal", xlim=(-limit, limit), ylim=(-limit, limit), title=title)


# %% [markdown]
# ## Five suspects
#
# One set of true points, and four with a fault: a spiral that is a fifth too thin; one in which
# three points of a hundred lie anywhere (*strays*); one with a gap in the outer winding; and a
# memoriser, which only repeats training points.

# %%
generator = torch.Generator().manual_seed(1)


def true_points(count):
    return exact.sample(count, 0, generator=generator)


thin = scaling.to_model(ddpm.Spiral(noise=0.016).sample(n, generator=generator))
strays = true_points(n)
anywhere = torch.rand(n // 33, 2, dtype=torch.float64, generator=generator)
strays[: len(anywhere)] = 4 * anywhere - 2
whole = true_points(2 * n)
cut = whole[(whole[:, 0] < 0.3) | (whole[:, 1] > -1.2)][:n]
repeated = x_0[torch.randint(len(x_0), (n,), generator=generator)]
suspects = {
    "true": true_points(n),
    "too thin": thin,
    "strays": strays,
    "a part is missing": cut,
    "memorised": repeated,
}
figure, panels = plt.subplots(1, 5, figsize=(15, 3.2), sharex=True, sharey=True)
for axes, (name, suspect) in zip(panels, suspects.items(), strict=True):
    show_points(axes, suspect, name)
plt.show()

# %% [markdown]
# ## What the usual distances see
#
# The **energy distance** $2\,\mathbb{E}|X - Y| - \mathbb{E}|X - X'| - \mathbb{E}|Y - Y'|$ compares
# two sets of points, without a model of either. The estimate has no bias, so for two true sets it
# is 0 on average and often negative. We also need its spread among true sets: only what lies
# outside of it is noticed at all.

# %%
truth = true_points(n)


def energy(points):
    return ddpm.energy_distance(points, truth).value


among_truth = torch.tensor([energy(true_points(n)) for _ in range(20)])
print(f"among true sets: {among_truth.mean():.4f}, sd {among_truth.std():.4f}")
for name, suspect in suspects.items():
    deviations = (energy(suspect) - among_truth.mean()) / among_truth.std()
    print(f"{name:18} {energy(suspect):8.4f}   {deviations:+6.1f} standard deviations")

# %% [markdown]
# It notices a part that is missing, and nothing else. Mass in the wrong place counts by how far it
# would have to be moved, and neither the thickness of a line nor a few strays matter much for that.
#
# ## What the exact density sees
#
# Here we know the density $p_0$ of the data. The **log density** of a sample says how typical it
# is. Its mean is not a distance, because too typical is wrong as well; a true set has the mean
# $\mathbb{E} \log p_0$, up to chance. And a point whose density is below that of each of many true
# points is a **stray**. The mean leaves strays out.

# %%
reference = exact.log_density(true_points(20 * n), 0)
print(f"true points: log density {reference.mean():.3f}, sd {reference.std():.2f}")
for name, suspect in suspects.items():
    values = exact.log_density(suspect, 0)
    stray = values < reference.min()
    kept = values[~stray]
    deviations = (kept.mean() - reference.mean()) / (reference.std() / math.sqrt(n))
    print(
        f"{name:18} log density {kept.mean():.3f} ({deviations:+5.1f} standard errors),"
        f" strays {100 * stray.double().mean():.2f} %"
    )
thin_log_density = exact.log_density(thin, 0).mean()
assert thin_log_density - reference.mean() > 5 * reference.std() / math.sqrt(n)

# %% [markdown]
# Now the thin spiral and the strays stand out. The gap does not: every point that is left is
# typical. Nor does the memoriser, and no statistic of single points can see it, because each of
# its points is a true one. But for exact repeats, only a comparison with the training points, or a
# likelihood of *fresh* points, tells. So let us compute a likelihood.
#
# ## The likelihood of a model
#
# We train a network, as the pipeline does but for a shorter time.

# %%
settings = ddpm.ResidualMLPSettings(
    width=64, blocks=3, fourier_features=16, fourier_scale=0.15, time_features=8
)
task = ddpm.Task(
    schedule,
    ddpm.PREDICTIONS["v"],
    ddpm.LossSettings(neighbours=64, time_power=0.65, integer_times=False),
)
many = scaling.to_model(
    spiral.sample(4_000 if QUICK else 50_000, generator=torch.Generator().manual_seed(2))
)
network, _ = ddpm.train(
    settings.create(1000, generator=torch.Generator().manual_seed(0)),
    task,
    many.float(),
    many[:100].float(),
    settings=ddpm.TrainSettings(
        steps=500 if QUICK else 5000,
        batch=512,
        lr=0.006,
        warmup=100,
        weight_decay=0.01,
        ema_decay=0.999,
        grad_clip=1.0,
        log_every=500,
    ),
    seed=0,
)
denoiser = task.denoiser(network)

# %% [markdown]
# The probability flow $dx / d\phi = v(x, t)$ with $\sin\phi = \sigma_t$ moves data to noise and
# back, and along it the log density changes by minus the divergence of $v$ (notebook 1.3). By
# hand: Heun's method with many small steps, and for the divergence the derivatives from autograd.


# %%
def velocity_and_divergence(x, t):
    x = x.detach().requires_grad_()
    v = denoiser.velocity(x, t)
    rows = [torch.autograd.grad(v[:, k].sum(), x, retain_graph=True)[0][:, k] for k in (0, 1)]
    return v.detach(), rows[0] + rows[1]


def log_likelihood_by_hand(x, steps):
    end = math.asin(schedule.levels(schedule.T)[1])
    change, width = torch.zeros(len(x), dtype=x.dtype), end / steps
    for k in range(steps):
        times = [schedule.time_of(2 * math.log(math.cos(angle * width))) for angle in (k, k + 1)]
        v, divergence = velocity_and_divergence(x, times[0])
        v_next, divergence_next = velocity_and_divergence(x + width * v, times[1])
        x = x + width * (v + v_next) / 2
        change = change + width * (divergence + divergence_next) / 2
    return change - x.square().sum(1) / 2 - math.log(2 * math.pi)


few = true_points(50)
by_hand = log_likelihood_by_hand(few, 200 if QUICK else 400)
library = ddpm.log_likelihood(denoiser, few, 0, tolerance=1e-5)
print(f"largest difference from the library: {(by_hand - library).abs().max():.3f} nats")
assert (by_hand - library).abs().median() < 0.05

# %% [markdown]
# The exact log density minus the model's, averaged over true points, is the **Kullback-Leibler
# divergence** in nats. It is 0 only if the two densities are the same.
#
# $$\mathrm{KL}(\text{truth} \,\|\, \text{model}) = \mathbb{E}_{x \sim p_0}
# [\log p_0(x) - \log q(x)]$$

# %%
fresh = true_points(n)
log_ratio = exact.log_density(fresh, 0) - ddpm.log_likelihood(denoiser, fresh, 0, tolerance=1e-4)
kl, kl_se = log_ratio.mean(), log_ratio.std() / math.sqrt(n)
print(f"KL(truth || model) = {kl:.4f} ± {kl_se:.4f} nats")
assert kl > -3 * kl_se

# %% [markdown]
# It is an average over *true* points. It sees strays only through the mass that they take from
# these: three in a hundred cost $-\log 0.97 = 0.03$ nats, wherever they lie.
#
# ## The density of a sampler's output
#
# A likelihood belongs to a model whose flow is solved exactly. A sampler with ten steps produces
# something else. What is its density? A deterministic sampler is a map from $x_T$ to $x_0$. If $J$
# is its Jacobian matrix, the change of variables gives
#
# $$\log q(x_0) = \log \mathcal{N}(x_T; 0, I) - \log |\det J|$$
#
# however many steps it takes. By hand, for DDIM with ten steps on the exact denoiser, with $J$ from
# autograd:


# %%
def ddim(x_t, times):
    for t, s in zip(times, (*times[1:], 0), strict=True):
        x0_hat, eps_hat = exact.denoiser(x_t, t)
        a, sigma = schedule.levels(s)
        x_t = a * x0_hat + sigma * eps_hat
    return x_t


times = ddpm.sampling_times("log_snr", schedule, 10)
x_T = torch.randn(n, 2, dtype=torch.float64, generator=generator)
leaf = x_T[:100].clone().requires_grad_()
end = ddim(leaf, times)
rows = [torch.autograd.grad(end[:, k].sum(), leaf, retain_graph=True)[0] for k in (0, 1)]
determinant = torch.linalg.det(torch.stack(rows, dim=1))
log_q = -leaf.detach().square().sum(1) / 2 - math.log(2 * math.pi) - determinant.abs().log()

output = ddpm.output_density(ddpm.DDIM(eta=0), exact.denoiser, x_T, times)
assert torch.allclose(output.x[:100], end.detach(), atol=1e-9)
assert torch.allclose(output.log_density[:100], log_q, atol=1e-6)

# %% [markdown]
# Now compare it with the truth on the sampler's own output:
# $\mathrm{KL}(\text{sampler} \,\|\, \text{truth})$ is the mean of the log-ratio
# $\log q(x_0) - \log p_0(x_0)$. No second set of points is needed, and so there is no floor. (DDPM
# adds noise, so that it is not a map and has no such formula.) Where a map turns inside out, it
# *folds*: several $x_T$ arrive at one $x_0$, the density is larger than the formula says, and the
# number is a lower bound. Three samplers with ten evaluations each, and the energy distances of
# the same points:

# %%
figure, axes = plt.subplots(figsize=(6, 3))
for sampler, color in (
    (ddpm.DDIM(eta=0), "tab:gray"),
    (ddpm.DPMSolver2M(), "tab:orange"),
    (ddpm.UniPC(), "tab:blue"),
):
    output = ddpm.output_density(sampler, exact.denoiser, x_T, times)
    log_ratio = output.log_density - exact.log_density(output.x, 0)
    name, se = type(sampler).__name__, log_ratio.std() / math.sqrt(n)
    folded = (output.determinant < 0).double().mean()
    print(
        f"{name:12} KL(sampler || truth) = {log_ratio.mean():.3f} ± {se:.3f} nats, folded"
        f" {100 * folded:.1f} %, energy distance {energy(output.x):.4f}"
    )
    axes.hist(log_ratio.clamp(-2, 4), bins=60, histtype="step", color=color, label=name)
axes.set(xlabel="log-ratio, nats", ylabel="points")
axes.legend()
plt.show()
assert log_ratio.mean() < 0.5

# %% [markdown]
# The energy distance sees the fault of DDIM. It cannot tell the other two from the truth, while the
# KL still tells them from each other.
#
# ## Two directions
#
# $\mathrm{KL}(\text{truth} \,\|\, \text{model})$ asks at true points: did the model *miss*
# anything? $\mathrm{KL}(\text{sampler} \,\|\, \text{truth})$ asks at samples: did it *invent*
# anything? The flow of our network, solved to high accuracy, has both:

# %%
flow = ddpm.output_density(ddpm.ODE(tolerance=1e-4), denoiser, x_T, [1000])
invented = flow.log_density - exact.log_density(flow.x, 0)
se_invented, cut = invented.std() / math.sqrt(n), invented.clamp(max=30)
print(f"KL(truth || model) = {kl:.4f} ± {kl_se:.4f} nats")
print(f"KL(model || truth) = {invented.mean():.4f} ± {se_invented:.4f} nats")
print(f"the largest log-ratio is {invented.max():.1f}; each cut at 30: {cut.mean():.4f} nats")
assert invented.mean() > -0.05

# %% [markdown]
# A few strays with enormous log-ratios can decide this direction, which is why the project's tables
# also have it with each log-ratio cut at 30 nats.
#
# ## Try it

# %%
# Try it: an affine fault. Move all true points a little, and see which instrument notices first.
for shift in (0.005, 0.01, 0.02):
    moved = true_points(n) + shift
    deviations = (energy(moved) - among_truth.mean()) / among_truth.std()
    change = exact.log_density(moved, 0).mean() - reference.mean()
    error = reference.std() / math.sqrt(n)
    print(
        f"shift {shift:.3f}: energy {deviations:+.1f} standard deviations,"
        f" log density {change / error:+.1f}"
    )

# %%
# Try it: more steps. The sampler's KL (each log-ratio cut at 30) falls towards 0 with the exact
# denoiser, and towards that of the network's flow with the network.
for steps in (10, 20, 40):
    times = ddpm.sampling_times("log_snr", schedule, steps)
    row = []
    for kind in (exact.denoiser, denoiser):
        output = ddpm.output_density(ddpm.UniPC(), kind, x_T, times)
        row.append((output.log_density - exact.log_density(output.x, 0)).clamp(max=30).mean())
    print(f"{steps} steps: exact denoiser {row[0]:.4f}, network {row[1]:.4f} nats")

# %% [markdown]
# Next: notebook 1.5, how few steps are enough.

# %% [markdown]
# # 1.5 Fewer steps
#
# A thousand evaluations of a network for one sample are many. How few are enough, and what goes
# wrong with fewer? With the exact density of a sampler's output (notebook 1.4) the question has an
# answer in nats: $\mathrm{KL}(\text{sampler} \,\|\, \text{truth})$. We compare DDPM and DDIM, write
# a sampler of second order in ten lines, and draw the chart of nats over evaluations, for the best
# possible denoiser and for a network.

# %%
import itertools
import math
import os

import matplotlib.pyplot as plt
import torch

import ddpm

QUICK = bool(os.environ.get("QUICK"))  # smaller sizes, for an automatic check
n = 200 if QUICK else 1000
plt.rcParams["figure.dpi"] = 75

spiral = ddpm.Spiral(noise=0.02)
points = spiral.sample(4_000 if QUICK else 50_000, generator=torch.Generator().manual_seed(0))
scaling = ddpm.Scaling.from_points(points)
x_0 = scaling.to_model(points)
schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=1000)
exact = ddpm.ExactDistribution.from_dataset(spiral, scaling, schedule)
x_T = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def show_points(axes, points, title, color="tab:gray", limit=2.5):
    axes.plot(*points.T, ".", markersize=1.5, color=color)
    axes.set(aspect="equal", xlim=(-limit, limit), ylim=(-limit, limit), title=title)


# %% [markdown]
# ## DDPM and DDIM
#
# From $x_t$ both guess $\hat x_0$ and the noise $\hat\epsilon$. **DDIM** (Song et al. 2021) then
# puts less of the same noise on the same guess:
#
# $$x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sigma_s\, \hat\epsilon$$
#
# **DDPM** takes less of $\hat\epsilon$ and adds fresh noise instead. So DDIM is a map: the same
# $x_T$ always leads to the same $x_0$. Here both have the exact denoiser, so that every fault is
# the sampler's own.


# %%
def ddim_by_hand(denoiser, x_t, times):
    for t, s in itertools.pairwise((*times, 0)):
        x0_hat, eps_hat = denoiser(x_t, t)
        a, sigma = schedule.levels(s)
        x_t = a * x0_hat + sigma * eps_hat
    return x_t


def run(sampler, denoiser, times):
    with torch.no_grad():
        return ddpm.run_sampler(
            sampler, denoiser, x_T, times, generator=torch.Generator().manual_seed(2)
        ).x


budgets = (10, 20, 100)
figure, rows = plt.subplots(2, 3, figsize=(8, 5.4), sharex=True, sharey=True)
for (above, below), steps in zip(rows.T, budgets, strict=True):
    times = ddpm.sampling_times("trailing", schedule, steps)
    show_points(
        above, run(ddpm.DDPM(variance="posterior"), exact.denoiser, times), f"DDPM, {steps}"
    )
    by_hand = ddim_by_hand(exact.denoiser, x_T, times)
    show_points(below, by_hand, f"DDIM, {steps}", color="tab:blue")
    assert torch.allclose(run(ddpm.DDIM(eta=0), exact.denoiser, times), by_hand, atol=1e-8)
plt.show()

# %% [markdown]
# With ten steps, points are left between the windings. A step of DDIM keeps its guess all the way,
# which is a straight line in $x_t / \sqrt{\bar\alpha_t}$; along the true path, the probability
# flow, the guess changes. The error of a step is proportional to the *square* of its length, and
# with $N$ steps the sum is proportional to $1 / N$: a method of first order. That is the error of
# the points. KL is roughly proportional to its square, once it is small: nats fall like $1 / N^2$,
# and for a method of second order like $1 / N^4$.
#
# ## Where to put the steps
#
# `trailing` spaces them equally in $t$, `log_snr` in the logarithm of the signal-to-noise ratio
# $\bar\alpha_t / \sigma_t^2$, which puts four of ten below $t = 100$, near the data. In nats:


# %%
def nats(sampler, denoiser, times):
    """KL(sampler || truth), with each log-ratio cut at 30 nats, and its standard error."""
    output = ddpm.output_density(sampler, denoiser, x_T, times)
    v = (output.log_density - exact.log_density(output.x, 0)).clamp(max=30)
    return float(v.mean()), float(v.std() / math.sqrt(n))


for spacing in ("trailing", "log_snr"):
    for steps in budgets:
        times = ddpm.sampling_times(spacing, schedule, steps)
        kl, se = nats(ddpm.DDIM(eta=0), exact.denoiser, times)
        print(f"DDIM, {spacing:8} {steps:4} steps: {kl:6.3f} ± {se:.3f} nats")

# %% [markdown]
# ## A method of second order, in ten lines
#
# The guess $\hat x_0$ changes along the way; so let us extrapolate it. With
# $\lambda = \frac{1}{2} \log(\bar\alpha_t / \sigma_t^2)$, the flow has the exact solution
#
# $$x_s = \frac{\sigma_s}{\sigma_t} x_t + \sigma_s \int_{\lambda_t}^{\lambda_s} e^\lambda\,
# \hat x_0(\lambda)\, d\lambda$$
#
# If $\hat x_0$ were constant on the way, this would be DDIM. **DPM-Solver++ 2M** (Lu et al. 2022)
# takes the line through the last two guesses, and its value in the middle of the step. It needs no
# extra evaluation, because the earlier guess is there already.


# %%
def log_snr_half(t):
    a, sigma = schedule.levels(t)
    return math.log(a / sigma)


def dpm_solver_by_hand(denoiser, x_t, times):
    before = None
    for t, s in itertools.pairwise((*times, 0)):
        x0_hat, _ = denoiser(x_t, t)
        guess = x0_hat
        if before is not None and s > 0:
            last_t, last_x0_hat = before
            h, last_h = log_snr_half(s) - log_snr_half(t), log_snr_half(t) - log_snr_half(last_t)
            guess = x0_hat + (x0_hat - last_x0_hat) * h / (2 * last_h)
        (a, sigma), (_, sigma_t) = schedule.levels(s), schedule.levels(t)
        weight = a - sigma * schedule.levels(t)[0] / sigma_t
        x_t, before = sigma / sigma_t * x_t + weight * guess, (t, x0_hat)
    return x_t


times = ddpm.sampling_times("log_snr", schedule, 15)
by_hand = dpm_solver_by_hand(exact.denoiser, x_T, times)
assert torch.allclose(run(ddpm.DPMSolver2M(), exact.denoiser, times), by_hand, atol=1e-8)

# %% [markdown]
# ## A network
#
# Now a denoiser that was learned, as in the pipeline but in fewer steps.

# %%
settings = ddpm.ResidualMLPSettings(
    width=64, blocks=3, fourier_features=16, fourier_scale=0.15, time_features=8
)
task = ddpm.Task(
    schedule,
    ddpm.PREDICTIONS["v"],
    ddpm.LossSettings(neighbours=64, time_power=0.65, integer_times=False),
)
network, _ = ddpm.train(
    settings.create(1000, generator=torch.Generator().manual_seed(0)),
    task,
    x_0.float(),
    x_0[:100].float(),
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
# ## Nats against the number of evaluations
#
# All samplers start from the same $x_T$. **UniPC** (Zhao et al. 2023) is a third one: it
# extrapolates too, and when the next guess is known it corrects the step before, at no extra
# evaluation. The dashed line is the network's own flow, solved to high accuracy: no deterministic
# sampler of this network can be expected below it. (With five and eight evaluations the maps of
# the two faster methods fold, so that their values are lower bounds: notebook 1.4.)

# %%
samplers = {
    "DDIM": (ddpm.DDIM(eta=0), "tab:gray"),
    "DPM-Solver++ 2M": (ddpm.DPMSolver2M(), "tab:orange"),
    "UniPC": (ddpm.UniPC(), "tab:blue"),
}
evaluations = (8, 20) if QUICK else (5, 8, 10, 15, 20, 35, 50)
figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, sharey=True)
results = {}
for axes, (kind, title) in zip(
    panels, ((exact.denoiser, "exact denoiser"), (denoiser, "network")), strict=True
):
    for name, (sampler, color) in samplers.items():
        values = [
            nats(sampler, kind, ddpm.sampling_times("log_snr", schedule, steps))
            for steps in evaluations
        ]
        results[title, name] = [value for value, _ in values]
        axes.errorbar(
            evaluations,
            [max(value, 1e-4) for value, _ in values],
            [error for _, error in values],
            color=color,
            marker="o",
            markersize=4,
            label=name,
        )
    axes.set(xscale="log", yscale="log", xlabel="evaluations", title=title, ylim=(5e-4, 50))
    axes.set_xticks(evaluations, [str(steps) for steps in evaluations], minor=False)
    axes.minorticks_off()
flow, _ = nats(ddpm.ODE(tolerance=1e-4), denoiser, [1000])
panels[1].axhline(flow, color="black", linestyle="--")
panels[0].set_ylabel("KL(sampler || truth), nats")
panels[0].legend()
plt.show()
for (kind, name), values in results.items():
    print(f"{kind:15}{name:16}" + "".join(f"{value:8.3f}" for value in values))
print(f"{'network':15}{'its flow':16}{flow:8.3f}")
assert results["exact denoiser", "UniPC"][-1] < 0.2 * results["exact denoiser", "DDIM"][-1]

# %% [markdown]
# A higher order pays only once the steps are short enough: with five and eight evaluations DDIM is
# the best of the three. From 15 on the other two are several times better. With the network every
# value is higher, and at 50 evaluations it has not yet reached the dashed line: few steps and an
# imperfect network do more harm together than each of them alone.
#
# Spacings that are *optimised* for a number of steps do better with ten and fewer evaluations;
# `docs/samplers.md` has them, and the chart over ten seeds.
#
# ## Try it

# %%
# Try it: where does the error of DDIM come from? Halve the steps on one half of the way.
base = ddpm.sampling_times("log_snr", schedule, 16)
halves = {"near noise": range(8), "near data": range(8, 15)}
print(f"16 steps: {nats(ddpm.DDIM(eta=0), exact.denoiser, base)[0]:.3f} nats")
for name, where in halves.items():
    middle = [
        schedule.time_of_log_snr(log_snr_half(base[k]) + log_snr_half(base[k + 1])) for k in where
    ]
    times = sorted((*base, *middle), reverse=True)
    print(f"twice as many {name}: {nats(ddpm.DDIM(eta=0), exact.denoiser, times)[0]:.3f} nats")

# %%
# Try it: noise repairs. Fresh noise on the way lets later steps correct earlier errors, so that
# DPM-Solver++ with noise leaves fewer points of the *network* between the windings. Here these are
# one point and none, which proves nothing; `docs/samplers.md` has ten seeds.
lowest = exact.log_density(
    exact.sample(20_000, 0, generator=torch.Generator().manual_seed(3)), 0
).min()
times = ddpm.sampling_times("log_snr", schedule, 50)
for sampler in (ddpm.UniPC(), ddpm.DPMSolverSDE2M()):
    ends = run(sampler, denoiser, times)
    strays = (exact.log_density(ends, 0) < lowest).double().mean()
    print(f"{type(sampler).__name__:15} strays {100 * strays:.2f} %")

# %% [markdown]
# That is the end of part 1. The documentation goes on from here: `docs/samplers.md` says which
# sampler to choose, `docs/training.md` how the pipeline's network comes ten times closer to the
# truth than the one of notebook 1.3.

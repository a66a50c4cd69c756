"""Denoising diffusion of points in the plane, measured against the exact distribution.

The names below are the public API. A name is imported when it is first used, and importing `ddpm`
changes nothing in the process.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddpm.core.compute import stream as stream
    from ddpm.core.errors import UserError as UserError
    from ddpm.core.params import LossSettings as LossSettings
    from ddpm.core.params import TrainSettings as TrainSettings
    from ddpm.data.datasets import DATASETS as DATASETS
    from ddpm.data.datasets import Checkerboard as Checkerboard
    from ddpm.data.datasets import Circles as Circles
    from ddpm.data.datasets import Curves as Curves
    from ddpm.data.datasets import Gaussians as Gaussians
    from ddpm.data.datasets import Moons as Moons
    from ddpm.data.datasets import Spiral as Spiral
    from ddpm.data.datasets import SwissRoll as SwissRoll
    from ddpm.data.datasets import Tree as Tree
    from ddpm.data.scaling import Scaling as Scaling
    from ddpm.diffusion.denoiser import Denoiser as Denoiser
    from ddpm.diffusion.denoiser import with_jumps as with_jumps
    from ddpm.diffusion.guidance import GUIDANCE as GUIDANCE
    from ddpm.diffusion.guidance import guided as guided
    from ddpm.diffusion.guidance import guided_between as guided_between
    from ddpm.diffusion.predictions import PREDICTIONS as PREDICTIONS
    from ddpm.diffusion.process import diffuse as diffuse
    from ddpm.diffusion.process import posterior as posterior
    from ddpm.diffusion.process import prior_gap as prior_gap
    from ddpm.diffusion.process import q_sample as q_sample
    from ddpm.diffusion.process import q_step as q_step
    from ddpm.diffusion.schedule import Schedule as Schedule
    from ddpm.diffusion.schedules import SCHEDULES as SCHEDULES
    from ddpm.diffusion.schedules import Cosine as Cosine
    from ddpm.diffusion.schedules import Linear as Linear
    from ddpm.diffusion.schedules import ScaledLinear as ScaledLinear
    from ddpm.diffusion.schedules import Sigmoid as Sigmoid
    from ddpm.diffusion.schedules import make_schedule as make_schedule
    from ddpm.flow.likelihood import log_likelihood as log_likelihood
    from ddpm.flow.probability_flow import flow_samples as flow_samples
    from ddpm.networks.mlp import ResidualMLPSettings as ResidualMLPSettings
    from ddpm.networks.model_file import ModelDescription as ModelDescription
    from ddpm.networks.model_file import NamedSettings as NamedSettings
    from ddpm.networks.model_file import TrainedModel as TrainedModel
    from ddpm.networks.model_file import load_model as load_model
    from ddpm.networks.model_file import save_model as save_model
    from ddpm.networks.registry import NETWORKS as NETWORKS
    from ddpm.plots.style import animate as animate
    from ddpm.reference.distances import energy_distance as energy_distance
    from ddpm.reference.distances import sliced_wasserstein as sliced_wasserstein
    from ddpm.reference.distribution import ExactDistribution as ExactDistribution
    from ddpm.sampling.bespoke import BespokeSolver as BespokeSolver
    from ddpm.sampling.loop import Trajectories as Trajectories
    from ddpm.sampling.loop import draw_samples as draw_samples
    from ddpm.sampling.loop import run_sampler as run_sampler
    from ddpm.sampling.multistep import DPMSolver2M as DPMSolver2M
    from ddpm.sampling.multistep import DPMSolver3M as DPMSolver3M
    from ddpm.sampling.multistep import DPMSolverSDE2M as DPMSolverSDE2M
    from ddpm.sampling.multistep import UniPC as UniPC
    from ddpm.sampling.one_step import DDIM as DDIM
    from ddpm.sampling.one_step import DDPM as DDPM
    from ddpm.sampling.one_step import ODE as ODE
    from ddpm.sampling.one_step import Heun as Heun
    from ddpm.sampling.output_density import output_density as output_density
    from ddpm.sampling.registry import SAMPLERS as SAMPLERS
    from ddpm.sampling.spacings import SPACINGS as SPACINGS
    from ddpm.sampling.spacings import sampling_times as sampling_times
    from ddpm.training.loop import train as train
    from ddpm.training.task import Labels as Labels
    from ddpm.training.task import Task as Task

_MODULES = {
    "core.compute": ("stream",),
    "core.errors": ("UserError",),
    "core.params": ("LossSettings", "TrainSettings"),
    "data.datasets": (
        *("DATASETS", "Checkerboard", "Circles", "Curves", "Gaussians", "Moons", "Spiral"),
        *("SwissRoll", "Tree"),
    ),
    "data.scaling": ("Scaling",),
    "diffusion.denoiser": ("Denoiser", "with_jumps"),
    "diffusion.guidance": ("GUIDANCE", "guided", "guided_between"),
    "diffusion.predictions": ("PREDICTIONS",),
    "diffusion.process": ("diffuse", "posterior", "prior_gap", "q_sample", "q_step"),
    "diffusion.schedule": ("Schedule",),
    "diffusion.schedules": (
        *("SCHEDULES", "Cosine", "Linear", "ScaledLinear", "Sigmoid"),
        "make_schedule",
    ),
    "flow.likelihood": ("log_likelihood",),
    "flow.probability_flow": ("flow_samples",),
    "networks.mlp": ("ResidualMLPSettings",),
    "networks.model_file": (
        *("ModelDescription", "NamedSettings", "TrainedModel"),
        *("load_model", "save_model"),
    ),
    "networks.registry": ("NETWORKS",),
    "plots.style": ("animate",),
    "reference.distances": ("energy_distance", "sliced_wasserstein"),
    "reference.distribution": ("ExactDistribution",),
    "sampling.bespoke": ("BespokeSolver",),
    "sampling.loop": ("Trajectories", "draw_samples", "run_sampler"),
    "sampling.multistep": ("DPMSolver2M", "DPMSolver3M", "DPMSolverSDE2M", "UniPC"),
    "sampling.one_step": ("DDIM", "DDPM", "ODE", "Heun"),
    "sampling.output_density": ("output_density",),
    "sampling.registry": ("SAMPLERS",),
    "sampling.spacings": ("SPACINGS", "sampling_times"),
    "training.loop": ("train",),
    "training.task": ("Labels", "Task"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__

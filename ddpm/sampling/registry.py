"""Samplers by name.

To add a sampler, write a class with its settings as fields and one method: `step` of `Sampler`, or
`advance` of `Multistep`. Enter it here, and give its settings under `samplers` in params.yaml.
"""

from ddpm.sampling.multistep import DPMSolver2M, DPMSolver3M, DPMSolverSDE2M, UniPC
from ddpm.sampling.one_step import DDIM, DDPM, ODE, Heun
from ddpm.sampling.sampler import Sampler

SAMPLERS: dict[str, type[Sampler]] = {
    "ddpm": DDPM,
    "ddim": DDIM,
    "heun": Heun,
    "dpmpp_2m": DPMSolver2M,
    "dpmpp_3m": DPMSolver3M,
    "dpmpp_2m_sde": DPMSolverSDE2M,
    "unipc": UniPC,
    "ode": ODE,
}

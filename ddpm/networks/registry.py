"""Networks by name.

To add a network, write a module with its settings and its class like `ddpm.networks.mlp`, enter the
settings here, and give their values under `networks` in params.yaml.
"""

from ddpm.networks.mlp import ResidualMLPSettings
from ddpm.networks.network import NetworkSettings

NETWORKS: dict[str, type[NetworkSettings]] = {
    "mlp": ResidualMLPSettings,
}

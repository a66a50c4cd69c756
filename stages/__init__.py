"""The pipeline's stages, thin scripts run as `python -m stages.NAME` from the project's root."""

import ddpm  # noqa: F401 - before any stage's own imports: it pins the arithmetic before torch loads

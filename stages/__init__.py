"""The pipeline's stages, thin scripts run as `python -m stages.NAME` from the project's root."""

import hashlib
from pathlib import Path

# Before any of it is imported: what is edited later is not what runs.
CODE = {
    path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
    for folder in ("ddpm", "stages")
    for path in sorted(Path(folder).glob("*.py"))
}

# Before any stage's own imports: it pins the arithmetic before torch loads.
import ddpm  # noqa: E402, F401

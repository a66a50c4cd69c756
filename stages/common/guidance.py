"""The kind of guidance that pipelines/guidance/params.yaml names."""

from ddpm.core.params import GuidanceParams
from ddpm.core.settings import choose, validate
from ddpm.diffusion.guidance import GUIDANCE, Guidance


def guidance_of(params: GuidanceParams) -> Guidance:
    """Build the guidance from its kind and the values that this kind uses.

    Raises:
        UserError: If the kind is unknown, or a value is not allowed.
    """
    kind = choose("guidance.kind", params.guidance.kind, GUIDANCE)
    values = params.guidance.model_dump(include=set(kind.model_fields))
    return validate(kind, values, "guidance")

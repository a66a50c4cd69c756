"""Points of a file, whose distribution is not known."""

from ddpm.core.settings import Settings
from ddpm.data.datasets import DATASETS, Dataset


class PointFile(Settings):
    """A file of points, in the place of a data set whose distribution is known.

    Attributes:
        path: The file, relative to the folder of the pipeline.
        classes: Names of the labels, in the order of their numbers. They come from the file, and a
            model keeps them; params.yaml leaves them out.
    """

    path: str
    classes: tuple[str, ...] = ()


# Everything that a model can be trained on.
SOURCES: dict[str, type[Dataset] | type[PointFile]] = {**DATASETS, "file": PointFile}

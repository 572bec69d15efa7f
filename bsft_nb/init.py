"""BootstrapFinetune for Jupyter: turn a prompted DSPy program into a small local model."""

__version__ = "0.1.0"

from bsft_nb.engine import local_lm
from bsft_nb.formats import StudentAdapter
from bsft_nb.loading import attach, load
from bsft_nb.teleprompter import BootstrapFinetune

__all__ = ["BootstrapFinetune", "StudentAdapter", "attach", "load", "local_lm"]

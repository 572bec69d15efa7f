"""BootstrapFinetune for Jupyter: turn a prompted DSPy program into a small local model."""

__version__ = "0.1.0"

from bsft_nb.engine.lm import local_lm
from bsft_nb.models.student_adapter import StudentAdapter
from bsft_nb.optimizer.loading import attach, load
from bsft_nb.optimizer.teleprompter import BootstrapFinetune
from bsft_nb.routing.make import cascade
from bsft_nb.run.frontend import frontend

__all__ = ["BootstrapFinetune", "StudentAdapter", "attach", "cascade", "load", "local_lm"]


def load_ipython_extension(shell):
    "`%load_ext bsft_nb`: the magics `%bsft` and `%%bsft`."
    from bsft_nb.notebook.magics import load_ipython_extension

    load_ipython_extension(shell)


def unload_ipython_extension(shell):
    "`%unload_ext bsft_nb`."
    from bsft_nb.notebook.magics import unload_ipython_extension

    unload_ipython_extension(shell)


if frontend():  # a kernel: runs are shown as panels and pictures
    from bsft_nb.notebook import progress_panel  # noqa: F401

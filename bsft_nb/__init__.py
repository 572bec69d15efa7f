"""BootstrapFinetune for Jupyter: turn a prompted DSPy program into a small local model."""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING

from bsft_nb.run.frontend import frontend

if TYPE_CHECKING:
    from bsft_nb.data.inputs import more_inputs
    from bsft_nb.engine.lm import local_lm
    from bsft_nb.launchers.ray import Ray
    from bsft_nb.launchers.torchrun import TorchRun
    from bsft_nb.models.student_adapter import StudentAdapter
    from bsft_nb.optimizer.loading import attach, load
    from bsft_nb.optimizer.teleprompter import BootstrapFinetune
    from bsft_nb.launchers.predict import predict
    from bsft_nb.routing.make import cascade

__all__ = ["BootstrapFinetune", "Ray", "StudentAdapter", "TorchRun", "attach", "cascade", "load", "local_lm", "more_inputs", "predict"]
_HOMES = {  # imported when it is asked for: a Jupyter server that shows runs needs no DSPy
    "BootstrapFinetune": "bsft_nb.optimizer.teleprompter",
    "StudentAdapter": "bsft_nb.models.student_adapter",
    "attach": "bsft_nb.optimizer.loading",
    "load": "bsft_nb.optimizer.loading",
    "cascade": "bsft_nb.routing.make",
    "local_lm": "bsft_nb.engine.lm",
    "more_inputs": "bsft_nb.data.inputs",
    "predict": "bsft_nb.launchers.predict",
    "Ray": "bsft_nb.launchers.ray",
    "TorchRun": "bsft_nb.launchers.torchrun",
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'bsft_nb' has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(_HOMES[name]), name))


def __dir__():
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell):
    "`%load_ext bsft_nb`: the magics `%bsft` and `%%bsft`."
    from bsft_nb.notebook.magics import load_ipython_extension

    load_ipython_extension(shell)


def unload_ipython_extension(shell):
    "`%unload_ext bsft_nb`."
    from bsft_nb.notebook.magics import unload_ipython_extension

    unload_ipython_extension(shell)


def _jupyter_server_extension_points():
    "What a Jupyter server loads: see `bsft_nb.lab.server`."
    return [{"module": "bsft_nb.lab.server"}]


if frontend():  # a kernel: runs are shown as panels and pictures, and a stop as a card
    from IPython import get_ipython

    from bsft_nb.notebook import progress_panel  # noqa: F401
    from bsft_nb.notebook.stops import quiet_stops

    quiet_stops(get_ipython())

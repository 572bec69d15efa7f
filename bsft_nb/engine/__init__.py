"""The student's engine. Saved programs name it `bsft_nb.engine:StudentEngine`, so that path is a file format."""


def __getattr__(name):  # lazily: a program's file names the class, and the modules beside it need no torch
    if name in ("StudentEngine", "AsyncStudentEngine"):
        from . import lm

        return getattr(lm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The command `bsft`. Its parts are imported when it is called, so that each of them can be used by itself."""


def __getattr__(name):  # lazily: `bsft_nb.cli:main` is the entry point
    if name == "main":
        from .entry import main

        return main
    if name == "status_lines":
        from .screen import status_lines

        return status_lines
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

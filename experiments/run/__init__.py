"""What every run needs, whatever it is about: command line, folder, loop, batches, pictures.

`experiments.run.load(folder)` gives back what a run has trained.
"""

from experiments.run.saved import Run, load

__all__ = ["Run", "load"]

"""The experiments of three papers, one folder a paper, on top of `fmjax`.

`python -m experiments` lists them; `python -m experiments.PAPER.NAME --help` explains the options
of one. An experiment is one file that reads from top to bottom like its section of the paper. Its
workshop (measures, tables, pictures) lies beside it behind an underscore. `run` is what every run
needs, `images` what runs on images share.
"""

from importlib import util

PAPERS = ("uncertainty", "fdm", "closed_form")
"""The folders of the papers, in the order in which they are listed."""

_NEEDED = ("etils", "matplotlib", "orbax", "PIL", "sklearn", "tensorflow_datasets", "tqdm", "tyro")
if _MISSING := [name for name in _NEEDED if util.find_spec(name) is None]:
    _MESSAGE = (
        f"the experiments need {', '.join(_MISSING)}, which the library alone does not: in the "
        'root of the repository run pip install -e ".[experiments]".'
    )
    raise ImportError(_MESSAGE)

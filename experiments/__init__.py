"""One module per published experiment, on top of `fmjax` and one shared training loop.

`python -m experiments.<name> --help` lists the options of an experiment. `cli`, `data` and
`loop` are what all of them share; an experiment imports no other experiment.
"""

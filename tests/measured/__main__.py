"""Writes docs/measured.md: `python -m tests.measured`, or some groups of it by their names."""

import sys

from tests.measured import page

if __name__ == "__main__":
    page.main(sys.argv[1:])

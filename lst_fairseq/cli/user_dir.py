"""Print what to give as fairseq's --user-dir, wherever the package is installed.

example:
  fairseq-train DATA --user-dir $(lst user-dir) --task lst_st ...
"""

import argparse
from pathlib import Path

import lst_fairseq


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``lst user-dir`` has no flags."""


def run(args: argparse.Namespace) -> None:
    """Print the package's folder."""
    print(Path(lst_fairseq.__file__).resolve().parent)

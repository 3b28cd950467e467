#!/usr/bin/env python3
"""Turn a sharded checkpoint into a whole one, or a whole one into a sharded one; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.checkpoints.conversion import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m lst_fairseq.cli``: the command ``lst`` of this interpreter."""

import sys

from lst_fairseq.cli.main import main

sys.exit(main())

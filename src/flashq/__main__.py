"""`python -m flashq`: the command line."""

import sys

from flashq.cli.main import main

sys.exit(main())

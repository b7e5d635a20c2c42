"""`python -m platform_tools`."""

import sys

from platform_tools.main import main

sys.exit(main())

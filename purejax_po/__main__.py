"""`python -m purejax_po` is the command `purejax-po`."""

import sys

from purejax_po.cli import main

sys.exit(main())

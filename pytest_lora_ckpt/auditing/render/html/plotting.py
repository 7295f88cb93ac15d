"""What of pygal is used, without what it does to a process: it leaves finders for its plug-ins in `sys.meta_path`.

Every import of the process would go through them, and on Python before 3.12 warn that they are of an old kind.
"""

import sys

_FINDERS = [*sys.meta_path]

from pygal import Line as Line  # noqa: E402  # Between the two.
from pygal.style import Style as Style  # noqa: E402

sys.meta_path[:] = _FINDERS

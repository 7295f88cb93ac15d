"""What of pygal is used, without the finder for its plug-ins, which it leaves in `sys.meta_path`.

Every import of the process would go through it, and on Python before 3.12 warn that it is of an old kind.
"""

import sys

from pygal import Line
from pygal.style import Style

__all__ = ["Line", "Style"]

sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]

"""Does a deployed site really stream, through every proxy between it and the user?

As in any measuring there are three parts: `watch` collects what a client sees, `checks` judges it, and the management
command `probe` prints it. `remedies` holds the lines to put into the configuration of whoever is in the way. The
checks know the contract of this app; of any other event stream they check what is true of all.
"""

from .checks import Finding, Level, judge
from .survey import NotAStream, Survey, survey

__all__ = ["Finding", "Level", "NotAStream", "Survey", "judge", "survey"]

"""Which endpoints of a site are polled, by what the site has already: an access log, or a HAR saved from the browser.

Three parts: `reading` makes requests of files (`lines` and `har` know the formats), `recognising` finds those that
clients repeat at a steady pace (`rhythm` judges times, `visitors` knows paths and user agents), and `telling` says
what was found, with what streaming would take (`formula`) and the code to write (`code`). Memory is bounded whatever
the size of the log.
"""

from .reading import Progress, Unreadable, read
from .recognising import Findings, Polled, recognise
from .telling import as_json, as_text

__all__ = ["Findings", "Polled", "Progress", "Unreadable", "as_json", "as_text", "read", "recognise"]

"""Advances searches: history → designer → trials and jobs.

`stepping` does one step of one search, `hands` are the processes in which steps are done, `scheduling` shares the
searches with other controllers and decides which step is next.
"""

from service.controller.scheduling import Controller, run_controller
from service.controller.stepping import Mismatch, Stepper

__all__ = ["Controller", "Mismatch", "Stepper", "run_controller"]

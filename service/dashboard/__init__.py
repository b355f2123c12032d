"""Pages for people: studies, fronts, trials, architectures and workers, rendered on the server and live by events."""

from service.dashboard.pages import router

__all__ = ["router"]

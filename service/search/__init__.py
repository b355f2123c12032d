"""Designers: history in, suggestions out. `service.search.ask` asks them; the designers are plug-ins."""

from service.search.designer import Designer, FitRequest, Suggestion, Suggestions

__all__ = ["Designer", "FitRequest", "Suggestion", "Suggestions"]

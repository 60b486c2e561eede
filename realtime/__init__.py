"""One live key space over the stores that people already have. See docs/ for the idea, `realtime.app` for its parts."""

__version__ = "0.1.0"

"""What a run tells: metrics, progress, events for machines, and the report for people."""

from hpcnk.report.comparison import comparison_csv, comparison_plot, misfit_of_comparison
from hpcnk.report.document import markdown
from hpcnk.report.events import EventLog
from hpcnk.report.metrics import better, score
from hpcnk.report.progress import Progress
from hpcnk.report.shape import misfit_of_report, misfit_of_results
from hpcnk.report.text import mute, printable, speak
from hpcnk.report.units import count, duration, passes, size

__all__ = [
    "EventLog",
    "Progress",
    "better",
    "comparison_csv",
    "comparison_plot",
    "count",
    "duration",
    "markdown",
    "misfit_of_comparison",
    "misfit_of_report",
    "misfit_of_results",
    "mute",
    "passes",
    "printable",
    "score",
    "size",
    "speak",
]

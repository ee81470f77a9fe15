"""Figures of studies and trials, as plotly figures to show, change or save."""

from __future__ import annotations

from nestor.visualization.courses import plot_diagnostics, plot_optimization_history, plot_timeline, plot_trial
from nestor.visualization.hyperparameters import (
    plot_hyperparameter_bands,
    plot_hyperparameter_histograms,
    plot_images,
)
from nestor.visualization.studies import plot_intermediate_values, plot_parallel_coordinate

__all__ = [
    "plot_diagnostics",
    "plot_hyperparameter_bands",
    "plot_hyperparameter_histograms",
    "plot_images",
    "plot_intermediate_values",
    "plot_optimization_history",
    "plot_parallel_coordinate",
    "plot_timeline",
    "plot_trial",
]

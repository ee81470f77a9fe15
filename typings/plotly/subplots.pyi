from collections.abc import Sequence

from plotly.graph_objects import Figure

def make_subplots(
    *,
    rows: int,
    cols: int,
    shared_xaxes: bool = False,
    subplot_titles: Sequence[str],
    horizontal_spacing: float = ...,
    vertical_spacing: float = ...,
) -> Figure: ...

"""The part of plotly that Nestor uses. plotly itself has no annotations."""

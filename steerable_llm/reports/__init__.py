"""Pages, figures and heatmaps."""

"""Reports: pages of parts, their renderers, how numbers are said, figures and heatmaps."""

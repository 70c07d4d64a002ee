"""Ways in which collections are written down."""

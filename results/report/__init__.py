"""The board as HTML, CSV, LaTeX and Markdown, and boards that are committed."""

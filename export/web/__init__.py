"""Engines as static pages that draw in a browser: `site.py` writes one, `page/` is what a site holds as it is."""

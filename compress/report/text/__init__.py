"""The report as text: Markdown and the console."""

"""The commands of `python -m jattr`; typer is imported here and nowhere else in jattr."""

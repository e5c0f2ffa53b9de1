"""Pictures of the protocol, made from the code's own tables: as text and as SVG.

`python -m tests.pictures` writes the text into docstrings and the SVG files into
`wsproto_min/pictures/`. `python -m tests.pictures --check` compares them.
"""

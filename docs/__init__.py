"""What the code is, in words. Pages about closed vocabularies are generated: `python -m docs.generate`.

The generator lives beside its pages and not in `cli`, because it reads every room, which the shipped command may not, and because
users of the package have no need of it.
"""

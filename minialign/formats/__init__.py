"""Data files as records: many formats, one reader each; standard library only.

``problems``, ``fields`` and ``transcripts`` check values; ``demonstrations`` and ``preferences``
hold the readers, ``table`` the list of formats, ``advice`` what to say of a row that fits none;
``containers``, ``json_stream`` and ``folders`` find the rows in files; ``reading`` puts them
together. ``kinds`` makes one kind of record from another; ``findings`` counts what a good row may
still have wrong; ``measures`` counts and measures.
"""

from minialign.formats.kinds import KINDS, as_kind
from minialign.formats.problems import Problem
from minialign.formats.reading import Item, Read, read, stream
from minialign.formats.table import FORMATS

__all__ = ["FORMATS", "KINDS", "Item", "Problem", "Read", "as_kind", "read", "stream"]

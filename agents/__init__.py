"""Searchers: who chooses the next policies. One public class per file, named in jobs by the file.

A file that would shadow a well-known module takes a suffix: `random_search.py` answers to
`random`. Files that start with `_` hold what families share.
"""

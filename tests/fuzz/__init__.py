"""Coverage-guided fuzzing of all code that parses input from a peer.

Each target is a module with two functions. `check` takes any bytes and raises only on a
bug: an undocumented exception, or a difference between two implementations that must
agree. `seeds` yields the first inputs. The first bytes of an input choose options, so that
the fuzzer finds all combinations.

`__main__` runs a target with `atheris`, which measures the coverage of each input.
`tests/test_fuzz_corpus.py` replays seeds and `corpus/` with pytest alone.
This package imports nothing of `wsproto_min`, because `atheris` sees only later imports.
"""

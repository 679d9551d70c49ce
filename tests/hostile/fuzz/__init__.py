"""A fuzzer of the command line: seeded mutations of everything that users hand in, each judged.

    PYTHONPATH=tests/hostile python -m fuzz --count 50000 --seed 0

`kinds` holds one file for each kind of input. A case is made from a seed, its kind and its number alone, so each
failure can be made again. Four outcomes are faults: a traceback (any exit that is not 0, 1 with a breach, or 2 with one
line), a hang, memory above a bound, and a wrong success, as the kind itself defines it.
"""

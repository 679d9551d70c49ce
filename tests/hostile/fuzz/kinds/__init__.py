"""A kind of input: each file has `mutate(random, corpus, room)`, which writes mutated files and gives the case."""

# How many cases of each kind stand beside those of the others.
KINDS = {
    "recipes": 6,
    "gates": 2,
    "tokens": 4,
    "checkpoints": 5,
    "golden": 1,
    "engines": 5,
    "graphs": 1,  # a foreign graph is first tried in a process of its own, which takes a second
    "pictures": 4,
    "reports": 2,
    "stores": 2,
    "commands": 6,
}

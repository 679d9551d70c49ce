"""How far a model's outputs are from the reference's."""

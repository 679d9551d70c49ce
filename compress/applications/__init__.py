"""Applications of a model that draws with kept tokens: variations, outpainting and upscaling of a given picture.

Each is a file with one function, which takes an open model, a picture and what is to be drawn (`compress.data.wish`),
and returns pictures. `asked.py` reads what a user gives them; `canvas.py` draws pictures larger than the model's.
"""

"""Many pictures of one engine, drawn by many workers into shards: `generate.draw_shards`.

Picture i is a function of the job and of i alone: its label, its noise, and the pictures that are drawn beside it
(`job.py`). So neither the number of workers, nor an accident, nor the size of the shards changes a byte of it.
"""

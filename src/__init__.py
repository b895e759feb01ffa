"""Does a trained transformer run the program a human would have written for its task?"""

__version__ = "0.1.0"

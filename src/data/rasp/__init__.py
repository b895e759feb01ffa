"""RASP programs taken apart: text, names, cuts, and a hash of what they compute."""

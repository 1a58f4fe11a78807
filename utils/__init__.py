"""The rooms of the house: see README.md, 'How the code is laid out'."""

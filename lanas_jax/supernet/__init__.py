"""One network that holds all networks of a space: its training, and the values of the parts that codes pick."""

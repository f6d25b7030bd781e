"""How good a judge or a scorer is: accuracy against people, agreement, biases."""

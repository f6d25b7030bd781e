"""Statistics of comparisons: NumPy only, no models and no files.

``bootstrap`` (intervals), ``logistic`` (the one fit), ``bradley_terry`` (abilities from games),
``length_control`` (AlpacaEval 2), ``agreement`` (accuracy, kappa, human ceiling), ``bias`` (place,
length, self), ``calibration``, ``styles`` (the style matrix).
"""

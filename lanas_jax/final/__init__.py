"""Training one network as published results are trained, and handing its weights out."""

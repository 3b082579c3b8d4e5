"""Training of many candidates: layout on devices, strategies, cost model, successive halving."""

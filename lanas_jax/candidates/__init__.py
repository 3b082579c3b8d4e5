"""Training of many candidates: layout on devices, plans, cost model, successive halving."""

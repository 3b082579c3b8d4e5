"""Many short trainings in one program: layout on devices, plans, cost model, halving."""

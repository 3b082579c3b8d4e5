"""Supernets: one network that contains all networks of a space. Its training and the values of its subnetworks."""

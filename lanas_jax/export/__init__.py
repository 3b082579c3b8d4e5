"""Trained weights handed out and read back."""

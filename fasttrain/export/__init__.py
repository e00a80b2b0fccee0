"""Stages as runs of TensorBoard, Weights & Biases and MLflow, and as tables of CSV and LaTeX."""

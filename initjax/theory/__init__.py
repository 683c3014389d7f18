"""The theory of signal propagation: numbers in, numbers out."""
